//! The API: the features' routes behind what is asked of every request, and
//! the document that describes them.

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use serde_json::Value;
use sqlx::postgres::PgPool;
use utoipa::OpenApi as _;

use crate::auth::{self, Guard};
use crate::http::{self, Shared, idempotency, openapi};
use crate::plans::{self, Catalogue};
use crate::subscriptions::{self, Subscriptions};
use crate::{audit, inbox, invoices};

/// What the routes need.
pub struct Api {
    pub pool: PgPool,
    pub catalogue: Arc<Catalogue>,
    pub guard: Guard,
    pub subscriptions: Subscriptions,
}

impl Api {
    pub fn router(self) -> Router {
        let shared = Shared::new(self.pool.clone());
        let routes = Router::new()
            .merge(auth::router(self.pool.clone()))
            .merge(audit::routes::router(shared.clone()))
            .merge(invoices::routes::router(shared.clone()))
            .merge(plans::routes::router(self.catalogue, shared))
            .merge(subscriptions::routes::router(self.subscriptions))
            .merge(http::docs::router(document()));
        // The last layer is the first to see a request.
        routes
            .route_layer(from_fn_with_state(self.pool, idempotency::once))
            .route_layer(from_fn_with_state(self.guard, auth::enforce))
    }
}

/// The OpenAPI document of all routes.
pub fn document() -> Value {
    let mut document = openapi::Base::openapi();
    let features = [
        http::ProbesApi::openapi(),
        http::docs::Api::openapi(),
        auth::Api::openapi(),
        inbox::routes::Api::openapi(),
        audit::routes::Api::openapi(),
        invoices::routes::Api::openapi(),
        plans::routes::Api::openapi(),
        subscriptions::routes::Api::openapi(),
    ];
    for feature in features {
        document.merge(feature);
    }
    openapi::complete(document)
}
