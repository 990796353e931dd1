//! `/api/billing/subscription` and `/api/billing/invoices/upcoming`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::routes;
use uuid::Uuid;

use super::change::saga::Requester;
use super::discounts::DiscountView;
use super::failure::Failure;
use super::{Command, Preview, SubscriptionRow, SubscriptionState, Subscriptions, Upcoming};
use crate::server::extract::{Json, Query};
use crate::server::layers::idempotency::Key;
use crate::server::number;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, Share, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Subscriptions> {
    let read = tenant(Permission::BillingRead);
    let manage = tenant(Permission::BillingManage);
    Routes::new()
        .route(routes!(current), read)
        .route(routes!(create), manage)
        .route(routes!(change), manage)
        .route(routes!(cancel), manage)
        .route(routes!(preview), manage.share(Share::Previews))
        .route(routes!(reactivate), manage)
        // Stripe is asked, as by a change.
        .route(routes!(upcoming), read.share(Share::Changes))
}

/// An organization's plan and subscription.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Subscription)]
struct SubscriptionView {
    #[schema(example = "standard")]
    plan_tier: String,
    /// Stripe's status; null if there is no subscription.
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
    /// When the subscription ends, if it is set to end.
    #[schema(required)]
    cancel_at: Option<Timestamp>,
    #[schema(required)]
    canceled_at: Option<Timestamp>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    /// The discounts that reduce its invoices, in the order in which they apply; the
    /// customer's, if it has none of its own.
    discounts: Vec<DiscountView>,
    /// Other running subscriptions, which are paid for as well. They were created
    /// outside this service, most likely by mistake.
    other_subscriptions: Vec<OtherSubscription>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OtherSubscription {
    stripe_subscription_id: String,
    /// Stripe's status.
    status: String,
    /// Null if the catalogue has none of its prices.
    #[schema(required)]
    plan_tier: Option<String>,
}

impl From<&SubscriptionRow> for OtherSubscription {
    fn from(subscription: &SubscriptionRow) -> Self {
        Self {
            stripe_subscription_id: subscription.id.clone(),
            status: subscription.status.clone(),
            plan_tier: subscription.plan_tier.clone(),
        }
    }
}

impl SubscriptionView {
    /// The view after this request has ended the subscription `ended`. If
    /// another one continues, the view still shows the one that ended.
    fn after_end(state: SubscriptionState, ended: Option<SubscriptionRow>) -> Self {
        let running = state.subscription.iter().chain(&state.others);
        let others: Vec<OtherSubscription> = running.map(OtherSubscription::from).collect();
        let is_gone = |subscription: &SubscriptionRow| {
            others
                .iter()
                .all(|o| o.stripe_subscription_id != subscription.id)
        };
        match ended.filter(is_gone) {
            Some(subscription) if !others.is_empty() => Self {
                status: Some("canceled".to_owned()),
                cancel_at: None,
                cancel_at_period_end: false,
                other_subscriptions: others,
                ..Self::from(SubscriptionState {
                    subscription: Some(subscription),
                    others: Vec::new(),
                    ..state
                })
            },
            _ => state.into(),
        }
    }
}

impl From<SubscriptionState> for SubscriptionView {
    fn from(state: SubscriptionState) -> Self {
        let plan_tier = state.plan_tier;
        let other_subscriptions = state.others.iter().map(OtherSubscription::from).collect();
        let Some(subscription) = state.subscription else {
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
                discounts: Vec::new(),
                other_subscriptions,
            };
        };
        Self {
            plan_tier,
            cancel_at: ends_at(&subscription),
            status: Some(subscription.status),
            stripe_subscription_id: Some(subscription.id),
            currency: subscription.currency,
            current_period_start: subscription.period_start,
            current_period_end: subscription.period_end,
            trial_end: subscription.trial_end,
            cancel_at_period_end: subscription.cancel_at_period_end,
            canceled_at: subscription.canceled_at,
            created_at: subscription.created,
            discounts: Vec::new(),
            other_subscriptions,
        }
    }
}

fn ends_at(subscription: &SubscriptionRow) -> Option<Timestamp> {
    let with_period = subscription
        .period_end
        .filter(|_| subscription.cancel_at_period_end);
    with_period.or(subscription.cancel_at)
}

/// Get the plan and its subscription
#[utoipa::path(
    get,
    path = "/api/billing/subscription",
    operation_id = "getSubscription",
    tag = "Subscriptions",
    responses((status = 200, description = "The organization's plan and subscription.", body = SubscriptionView)),
)]
async fn current(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    let state = subscriptions.state(caller.organization_id).await?;
    Ok(axum::Json(
        shown(&subscriptions, caller.organization_id, state).await?,
    ))
}

