//! The table of routes: a route's path, method and description, who may call
//! it, and which limits it has, in one entry beside its handler.
//!
//! A feature lists its routes with [`Routes`], and `app::api` collects them. The
//! layers are given the entry of the route that a request matched; none of them
//! knows a path.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use axum::routing::MethodRouter;
use utoipa::ToSchema;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{RefOr, Required, Response};
use utoipa_axum::router::UtoipaMethodRouter;

pub use super::access::{Access, Permission};

/// Until the answer begins, not until it ends.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// Which of a credential's rate limits requests count against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateClass {
    Api,
    /// What a product calls for each of its users' requests.
    Usage,
    /// The same, counted by the event: the handler says how many there are.
    UsageEvents,
}

/// Which part of what one organization may have under way a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    Reads,
    Changes,
    /// Changes of organizations by a service key, which has many of them.
    Organizations,
    Previews,
    Usage,
    /// Reads, but for those answered with CSV, which pages that have this always are.
    Exports,
    /// Exports, whatever the request accepts.
    Downloads,
    /// Reads of states, which wait for a change.
    States,
    /// None: it holds nothing of ours while others answer it.
    Free,
}

/// What becomes of an `Idempotency-Key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// The answer is kept, and given again.
    Kept,
    /// The same, for an answer that is passed on while it is copied.
    Copied,
    /// That it was done is kept, not the answer: it has a secret that is shown once.
    Secret,
    /// Nothing: the headers are those of a proxy's client.
    Ignored,
}

/// Whose requests a route answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Own,
    /// They are forwarded: query, body and answer are the upstream's.
    Forwarded,
    /// A proxy asks whether to let one pass: headers and method are its client's.
    ForwardAuth,
}

/// What holds for a route, besides what its description says.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    access: Access,
    kind: Kind,
    rate: RateClass,
    /// None: by the method.
    share: Option<Share>,
    time_limit: Option<Duration>,
    idempotency: Idempotency,
    negotiates: bool,
    long_headers: bool,
    checked: bool,
}

impl Rules {
    pub const fn of(access: Access) -> Self {
        Self {
            access,
            kind: Kind::Own,
            rate: RateClass::Api,
            share: None,
            time_limit: Some(TIME_LIMIT),
            idempotency: Idempotency::Kept,
            negotiates: true,
            long_headers: false,
            checked: true,
        }
    }

    /// Counts against the rate limit of usage.
    pub const fn metered(self, rate: RateClass) -> Self {
        Self {
            rate,
            share: Some(Share::Usage),
            ..self
        }
    }

