//! `/api/billing/checkout`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::view::{CheckoutView, CompletedCheckout};
use super::{CheckoutFailure, Purchase, State as Progress};
use crate::catalogue::Interval;
use crate::server::detached;
use crate::server::extract::{Json as Body, Path};
use crate::server::layers::idempotency::Key;
use crate::server::number;
use crate::server::problem::{Problem, shown};
use crate::server::return_address::ReturnAddresses;
use crate::server::routes::{Permission, Routes, tenant};
use crate::stripe::client::ErrorKind;
use crate::subscriptions::asked_addons::{self, AskedAddon};
use crate::subscriptions::change::saga::Requester;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::{SubscriptionView, Subscriptions};
use crate::tenancy::auth::Principal;

/// The languages of Stripe's page.
const LOCALES: [&str; 40] = [
    "auto", "bg", "cs", "da", "de", "el", "en", "en-GB", "es", "es-419", "et", "fi", "fil", "fr",
    "fr-CA", "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "ms", "mt", "nb", "nl", "pl", "pt",
    "pt-BR", "ro", "ru", "sk", "sl", "sv", "th", "tr", "vi", "zh", "zh-TW",
];

/// What the handlers need.
#[derive(Clone)]
pub struct Checkouts {
    pub subscriptions: Subscriptions,
    pub addresses: Arc<ReturnAddresses>,
}

pub fn routes() -> Routes<Checkouts> {
    let manage = tenant(Permission::BillingManage);
    Routes::new()
        .route(routes!(begin), manage)
        .route(routes!(current), manage)
        .route(routes!(complete), manage)
}

impl From<CheckoutFailure> for Problem {
    fn from(failure: CheckoutFailure) -> Self {
        let message = failure.to_string();
        match failure {
            CheckoutFailure::NotFound => Self::not_found(message),
            CheckoutFailure::Expired => Self::new(StatusCode::GONE, "checkout_expired", message),
            CheckoutFailure::Duplicate => {
                Self::new(StatusCode::CONFLICT, "subscription_exists", message)
            }
            CheckoutFailure::TrialUsed => Self::new(StatusCode::CONFLICT, "trial_used", message),
            CheckoutFailure::Failed(failure) => failure.into(),
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewCheckout {
    #[schema(example = "standard")]
    plan_tier: String,
    /// By default as the plan says.
    #[serde(default)]
    interval: Option<Interval>,
    /// The seats, all of them, for a plan whose seats are bought.
    #[serde(default, deserialize_with = "number::maybe_whole")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    quantity: Option<u64>,
    /// What is bought beside the plan: ids of add-ons, or objects with `id` and `quantity`.
    #[serde(default)]
    addons: Option<Vec<AskedAddon>>,
    /// Where the page leads once it is paid; by default the product's address. Stripe puts
    /// its id in the place of `{CHECKOUT_SESSION_ID}`.
    #[serde(default)]
    #[schema(
        max_length = 2000,
        example = "https://app.example.com/welcome?checkout={CHECKOUT_SESSION_ID}"
    )]
    success_url: Option<String>,
    /// Where the page leads a payer who goes back; by default the product's address.
    #[serde(default)]
    #[schema(max_length = 2000, example = "https://app.example.com/pricing")]
    cancel_url: Option<String>,
    /// The plan sets the maximum.
    #[serde(default, deserialize_with = "number::whole")]
    #[schema(maximum = 730)]
    trial_days: u16,
    /// A promotion code to redeem, as the customer typed it.
    #[serde(default)]
    #[schema(example = "SPRING25", min_length = 1, max_length = 500)]
    promotion_code: Option<String>,
    /// The page's language, as Stripe names it; by default the browser's.
    #[serde(default)]
    #[schema(example = "de")]
    locale: Option<String>,
    /// Subscribe at once where a card can be charged: the payer has seen the price and
    /// agreed.
    #[serde(default)]
    confirm: bool,
}

impl NewCheckout {
    fn purchase(self, addresses: &ReturnAddresses) -> Result<Purchase, Problem> {
        if let Some(locale) = &self.locale
            && !LOCALES.contains(&&**locale)
        {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "locale_not_supported",
                format!(
                    "Stripe's page does not speak {}; leave locale out, or send one of {}",
                    shown(locale),
                    LOCALES.join(", ")
                ),
            ));
        }
        let addons = asked_addons::by_id(self.addons.as_deref()).map_err(Failure::from)?;
        Ok(Purchase {
            addons,
            success_url: addresses.choose("successUrl", self.success_url.as_deref())?,
            cancel_url: addresses.choose("cancelUrl", self.cancel_url.as_deref())?,
            plan_tier: self.plan_tier,
            interval: self.interval,
            quantity: self.quantity,
            trial_days: self.trial_days,
            promotion_code: self.promotion_code,
            locale: self.locale,
        })
    }
}