/// The view of a state, with the discounts in force.
async fn shown(
    subscriptions: &Subscriptions,
    organization_id: Uuid,
    state: SubscriptionState,
) -> Result<SubscriptionView, Failure> {
    let discounts = subscriptions
        .discounts_in_force(organization_id, &state)
        .await?;
    Ok(SubscriptionView {
        discounts,
        ..state.into()
    })
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewSubscription {
    #[schema(example = "standard")]
    plan_tier: String,
    /// The plan sets the maximum.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 730)]
    trial_days: u16,
    /// A promotion code to redeem, as the customer typed it.
    #[serde(default)]
    #[schema(example = "SPRING25", min_length = 1, max_length = 500)]
    promotion_code: Option<String>,
}

/// Subscribe to a plan
#[utoipa::path(
    post,
    path = "/api/billing/subscription",
    operation_id = "createSubscription",
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
    let made = change_and_show(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let command = Command::Subscribe {
                tier: &new.plan_tier,
                trial_days: new.trial_days,
                promotion_code: new.promotion_code.as_deref(),
            };
            subscriptions.change(&caller, command, None).await
        },
    );
    Ok((StatusCode::CREATED, made.await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PlanChange {
    #[schema(example = "standard")]
    plan_tier: String,
    /// A promotion code to redeem. With the present plan, the subscription keeps it and
    /// redeems the code. A preview's token has the code that was previewed.
    #[serde(default)]
    #[schema(example = "SPRING25", min_length = 1, max_length = 500)]
    promotion_code: Option<String>,
    #[serde(default)]
    preview_token: Option<String>,
}

/// Change the plan
#[utoipa::path(
    put,
    path = "/api/billing/subscription",
    operation_id = "changeSubscription",
    tag = "Subscriptions",
    request_body = PlanChange,
    responses((status = 200, description = "The changed subscription.", body = SubscriptionView)),
)]
async fn change(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Json(recorded): Json<PlanChange>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    change_and_show(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let command = Command::Change {
                tier: &recorded.plan_tier,
                promotion_code: recorded.promotion_code.as_deref(),
            };
            let token = recorded.preview_token.as_deref();
            subscriptions.change(&caller, command, token).await
        },
    )
    .await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Cancellation {
    /// Cancel now instead of at the end of the period.
    #[serde(default)]
    immediately: bool,
}

/// Cancel the subscription, at the end of its period or at once
#[utoipa::path(
    delete,
    path = "/api/billing/subscription",
    operation_id = "cancelSubscription",
    tag = "Subscriptions",
    params(Cancellation),
    responses((status = 200, description = "The canceled subscription.", body = SubscriptionView)),
)]
async fn cancel(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Query(Cancellation { immediately }): Query<Cancellation>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    let organization_id = caller.organization_id;
    let subscription = subscriptions.state(organization_id).await?.subscription;
    let state = change_detached(
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let command = Command::Cancel { immediately };
            subscriptions.change(&caller, command, None).await
        },
    );
    let view = SubscriptionView::after_end(state.await?, subscription);
    Ok(axum::Json(view))
}

/// Keep a subscription that is set to end
#[utoipa::path(
    post,
    path = "/api/billing/subscription/reactivate",
    operation_id = "reactivateSubscription",
    tag = "Subscriptions",
    responses((status = 200, description = "The continued subscription.", body = SubscriptionView)),
)]
async fn reactivate(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    change_and_show(
        subscriptions,
        caller,
        key,
        |subscriptions, caller| async move {
            subscriptions
                .change(&caller, Command::Reactivate, None)
                .await
        },
    )
    .await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PreviewRequest {
    #[schema(example = "standard")]
    plan_tier: String,
    /// A promotion code that the change would redeem.
    #[serde(default)]
    #[schema(example = "SPRING25", min_length = 1, max_length = 500)]
    promotion_code: Option<String>,
}

/// Preview the cost of a plan change
#[utoipa::path(
    post,
    path = "/api/billing/subscription/preview",
    operation_id = "previewSubscription",
    tag = "Subscriptions",
    request_body = PreviewRequest,
    responses((status = 200, description = "The cost, and a token that binds the change to it.", body = Preview)),
)]
async fn preview(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    Json(asked): Json<PreviewRequest>,
) -> Result<axum::Json<Preview>, Problem> {
    let organization_id = caller.organization_id;
    let code = asked.promotion_code.as_deref();
    let preview = subscriptions
        .preview(organization_id, &asked.plan_tier, code, Timestamp::now())
        .await?;
    Ok(axum::Json(preview))
}

/// Get the next invoice, including usage so far
#[utoipa::path(
    get,
    path = "/api/billing/invoices/upcoming",
    operation_id = "getUpcomingInvoice",
    tag = "Invoices",
    responses((status = 200, description = "What will be invoiced next.", body = Upcoming),
              (status = 404, description = "Nothing more will be invoiced.")),
)]
async fn upcoming(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
) -> Result<axum::Json<Upcoming>, Problem> {
    let upcoming = subscriptions.upcoming(caller.organization_id).await?;
    upcoming.map(axum::Json).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no_upcoming_invoice",
            "there is no upcoming invoice",
        )
    })
}

/// Makes a change and returns the new state.
async fn change_and_show<F>(
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<axum::Json<SubscriptionView>, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let state = change_detached(subscriptions.clone(), caller, key, change).await?;
    Ok(axum::Json(
        shown(&subscriptions, organization_id, state).await?,
    ))
}

/// Makes a change in its own task, so that a client that disconnects does not
/// interrupt it.
async fn change_detached<F>(
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<SubscriptionState, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let requester = Requester {
        organization_id,
        actor: caller.actor,
        client: caller.client,
        idempotency_key: key.map(|key| key.as_str().to_owned()),
    };
    let task = tokio::spawn(change(subscriptions.clone(), requester));
    task.await.map_err(|error| {
        tracing::error!(%error, "The task of a subscription change panicked");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "something went wrong; it was logged",
        )
    })??;
    Ok(subscriptions.state(organization_id).await?)
}
