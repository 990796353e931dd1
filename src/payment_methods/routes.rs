//! `/api/billing/payment-methods` and `/api/billing/portal`.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::{PaymentMethod, PaymentMethods, Position};
use crate::server::detached;
use crate::server::extract::{OptionalJson, Path, Query};
use crate::server::pagination::page::{Listed, Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::subscriptions::{CardFailure, Requester, SetupStarted};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<PaymentMethods> {
    let manage = tenant(Permission::BillingManage);
    Routes::new()
        .route(routes!(list), tenant(Permission::BillingRead))
        .route(routes!(set_up), manage)
        .route(routes!(make_default), manage)
        .route(routes!(remove), manage)
        .route(routes!(open_portal), manage)
}

impl Listed for PaymentMethod {
    type Position = Position;

    fn position(&self) -> Position {
        Position {
            created_at: self.created_at,
            id: self.id.clone(),
        }
    }
}

impl From<CardFailure> for Problem {
    fn from(failure: CardFailure) -> Self {
        let message = failure.to_string();
        match failure {
            CardFailure::NotFound => Self::not_found(message),
            CardFailure::LastOne => Self::new(StatusCode::CONFLICT, "last_payment_method", message),
            CardFailure::Failed(failure) => failure.into(),
        }
    }
}

/// Attached payment methods, newest first
#[utoipa::path(
    get,
    path = "/api/billing/payment-methods",
    operation_id = "listPaymentMethods",
    tag = "Payment methods",
    params(Paging),
    responses((status = 200, description = "A page of payment methods.", body = Page<PaymentMethod>)),
)]
async fn list(
    State(methods): State<PaymentMethods>,
    caller: Principal,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<PaymentMethod>>, Problem> {
    let page = methods.page(caller.organization_id, &paging);
    page.await.map(Json)
}

/// How a payment method is entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SetupMode {
    /// On a page of Stripe's.
    #[default]
    Page,
    /// In the product, with Stripe's form (Stripe Elements).
    Elements,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewSetup {
    /// By default on Stripe's page.
    #[serde(default)]
    mode: SetupMode,
    /// Where the page leads when the payer is done; by default the product's address.
    #[serde(default)]
    #[schema(
        example = "https://app.example.com/settings/billing",
        max_length = 2000
    )]
    return_url: Option<String>,
}

/// A way to enter a payment method.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Setup {
    mode: SetupMode,
    /// Stripe's id: of a checkout session (cs_…), or of a setup intent (seti_…).
    id: String,
    /// Where to send the payer; null for a form in the product.
    #[schema(required)]
    url: Option<String>,
    /// For Stripe's form in the product; null for a page.
    #[schema(required)]
    client_secret: Option<String>,
    /// Until when the page is open.
    #[schema(required)]
    expires_at: Option<Timestamp>,
}

impl Setup {
    fn of(mode: SetupMode, started: SetupStarted) -> Self {
        Self {
            mode,
            id: started.id,
            url: started.url,
            client_secret: started
                .client_secret
                .filter(|_| mode == SetupMode::Elements),
            expires_at: started.expires_at,
        }
    }
}

/// Begin to add a payment method
#[utoipa::path(
    post,
    path = "/api/billing/payment-methods/setup",
    operation_id = "setUpPaymentMethod",
    tag = "Payment methods",
    request_body = Option<NewSetup>,
    responses((status = 201, description = "A page to send the payer to, or what Stripe's form needs.", body = Setup)),
)]
async fn set_up(
    State(methods): State<PaymentMethods>,
    caller: Principal,
    OptionalJson(new): OptionalJson<NewSetup>,
) -> Result<(StatusCode, Json<Setup>), Problem> {
    let new = new.unwrap_or_default();
    let return_url = match new.mode {
        SetupMode::Page => {
            let chosen = methods
                .addresses
                .choose("returnUrl", new.return_url.as_deref());
            Some(chosen?)
        }
        SetupMode::Elements => None,
    };
    let requester = Requester::of(caller, None);
    let made = run(async move {
        match return_url {
            Some(url) => methods.subscriptions.setup_page(&requester, &url).await,
            None => methods.subscriptions.setup_intent(&requester).await,
        }
    });
    let setup = Setup::of(new.mode, made.await?);
    Ok((StatusCode::CREATED, Json(setup)))
}

/// Charge this payment method from now on
#[utoipa::path(
    put,
    path = "/api/billing/payment-methods/{id}/default",
    operation_id = "setDefaultPaymentMethod",
    tag = "Payment methods",
    params(("id" = String, Path, description = "Stripe's id of it (pm_…).")),
    responses((status = 200, description = "The payment method, which is the default.", body = PaymentMethod),
              (status = 404, description = "The organization has no such payment method.")),
)]
async fn make_default(
    State(methods): State<PaymentMethods>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<Json<PaymentMethod>, Problem> {
    let organization = caller.organization_id;
    methods.make_default(caller, &id).await?;
    methods.one(organization, &id).await.map(Json)
}

/// Remove a payment method
#[utoipa::path(
    delete,
    path = "/api/billing/payment-methods/{id}",
    operation_id = "removePaymentMethod",
    tag = "Payment methods",
    params(("id" = String, Path, description = "Stripe's id of it (pm_…).")),
    responses((status = 204, description = "It is removed, and cannot be added again."),
              (status = 404, description = "The organization has no such payment method."),
              (status = 409, description = "A running subscription has no other one to be charged.")),
)]
async fn remove(
    State(methods): State<PaymentMethods>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    methods.remove(caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewPortalSession {
    /// Where the portal leads back to; by default the product's address.
    #[serde(default)]
    #[schema(
        example = "https://app.example.com/settings/billing",
        max_length = 2000
    )]
    return_url: Option<String>,
}

/// Stripe's customer portal, for this customer and for a few minutes.
#[derive(Debug, Serialize, ToSchema)]
struct PortalSession {
    url: String,
}

/// Open Stripe's customer portal
#[utoipa::path(
    post,
    path = "/api/billing/portal",
    operation_id = "openPortal",
    tag = "Payment methods",
    request_body = Option<NewPortalSession>,
    responses((status = 201, description = "Where to send the payer.", body = PortalSession)),
)]
async fn open_portal(
    State(methods): State<PaymentMethods>,
    caller: Principal,
    OptionalJson(new): OptionalJson<NewPortalSession>,
) -> Result<(StatusCode, Json<PortalSession>), Problem> {
    let named = new.unwrap_or_default().return_url;
    let return_url = methods.addresses.choose("returnUrl", named.as_deref())?;
    let requester = Requester::of(caller, None);
    let made = run(async move {
        let client = methods.subscriptions.stripe()?;
        let configuration = methods.portal.configuration(client).await?;
        let subscriptions = &methods.subscriptions;
        subscriptions
            .portal_session(&requester, &configuration, &return_url)
            .await
    });
    Ok((
        StatusCode::CREATED,
        Json(PortalSession { url: made.await? }),
    ))
}

/// Goes on with what was begun when its client goes away.
pub(super) async fn run<T, E>(
    work: impl Future<Output = Result<T, E>> + Send + 'static,
) -> Result<T, Problem>
where
    T: Send + 'static,
    E: Into<Problem> + Send + 'static,
{
    let done = detached::spawn(work).await.map_err(|error| {
        tracing::error!(%error, "The task of a payment method panicked");
        Problem::internal()
    })?;
    done.map_err(Into::into)
}
