//! `/api/billing/subscription` and `/api/billing/invoices/upcoming`.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::acts::{self, Outcome, change_detached};
use super::asked_addons::{self, AskedAddon};
use super::awaited::ActionRequired;
use super::call_off::{__path_call_off, call_off};
use super::cancellation::{Cancellation, Said};
use super::change::saga::Requester;
use super::failure::Failure;
use super::view::SubscriptionView;
use super::{
    ChangeRejection, Command, Preview, Selection, SubscriptionRow, Subscriptions, Upcoming,
};
use crate::catalogue::{Interval, When};
use crate::server::extract::{Json, OptionalJson, Query};
use crate::server::layers::idempotency::{Key, Passing};
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
        .route(routes!(call_off), manage)
        // Stripe is asked, as by a change.
        .route(routes!(upcoming), read.share(Share::Changes))
        .merge(super::operator::routes())
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
    let (state, discounts) = subscriptions.current(caller.organization_id).await?;
    let view = SubscriptionView::from(state);
    Ok(axum::Json(view.with_discounts(discounts)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewSubscription {
    #[schema(example = "standard")]
    plan_tier: String,
    /// By default as the plan says.
    #[serde(default)]
    interval: Option<Interval>,
    /// By default the customer's, which is that of its first invoice; before it, as the
    /// plan says.
    #[serde(default)]
    #[schema(example = "usd")]
    currency: Option<String>,
    /// The seats, all of them, for a plan whose seats are bought.
    #[serde(default, deserialize_with = "number::maybe_whole")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<u64>,
    /// What is bought beside the plan: ids of add-ons, or objects with `id` and `quantity`.
    #[serde(default)]
    addons: Option<Vec<AskedAddon>>,
    /// The plan sets the maximum.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 730)]
    trial_days: u16,
    /// A first subscription begins now.
    #[serde(default)]
    when: Option<When>,
    /// A promotion code to redeem, as the customer typed it. A preview's token has the
    /// code that was previewed.
    #[serde(default)]
    #[schema(example = "SPRING25", min_length = 1, max_length = 500)]
    promotion_code: Option<String>,
    #[serde(default)]
    preview_token: Option<String>,
}

/// Subscribe to a plan
#[utoipa::path(
    post,
    path = "/api/billing/subscription",
    operation_id = "createSubscription",
    tag = "Subscriptions",
    request_body = NewSubscription,
    responses((status = 201, description = "The new subscription.", body = SubscriptionView),
              (status = 202, description = "It begins once its payer has confirmed the payment.", body = ActionRequired)),
)]
async fn create(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Json(new): Json<NewSubscription>,
) -> Result<Response, Problem> {
    change_beside_payer(
        StatusCode::CREATED,
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            if new.when == Some(When::PeriodEnd) {
                return Err(ChangeRejection::NoPeriod.into());
            }
            let addons = asked_addons::by_id(new.addons.as_deref())?;
            let command = Command::Subscribe {
                selection: Selection {
                    tier: &new.plan_tier,
                    interval: new.interval,
                    currency: new.currency.as_deref(),
                    quantity: new.quantity,
                    addons: addons.as_ref(),
                },
                trial_days: new.trial_days,
                promotion_code: new.promotion_code.as_deref(),
            };
            let token = new.preview_token.as_deref();
            let caller = caller.with_payer();
            subscriptions.change(&caller, command, token).await
        },
    )
    .await
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PlanChange {
    #[schema(example = "standard")]
    plan_tier: String,
    /// By default as it is; another one of the same plan is a change, too.
    #[serde(default)]
    interval: Option<Interval>,
    /// The customer's, which is that of its first invoice.
    #[serde(default)]
    #[schema(example = "usd")]
    currency: Option<String>,
    /// The seats, all of them; by default as many as there are. Others of the same plan
    /// are a change, too.
    #[serde(default, deserialize_with = "number::maybe_whole")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<u64>,
    /// The add-ons, all of them: ids, or objects with `id` and `quantity`. By default those
    /// that there are, as far as they go with the plan; an empty list is none.
    #[serde(default)]
    addons: Option<Vec<AskedAddon>>,
    /// By default when the preview says, or else the catalogue.
    #[serde(default)]
    when: Option<When>,
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
    responses((status = 200, description = "The changed subscription.", body = SubscriptionView),
              (status = 202, description = "It changes once its payer has confirmed the payment.", body = ActionRequired)),
)]
async fn change(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Json(asked): Json<PlanChange>,
) -> Result<Response, Problem> {
    change_beside_payer(
        StatusCode::OK,
        subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let addons = asked_addons::by_id(asked.addons.as_deref())?;
            let command = Command::Change {
                selection: Selection {
                    tier: &asked.plan_tier,
                    interval: asked.interval,
                    currency: asked.currency.as_deref(),
                    quantity: asked.quantity,
                    addons: addons.as_ref(),
                },
                when: asked.when,
                promotion_code: asked.promotion_code.as_deref(),
            };
            let token = asked.preview_token.as_deref();
            let caller = caller.with_payer();
            subscriptions.change(&caller, command, token).await
        },
    )
    .await
}

