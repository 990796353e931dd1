//! One request, as an action of a resource sees it, and the table of routes.

use axum::http::Method;
use serde_json::Value;

use crate::error::ApiError;
use crate::list::{self, Page};
use crate::params::Params;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// A request that passed authentication, faults and idempotency.
#[derive(Debug)]
pub struct Call<'a> {
    /// Everything the sandbox knows.
    pub state: &'a mut State,
    /// Parameters of query and body, `expand` taken out.
    pub params: Params,
    /// The ids in the path, in order.
    pub ids: Vec<String>,
    /// The shape that the answer takes.
    pub shape: Shape,
    /// The API version of the request.
    pub version: String,
}

impl Call<'_> {
    /// The first id in the path.
    #[must_use]
    pub fn id(&self) -> String {
        self.ids.first().cloned().unwrap_or_default()
    }

    /// The parameters; the action must call [`Params::finish`] on them before
    /// it changes anything.
    pub fn take_params(&mut self) -> Params {
        std::mem::take(&mut self.params)
    }

    /// For actions without parameters.
    pub fn no_params(&mut self) -> Result<(), ApiError> {
        self.take_params().finish()
    }

    /// An object in the request's shape.
    pub fn render(&self, id: &str) -> Result<Value, ApiError> {
        self.state
            .render(id, self.shape)
            .ok_or_else(|| ApiError::no_such("object", id, "id"))
    }

    /// One page of objects, rendered by id.
    pub fn render_page<'b, T: Keyed + 'b>(
        &self,
        page: &Page,
        kind: &str,
        url: &str,
        newest_first: impl Iterator<Item = &'b T>,
        filter: impl Fn(&T) -> bool,
    ) -> Result<Value, ApiError> {
        let (objects, has_more) = page.cut(kind, newest_first, filter)?;
        let data = objects
            .into_iter()
            .map(|object| self.render(object.id()))
            .collect::<Result<_, _>>()?;
        Ok(list::object(data, has_more, url))
    }
}

/// What a route does.
pub type Action = fn(&mut Call<'_>) -> Result<Value, ApiError>;

/// One line of a resource's table of routes.
#[derive(Debug, Clone)]
pub struct Route {
    /// HTTP method.
    pub method: Method,
    /// Path, with `{id}` for ids.
    pub path: &'static str,
    /// What it does.
    pub action: Action,
}

/// A `GET` route.
#[must_use]
pub const fn get(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::GET,
        path,
        action,
    }
}

/// A `POST` route.
#[must_use]
pub const fn post(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::POST,
        path,
        action,
    }
}

/// A `DELETE` route.
#[must_use]
pub const fn delete(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::DELETE,
        path,
        action,
    }
}
