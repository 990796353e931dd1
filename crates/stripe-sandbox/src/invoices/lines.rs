//! The lines of an invoice, page by page.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::list::{self, Page};

/// `GET /v1/invoices/{id}/lines`, for previews as well.
pub fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    params.finish()?;
    let id = call.id();
    let preview = call.state.previews.iter().find(|preview| preview.id == id);
    let invoice = match preview {
        Some(preview) => preview,
        None => call.state.invoice(&id)?,
    };
    let (lines, has_more) = page.select("line item", invoice.lines.iter(), |_| true)?;
    let data = lines
        .into_iter()
        .map(|line| invoice.render_line(line, call.state, call.shape))
        .collect();
    Ok(list::object(
        data,
        has_more,
        &format!("/v1/invoices/{id}/lines"),
    ))
}
