//! Parts of a page that change while somebody looks. The script fetches them again until they
//! are settled, unless it is told to pause; without it, a link shows the page anew.

use std::sync::LazyLock;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::{Bar, Block, Frame, answer};
use crate::console::session::Signed;

const SCRIPT: &str = include_str!("../templates/console.js");
pub const PATH: &str = "/console/assets/console.js";

/// The policy of pages with such parts: our script runs, and asks this host alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'; \
                      style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// The script's address, another one for another script.
static VERSIONED: LazyLock<String> = LazyLock::new(|| {
    let digest = hex::encode(&Sha256::digest(SCRIPT)[..6]);
    format!("{PATH}?v={digest}")
});

pub async fn script() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    (headers, SCRIPT).into_response()
}

pub struct Live {
    /// Where it is found as it is now; none once it is settled.
    pub address: Option<String>,
    /// The page that it is on.
    pub again: String,
    /// What the link there is called.
    pub label: &'static str,
    pub blocks: Vec<Block>,
}

#[derive(Template)]
#[template(path = "blocks.html")]
struct Blocks<'a> {
    frame: &'a Frame,
    blocks: &'a [Block],
}

impl Live {
    pub fn html(&self, frame: &Frame) -> String {
        let blocks = Blocks {
            frame,
            blocks: &self.blocks,
        };
        blocks.render().unwrap_or_default()
    }

    /// The part alone, for the script.
    pub fn answer(self, signed: &Signed) -> Response {
        let mut frame = Frame::of("");
        frame.visitor = Some(signed.visitor());
        let blocks = [Block::Live(self)];
        let part = Blocks {
            frame: &frame,
            blocks: &blocks,
        };
        answer(StatusCode::OK, &part)
    }
}

impl Block {
    pub(super) fn is_live(&self) -> bool {
        matches!(
            self,
            Self::Live(Live {
                address: Some(_),
                ..
            })
        )
    }
}

impl Frame {
    pub fn is_live(&self) -> bool {
        self.live
    }

    pub fn script(&self) -> &str {
        &VERSIONED
    }
}

/// Lets the script of the page run.
pub(super) fn allowed(mut response: Response) -> Response {
    let policy = HeaderValue::from_static(POLICY);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}
