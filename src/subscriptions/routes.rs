//! `/api/billing/subscription`, and the next invoice.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};

use super::change::saga::Caller;
use super::failure::Failure;
use super::{Held, Preview, Standing, Subscriptions, Upcoming, Wish};
use crate::server::extract::{Json, Query};
use crate::server::layers::idempotency::Key;
use crate::server::number;
use crate::server::problem::Problem;
use crate::tenancy::auth::Principal;

#[derive(OpenApi)]
#[openapi(paths(current, create, change, cancel, reactivate, preview))]
pub struct Api;

pub fn router(subscriptions: Subscriptions) -> Router {
    Router::new()
        .route(
            "/api/billing/subscription",
            get(current).post(create).put(change).delete(cancel),
        )
        .route("/api/billing/subscription/preview", post(preview))
        .route("/api/billing/subscription/reactivate", post(reactivate))
        .route("/api/billing/invoices/upcoming", get(upcoming))
        .with_state(subscriptions)
}

/// An organization's plan, and its subscription.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Subscription)]
struct SubscriptionView {
    #[schema(example = "standard")]
    plan_tier: String,
    /// Stripe's word; null where there is no subscription.
    #[schema(required)]
    status: Option<String>,
    #[schema(required)]
    stripe_subscription_id: Option<String>,
    #[schema(required)]
    currency: Option<String>,
    #[schema(required)]
    current_period_start: Option<Timestamp>,
    #[schema(required)]
    current_period_end: Option<Timestamp>,
    #[schema(required)]
    trial_end: Option<Timestamp>,
    cancel_at_period_end: bool,
    /// When it ends, once that is decided.
    #[schema(required)]
    cancel_at: Option<Timestamp>,
    #[schema(required)]
    canceled_at: Option<Timestamp>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    /// Further subscriptions that run beside it, and are paid for as well: made
    /// outside of this service, and most likely by mistake.
    other_subscriptions: Vec<OtherSubscription>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OtherSubscription {
    stripe_subscription_id: String,
    /// Stripe's word.
    status: String,
    /// Null where the catalogue has none of its prices.
    #[schema(required)]
    plan_tier: Option<String>,
}

impl From<&Held> for OtherSubscription {
    fn from(held: &Held) -> Self {
        Self {
            stripe_subscription_id: held.id.clone(),
            status: held.status.clone(),
            plan_tier: held.plan_tier.clone(),
        }
    }
}

impl SubscriptionView {
    /// Of an organization whose subscription `ended` was ended by this very
    /// request. Where another goes on, the answer is about the one that ended.
    fn after_end(standing: Standing, ended: Option<Held>) -> Self {
        let goes_on = standing.subscription.iter().chain(&standing.others);
        let others: Vec<OtherSubscription> = goes_on.map(OtherSubscription::from).collect();
        let is_gone = |held: &Held| others.iter().all(|o| o.stripe_subscription_id != held.id);
        match ended.filter(is_gone) {
            Some(held) if !others.is_empty() => Self {
                status: Some("canceled".to_owned()),
                cancel_at: None,
                cancel_at_period_end: false,
                other_subscriptions: others,
                ..Self::from(Standing {
                    subscription: Some(held),
                    others: Vec::new(),
                    ..standing
                })
            },
            _ => standing.into(),
        }
    }
}

impl From<Standing> for SubscriptionView {
    fn from(standing: Standing) -> Self {
        let plan_tier = standing.plan_tier;
        let other_subscriptions = standing
            .others
            .iter()
            .map(OtherSubscription::from)
            .collect();
        let Some(held) = standing.subscription else {
            return Self {
                plan_tier,
                status: None,
                stripe_subscription_id: None,
                currency: None,
                current_period_start: None,
                current_period_end: None,
                trial_end: None,
                cancel_at_period_end: false,
                cancel_at: None,
                canceled_at: None,
                created_at: None,
                other_subscriptions,
            };
        };
        Self {
            plan_tier,
            cancel_at: ends_at(&held),
            status: Some(held.status),
            stripe_subscription_id: Some(held.id),
            currency: held.currency,
            current_period_start: held.period_start,
            current_period_end: held.period_end,
            trial_end: held.trial_end,
            cancel_at_period_end: held.cancel_at_period_end,
            canceled_at: held.canceled_at,
            created_at: held.created,
            other_subscriptions,
        }
    }
}

fn ends_at(held: &Held) -> Option<Timestamp> {
    let with_period = held.period_end.filter(|_| held.cancel_at_period_end);
    with_period.or(held.cancel_at)
}

/// The plan, and the subscription that it is paid by
#[utoipa::path(
    get,
    path = "/api/billing/subscription",
    tag = "Subscriptions",
    responses((status = 200, description = "What the organization has.", body = SubscriptionView)),
)]
async fn current(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    let standing = subscriptions.standing(caller.organization_id).await?;
    Ok(axum::Json(standing.into()))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewSubscription {
    #[schema(example = "standard")]
    plan_tier: String,
    /// The plan says how many it takes.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 730)]
    trial_days: u16,
}

/// Subscribe to a plan
#[utoipa::path(
    post,
    path = "/api/billing/subscription",
    tag = "Subscriptions",
    request_body = NewSubscription,
    responses((status = 201, description = "The new subscription.", body = SubscriptionView)),
)]
async fn create(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Json(new): Json<NewSubscription>,
) -> Result<impl IntoResponse, Problem> {
    let made = granted(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let wish = Wish::Subscribe {
                tier: &new.plan_tier,
                trial_days: new.trial_days,
            };
            subscriptions.change(&caller, wish, None).await
        },
    );
    Ok((StatusCode::CREATED, made.await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PlanChange {
    #[schema(example = "standard")]
    plan_tier: String,
    #[serde(default)]
    preview_token: Option<String>,
}

/// Change the plan
#[utoipa::path(
    put,
    path = "/api/billing/subscription",
    tag = "Subscriptions",
    request_body = PlanChange,
    responses((status = 200, description = "The changed subscription.", body = SubscriptionView)),
)]
async fn change(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Json(wished): Json<PlanChange>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    granted(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let wish = Wish::Change {
                tier: &wished.plan_tier,
            };
            let token = wished.preview_token.as_deref();
            subscriptions.change(&caller, wish, token).await
        },
    )
    .await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Cancellation {
    /// Now, rather than with the end of its period.
    #[serde(default)]
    immediately: bool,
}