/// Cancel the subscription, at the end of its period or at once
#[utoipa::path(
    delete,
    path = "/api/billing/subscription",
    operation_id = "cancelSubscription",
    tag = "Subscriptions",
    params(Cancellation),
    request_body = Option<Said>,
    responses((status = 200, description = "The canceled subscription.", body = SubscriptionView)),
)]
async fn cancel(
    State(subscriptions): State<Subscriptions>,
    caller: Principal,
    key: Option<Key>,
    Query(Cancellation { immediately }): Query<Cancellation>,
    OptionalJson(said): OptionalJson<Said>,
) -> Result<axum::Json<SubscriptionView>, Problem> {
    let said = said.unwrap_or_default().check()?;
    let organization_id = caller.organization_id;
    let subscription = subscriptions.state(organization_id).await?.subscription;
    let state = change_detached(
        &subscriptions,
        caller,
        key,
        move |subscriptions, caller| async move {
            let command = Command::Cancel {
                immediately,
                details: said.details(),
            };
            subscriptions.change(&caller, command, None).await
        },
    );
    let state = state.await?;
    let id = |one: &Option<SubscriptionRow>| one.as_ref().map(|one| one.id.clone());
    let discounts = match id(&state.subscription) == id(&subscription) {
        true => {
            subscriptions
                .discounts_in_force(organization_id, &state)
                .await?
        }
        false => Vec::new(),
    };
    let view = SubscriptionView::after_end(state, subscription);
    Ok(axum::Json(view.with_discounts(discounts)))
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
    /// By default as it is, or as the plan says.
    #[serde(default)]
    interval: Option<Interval>,
    /// By default the customer's, which is that of its first invoice; before it, as the
    /// plan says.
    #[serde(default)]
    #[schema(example = "usd")]
    currency: Option<String>,
    /// The seats, all of them, for a plan whose seats are bought.
    #[serde(default, deserialize_with = "number::maybe_whole")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<u64>,
    /// The add-ons, all of them: ids, or objects with `id` and `quantity`. By default those
    /// that there are, as far as they go with the plan; an empty list is none.
    #[serde(default)]
    addons: Option<Vec<AskedAddon>>,
    /// By default when the catalogue says.
    #[serde(default)]
    when: Option<When>,
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
    let addons = asked_addons::by_id(asked.addons.as_deref()).map_err(Failure::from)?;
    let selection = Selection {
        tier: &asked.plan_tier,
        interval: asked.interval,
        currency: asked.currency.as_deref(),
        quantity: asked.quantity,
        addons: addons.as_ref(),
    };
    let code = asked.promotion_code.as_deref();
    let preview = subscriptions
        .preview(
            organization_id,
            selection,
            asked.when,
            code,
            Timestamp::now(),
        )
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
pub(super) async fn change_and_show<F>(
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<axum::Json<SubscriptionView>, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let state = change_detached(&subscriptions, caller, key, change).await?;
    let discounts = subscriptions
        .discounts_in_force(organization_id, &state)
        .await?;
    let view = SubscriptionView::from(state);
    Ok(axum::Json(view.with_discounts(discounts)))
}

/// Makes a change beside its payer, and returns the new state; or how they go on, where
/// they have to confirm the payment first.
async fn change_beside_payer<F>(
    done: StatusCode,
    subscriptions: Subscriptions,
    caller: Principal,
    key: Option<Key>,
    change: impl FnOnce(Subscriptions, Requester) -> F,
) -> Result<Response, Problem>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let organization_id = caller.organization_id;
    let outcome = acts::change_beside_payer(&subscriptions, caller, key, change);
    let state = match outcome.await? {
        Outcome::Done(state) => state,
        Outcome::AwaitsPayer(required) => {
            let answer = (
                StatusCode::ACCEPTED,
                Extension(Passing),
                axum::Json(required),
            );
            return Ok(answer.into_response());
        }
    };
    let discounts = subscriptions
        .discounts_in_force(organization_id, &state)
        .await?;
    let view = SubscriptionView::from(*state).with_discounts(discounts);
    Ok((done, axum::Json(view)).into_response())
}
