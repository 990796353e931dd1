//! The request that an action receives, and the route table.

use axum::http::Method;
use serde_json::Value;

use crate::error::ApiError;
use crate::list::{self, Page};
use crate::params::Params;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;

/// A request that has passed authentication, faults and idempotency.
#[derive(Debug)]
pub struct Call<'a> {
    pub state: &'a mut State,
    /// The parameters of query and body, without `expand`.
    pub params: Params,
    /// The ids in the path, in order.
    pub ids: Vec<String>,
    /// The shape of the response.
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

    /// The parameters. The action must call [`Params::finish`] before it
    /// changes anything.
    pub fn take_params(&mut self) -> Params {
        std::mem::take(&mut self.params)
    }

    /// For actions without parameters: refuses any.
    pub fn no_params(&mut self) -> Result<(), ApiError> {
        self.take_params().finish()
    }

    /// The object with this id, in the shape of the request.
    pub fn render(&self, id: &str) -> Result<Value, ApiError> {
        self.state
            .render(id, self.shape)
            .ok_or_else(|| ApiError::no_such("object", id, "id"))
    }

    /// One page of a list, with each object rendered by its id.
    pub fn render_page<'b, T: Keyed + 'b>(
        &self,
        page: &Page,
        kind: &str,
        url: &str,
        newest_first: impl Iterator<Item = &'b T>,
        filter: impl Fn(&T) -> bool,
    ) -> Result<Value, ApiError> {
        let (objects, has_more) = page.select(kind, newest_first, filter)?;
        let data = objects
            .into_iter()
            .map(|object| self.render(object.id()))
            .collect::<Result<_, _>>()?;
        Ok(list::object(data, has_more, url))
    }
}

/// The function behind a route.
pub type Action = fn(&mut Call<'_>) -> Result<Value, ApiError>;

/// One entry of a resource's route table.
#[derive(Debug, Clone)]
pub struct Route {
    pub method: Method,
    /// The path, with ids as `{id}`.
    pub path: &'static str,
    pub action: Action,
}

#[must_use]
pub const fn get(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::GET,
        path,
        action,
    }
}

#[must_use]
pub const fn post(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::POST,
        path,
        action,
    }
}

#[must_use]
pub const fn delete(path: &'static str, action: Action) -> Route {
    Route {
        method: Method::DELETE,
        path,
        action,
    }
}