/// Cancel the subscription, with its period or at once
#[utoipa::path(
    delete,
    path = "/api/billing/subscription",
    tag = "Subscriptions",
    params(Cancellation),
    responses((status = 200, description = "The subscription, with its end.", body = SubscriptionView)),
)]
async fn cancel(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Query(Cancellation { immediately }): Query<Cancellation>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    let organization_id = caller.organization_id;
    let held = subscriptions.standing(organization_id).await?.subscription;
    let standing = changed(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let wish = Wish::Cancel { immediately };
            subscriptions.change(&caller, wish, None).await
        },
    );
    let view = SubscriptionView::after_end(standing.await?, held);
    Ok(axum::Json(view))
}

/// Keep a subscription that is about to end
#[utoipa::path(
    post,
    path = "/api/billing/subscription/reactivate",
    tag = "Subscriptions",
    responses((status = 200, description = "The subscription, which goes on.", body = SubscriptionView)),
)]
async fn reactivate(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    granted(
        subscriptions,
        caller,
        key,
        |subscriptions, caller| async move {
            subscriptions.change(&caller, Wish::Reactivate, None).await
        },
    )
    .await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Previewed {
    #[schema(example = "standard")]
    plan_tier: String,
}

/// What a change of plan would cost
#[utoipa::path(
    post,
    path = "/api/billing/subscription/preview",
    tag = "Subscriptions",
    request_body = Previewed,
    responses((status = 200, description = "What it would cost, and a token that holds to it.", body = Preview)),
)]
async fn preview(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    Json(Previewed { plan_tier }): Json<Previewed>,
) -> Result<axum::Json<Preview>, Problem> {
    let organization_id = caller.organization_id;
    let preview = subscriptions
        .preview(organization_id, &plan_tier, Timestamp::now())
        .await?;
    Ok(axum::Json(preview))
}

/// The next invoice, with the usage so far
async fn upcoming(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
) -> Result<axum::Json<Upcoming>, Problem> {
    let upcoming = subscriptions.upcoming(caller.organization_id).await?;
    upcoming.map(axum::Json).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_upcoming_invoice",
            "there is nothing more to be invoiced",
        )
    })
}

/// Makes a change, and shows what it led to.
async fn granted<F>(
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Caller) -> F,
) -> Result<axum::Json<SubscriptionView>, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let standing = changed(subscriptions, caller, key, change).await?;
    Ok(axum::Json(standing.into()))
}

/// Makes a change in a task of its own, so that a client that goes away does
/// not stop it half-way.
async fn changed<F>(
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Caller) -> F,
) -> Result<Standing, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let asking = Caller {
        organization_id,
        actor: caller.actor,
        from: caller.client,
        key: key.map(|key| key.as_str().to_owned()),
    };
    let making = tokio::spawn(change(subscriptions.clone(), asking));
    making.await.map_err(|error| {
        tracing::error!(%error, "a change of a subscription ended early");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong; it was logged",
        )
    })??;
    Ok(subscriptions.standing(organization_id).await?)
}