/// Begin a checkout
///
/// An organization has at most one open checkout: the same purchase gets it again, another
/// one closes it first.
#[utoipa::path(
    post,
    path = "/api/billing/checkout",
    operation_id = "beginCheckout",
    tag = "Checkout",
    request_body = NewCheckout,
    responses((status = 201, description = "The page to send the payer to, or what was subscribed at once.", body = CheckoutView),
              (status = 200, description = "The page that is open for the same purchase.", body = CheckoutView),
              (status = 202, description = "A subscription that waits for its payer, and where to pay it.", body = CheckoutView),
              (status = 409, description = "A subscription runs, or a change is under way.")),
)]
async fn begin(
    State(checkouts): State<Checkouts>,
    caller: Principal,
    key: Option<Key>,
    Body(new): Body<NewCheckout>,
) -> Result<(StatusCode, Json<CheckoutView>), Problem> {
    let confirm = new.confirm;
    let purchase = new.purchase(&checkouts.addresses)?;
    let requester = Requester::of(caller, key);
    let subscriptions = checkouts.subscriptions;
    run(async move {
        if confirm && subscribed_at_once(&subscriptions, &requester, &purchase).await? {
            return subscribed(&subscriptions, &requester).await;
        }
        let begun = subscriptions.check_out(&requester, &purchase).await?;
        let status = match begun.is_new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        Ok::<_, CheckoutFailure>((status, CheckoutView::from(begun.checkout)))
    })
    .await
    .map(|(status, view)| (status, Json(view)))
}

/// What was subscribed at once; or where to pay it, if its payer has to confirm the payment.
async fn subscribed(
    subscriptions: &Subscriptions,
    requester: &Requester,
) -> Result<(StatusCode, CheckoutView), CheckoutFailure> {
    let organization_id = requester.organization_id;
    let state = subscriptions.state(organization_id).await?;
    let required = subscriptions.action_required(organization_id, &state);
    if let Some(required) = required.await? {
        return Ok((StatusCode::ACCEPTED, CheckoutView::to_pay(required)));
    }
    let shown = view(subscriptions, requester).await?;
    Ok((StatusCode::CREATED, CheckoutView::subscribed(shown)))
}

/// Subscribes without a page, if there is a card to be charged. One whose holder must
/// confirm the payment does so on the page.
async fn subscribed_at_once(
    subscriptions: &Subscriptions,
    requester: &Requester,
    purchase: &Purchase,
) -> Result<bool, Failure> {
    let client = subscriptions.stripe()?;
    if !subscriptions.has_usable_card(client, requester).await? {
        return Ok(false);
    }
    match subscriptions
        .change(requester, purchase.command(), None)
        .await
    {
        Ok(()) => Ok(true),
        Err(Failure::Stripe(error)) if error.kind == ErrorKind::AuthenticationRequired => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn view(
    subscriptions: &Subscriptions,
    requester: &Requester,
) -> Result<SubscriptionView, Failure> {
    let (state, discounts) = subscriptions.current(requester.organization_id).await?;
    Ok(SubscriptionView::from(state).with_discounts(discounts))
}

/// Get a checkout
#[utoipa::path(
    get,
    path = "/api/billing/checkout/{id}",
    operation_id = "getCheckout",
    tag = "Checkout",
    params(("id" = String, Path, description = "Stripe's id of it (cs_…).")),
    responses((status = 200, description = "How far it has come.", body = CheckoutView),
              (status = 404, description = "The organization has no such checkout.")),
)]
async fn current(
    State(checkouts): State<Checkouts>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<Json<CheckoutView>, Problem> {
    let found = checkouts
        .subscriptions
        .checkout(caller.organization_id, &id)
        .await?;
    Ok(Json(found.into()))
}

/// Read what the payer has done, and show the subscription
///
/// Ask when the payer returns, as often as you like: it does not wait for a webhook.
#[utoipa::path(
    post,
    path = "/api/billing/checkout/{id}/complete",
    operation_id = "completeCheckout",
    tag = "Checkout",
    params(("id" = String, Path, description = "Stripe's id of it (cs_…).")),
    responses((status = 200, description = "It is complete: the plan and subscription.", body = CompletedCheckout),
              (status = 202, description = "The payer, or their bank, has not finished.", body = CompletedCheckout),
              (status = 404, description = "The organization has no such checkout."),
              (status = 409, description = "Another subscription had begun; what was paid is given back."),
              (status = 410, description = "It has expired, and nothing was bought.")),
)]
async fn complete(
    State(checkouts): State<Checkouts>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<CompletedCheckout>), Problem> {
    let requester = Requester::of(caller, None);
    let subscriptions = checkouts.subscriptions;
    run(async move {
        let organization_id = requester.organization_id;
        let done = subscriptions
            .complete_checkout(organization_id, &id)
            .await?;
        let status = match done.state {
            Progress::Complete => StatusCode::OK,
            _ => StatusCode::ACCEPTED,
        };
        let current = view(&subscriptions, &requester).await?;
        let checkout = CheckoutView::from(done);
        Ok::<_, CheckoutFailure>((status, CompletedCheckout { checkout, current }))
    })
    .await
    .map(|(status, done)| (status, Json(done)))
}

/// Goes on with what was begun when its client goes away.
async fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T, CheckoutFailure>> + Send + 'static,
) -> Result<T, Problem> {
    let done = detached::spawn(work).await.map_err(|error| {
        tracing::error!(%error, "The task of a checkout panicked");
        Problem::internal()
    })?;
    Ok(done?)
}
