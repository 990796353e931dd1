//! What browsers are shown where a page or a form is refused before its handler: a page of its
//! kind, and not the API's JSON.

use std::sync::Arc;

use axum::response::Response;

use crate::console;
use crate::portal::Look;
use crate::server::layers::checks::Pages;
use crate::server::problem::Problem;
use crate::server::routes::Access;

pub struct RefusedPages(pub Arc<Look>);

impl Pages for RefusedPages {
    fn refused(&self, access: Access, problem: &Problem) -> Response {
        match access {
            Access::Console => console::refused(problem.clone()),
            _ => self.0.refused(None, problem),
        }
    }
}