    pub const fn share(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Answers whatever `Accept` says.
    pub const fn any_accept(mut self) -> Self {
        self.negotiates = false;
        self
    }

    /// A request may wait this long before it is answered.
    pub const fn waiting(mut self, wait: Duration) -> Self {
        self.time_limit = Some(TIME_LIMIT.saturating_add(wait));
        self
    }

    /// Answers with a secret, which is shown once and kept nowhere.
    pub const fn secret(mut self) -> Self {
        self.idempotency = Idempotency::Secret;
        self
    }

    /// Takes longer headers than others.
    pub const fn long_headers(mut self) -> Self {
        self.long_headers = true;
        self
    }

    /// Stands apart from all checks, and makes its own.
    pub const fn unchecked(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Calls are forwarded to an upstream, and take as long as it takes.
    pub const fn forwarded(self) -> Self {
        Self {
            kind: Kind::Forwarded,
            rate: RateClass::Usage,
            share: Some(Share::Free),
            time_limit: None,
            idempotency: Idempotency::Copied,
            negotiates: false,
            ..self
        }
    }

    /// Answers a proxy about its client's request.
    pub const fn forward_auth(self) -> Self {
        Self {
            kind: Kind::ForwardAuth,
            rate: RateClass::Usage,
            share: Some(Share::Usage),
            idempotency: Idempotency::Ignored,
            negotiates: false,
            ..self
        }
    }
}

pub const fn public() -> Rules {
    Rules::of(Access::Public)
}

/// For a tenant's users and keys with this permission.
pub const fn tenant(permission: Permission) -> Rules {
    Rules::of(Access::Tenant(permission))
}

/// The same for organizations that each part of the body may name.
pub const fn each_tenant(permission: Permission) -> Rules {
    Rules::of(Access::EachTenant(permission))
}

/// For service keys with this permission.
pub const fn service(permission: Permission) -> Rules {
    Rules::of(Access::Service(permission))
}

pub const fn operator() -> Rules {
    Rules::of(Access::Operator)
}

/// An entry of the table.
pub struct Route {
    /// None: every method.
    pub method: Option<Method>,
    /// As the router has it: `/invoices/{id}`.
    pub path: String,
    pub access: Access,
    pub kind: Kind,
    pub rate: RateClass,
    pub share: Share,
    /// None: as long as it takes.
    pub time_limit: Option<Duration>,
    pub idempotency: Idempotency,
    /// Longer headers than others take are let in.
    pub long_headers: bool,
    /// The media types of its answers, best first; empty: `Accept` is not read.
    pub produces: Vec<String>,
    /// The media types of its bodies; empty: `Content-Type` is not read.
    pub consumes: Vec<String>,
    /// Whether a request may come without a body.
    pub body_optional: bool,
    /// The parameters of its query; None: the query is not ours to check.
    pub query: Option<BTreeSet<String>>,
    /// None: the API's description does not have it.
    pub operation: Option<Operation>,
    checked: bool,
}

impl Route {
    fn new(
        method: Option<Method>,
        path: String,
        operation: Option<Operation>,
        rules: Rules,
    ) -> Self {
        let reads = method == Some(Method::GET);
        let by_method = if reads { Share::Reads } else { Share::Changes };
        let own = rules.checked && rules.kind == Kind::Own;
        let described = operation.as_ref();
        Self {
            path,
            access: rules.access,
            kind: rules.kind,
            rate: rules.rate,
            share: rules.share.unwrap_or(by_method),
            time_limit: rules.time_limit,
            idempotency: rules.idempotency,
            long_headers: rules.long_headers,
            produces: described
                .filter(|_| rules.negotiates && rules.checked)
                .map(produced)
                .unwrap_or_default(),
            consumes: described.filter(|_| own).map(consumed).unwrap_or_default(),
            body_optional: described.is_some_and(is_body_optional),
            query: described
                .filter(|_| own && rules.access.needs_credential())
                .map(parameters),
            method,
            operation,
            checked: rules.checked,
        }
    }

    /// Whether requests of this path are for it. Of templates, those that end
    /// in `{*rest}` are understood.
    pub fn covers(&self, path: &str) -> bool {
        match self.path.strip_suffix("{*rest}") {
            Some(above) => path
                .strip_prefix(above)
                .is_some_and(|rest| !rest.is_empty()),
            None => self.path == path,
        }
    }

    /// The part of all paths that it is in: `/api/billing`, `/healthz`.
    pub fn room(&self) -> String {
        let depth = if self.path.starts_with("/api/") { 3 } else { 2 };
        let parts: Vec<&str> = self.path.split('/').take(depth).collect();
        parts.join("/")
    }

    #[cfg(test)]
    pub fn of(method: Method, rules: Rules) -> Self {
        Self::new(Some(method), "/".to_owned(), None, rules)
    }
}

/// The media types of what is answered if all goes well.
fn produced(operation: &Operation) -> Vec<String> {
    let responses = operation.responses.responses.iter();
    let good = responses.filter(|(status, _)| status.starts_with('2'));
    let mut types: Vec<String> = Vec::new();
    for (_, response) in good {
        let RefOr::T(Response { content, .. }) = response else {
            continue;
        };
        let new = content.keys().filter(|name| !types.contains(name));
        let new: Vec<String> = new.cloned().collect();
        types.extend(new);
    }
    if types.is_empty() {
        types.push(JSON.to_owned());
    }
    types
}

pub const JSON: &str = "application/json";

fn consumed(operation: &Operation) -> Vec<String> {
    match &operation.request_body {
        Some(RefOr::T(body)) => body.content.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

fn is_body_optional(operation: &Operation) -> bool {
    match &operation.request_body {
        Some(RefOr::T(body)) => body.required != Some(Required::True),
        _ => true,
    }
}

fn parameters(operation: &Operation) -> BTreeSet<String> {
    let parameters = operation.parameters.iter().flatten();
    let of_query = parameters.filter_map(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query => {
            Some(parameter.name.clone())
        }
        _ => None,
    });
    of_query.collect()
}

type Schemas = Vec<(String, RefOr<Schema>)>;

/// The routes of a feature, with handlers that need a state `S`.
pub struct Routes<S = ()> {
    entries: Vec<(Route, MethodRouter<S>)>,
    schemas: Schemas,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn new() -> Self {
        Self {
            entries: Vec::new(),
            schemas: Vec::new(),
        }
    }

    /// Adds a handler that `#[utoipa::path]` describes: `routes!(handler)`.
    pub fn route(mut self, handler: UtoipaMethodRouter<S>, rules: Rules) -> Self {
        let (schemas, paths, handler) = handler;
        let mut paths = paths.paths.into_iter();
        let (path, item) = paths.next().expect("a handler has a path");
        let (method, operation) = operation(item);
        let route = Route::new(Some(method), path, Some(operation), rules);
        self.entries.push((route, handler));
        self.schemas.extend(schemas);
        self
    }

    /// Adds a handler for all methods, or for those that are left, that the
    /// description does not have.
    pub fn any(mut self, path: &str, handler: MethodRouter<S>, rules: Rules) -> Self {
        let route = Route::new(None, path.to_owned(), None, rules);
        self.entries.push((route, handler));
        self
    }

    /// Adds a page for browsers, of one method, that the description does not have.
    pub fn page(mut self, of: Method, path: &str, handler: MethodRouter<S>, rules: Rules) -> Self {
        let route = Route::new(Some(of), path.to_owned(), None, rules);
        self.entries.push((route, handler));
        self
    }

    /// Adds a schema to the description that no route names.
    pub fn schema<T: ToSchema>(mut self) -> Self {
        self.schemas.push((T::name().into_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        self
    }

    pub fn merge(mut self, other: Self) -> Self {
        self.entries.extend(other.entries);
        self.schemas.extend(other.schemas);
        self
    }

    /// Gives the handlers their state.
    pub fn with_state<T>(self, state: S) -> Routes<T> {
        let entries = self.entries.into_iter();
        let entries = entries.map(|(route, handler)| (route, handler.with_state(state.clone())));
        Routes {
            entries: entries.collect(),
            schemas: self.schemas,
        }
    }

    /// Says how the handlers' state is made of an `A`, once there is one.
    pub fn of<A: 'static>(self, state: impl FnOnce(&A) -> S + 'static) -> Unbound<A> {
        let (routes, handlers): (Vec<Route>, Vec<MethodRouter<S>>) =
            self.entries.into_iter().unzip();
        let bind = move |all: &A| {
            let state = state(all);
            let handlers = handlers.into_iter();
            handlers.map(|h| h.with_state(state.clone())).collect()
        };
        Unbound {
            routes,
            schemas: self.schemas,
            binds: vec![Box::new(bind)],
        }
    }
}

fn operation(item: PathItem) -> (Method, Operation) {
    let methods = [
        (Method::GET, item.get),
        (Method::POST, item.post),
        (Method::PUT, item.put),
        (Method::PATCH, item.patch),
        (Method::DELETE, item.delete),
    ];
    let mut described = methods.into_iter();
    described
        .find_map(|(method, operation)| Some((method, operation?)))
        .expect("a handler has a method")
}

type Bind<A> = Box<dyn FnOnce(&A) -> Vec<MethodRouter>>;

/// Routes whose handlers do not have their state yet: enough to describe them.
pub struct Unbound<A> {
    routes: Vec<Route>,
    schemas: Schemas,
    binds: Vec<Bind<A>>,
}

impl<A> Unbound<A> {
    pub fn merge(mut self, other: Self) -> Self {
        self.routes.extend(other.routes);
        self.schemas.extend(other.schemas);
        self.binds.extend(other.binds);
        self
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    pub fn into_routes(self) -> Vec<Route> {
        self.routes
    }

    pub fn schemas(&self) -> &[(String, RefOr<Schema>)] {
        &self.schemas
    }

    /// Gives every handler its state.
    pub fn bind(self, all: &A) -> Routes {
        let handlers = self.binds.into_iter().flat_map(|bind| bind(all));
        Routes {
            entries: self.routes.into_iter().zip(handlers).collect(),
            schemas: self.schemas,
        }
    }
}

impl Routes {
    /// The routes, each with its handler behind what `wrap` puts before it.
    pub(super) fn wrapped(
        self,
        wrap: impl Fn(&Arc<Route>, MethodRouter) -> MethodRouter,
    ) -> (axum::Router, Arc<[Arc<Route>]>) {
        let mut router = axum::Router::new();
        let mut routes = Vec::new();
        for (route, handler) in self.entries {
            let route = Arc::new(route);
            let handler = if route.checked {
                wrap(&route, handler)
            } else {
                handler
            };
            router = router.route(&route.path, handler);
            routes.push(route);
        }
        (router, routes.into())
    }
}
