//! Changes at the end of a period, and what calls them off.

mod discounts;
mod faults;
pub mod migrations;
mod orders;
mod said;

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{Answer, DAY, PREVIEW, START, SUBSCRIPTION, UPCOMING, World, seconds, text};

pub const PENDING: &str = "/api/billing/subscription/pending-change";
/// 2026-02-28T10:00:00Z, the end of the first period.
pub const RENEWAL: i64 = START + 28 * DAY;

impl World {
    pub async fn change_when(&self, tier: &str, when: &str) -> Answer {
        let body = json!({"planTier": tier, "when": when});
        self.call(Method::PUT, SUBSCRIPTION, Some(body)).await
    }

    pub async fn preview_when(&self, tier: &str, when: &str) -> Answer {
        let body = json!({"planTier": tier, "when": when});
        self.call(Method::POST, PREVIEW, Some(body)).await
    }

    pub async fn call_off(&self) -> Answer {
        self.call(Method::DELETE, PENDING, None).await
    }

    /// The only running subscription of a customer in Stripe.
    pub async fn running(&self, customer: &str) -> Value {
        let held = self.stripe.subscriptions(customer).await;
        let mut running = held.into_iter().filter(|one| one["status"] != "canceled");
        let one = running.next().expect("a running subscription");
        assert!(running.next().is_none());
        one
    }
}

#[tokio::test]
async fn a_downgrade_at_the_periods_end_costs_nothing_now_and_what_was_shown_then() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("enterprise").await.ok();
    world.settle().await;
    world.stripe.advance(&clock, START + 7 * DAY).await;
    world.settle().await;

    let shown = world.preview_when("standard", "period_end").await.ok();
    assert_eq!(shown["when"], "period_end");
    assert_eq!(seconds(&shown["effectiveDate"]), RENEWAL);
    assert_eq!(seconds(&shown["nextInvoiceDate"]), RENEWAL);
    for nothing in ["proratedAmountMinor", "dueNowAmountMinor"] {
        assert_eq!(shown[nothing], 0, "{nothing}");
    }
    assert_eq!(shown["nextInvoiceAmountMinor"], 9_900);
    assert_eq!(shown["lines"], json!([]));
    assert_eq!(shown["pendingChange"], Value::Null);
    // Another time than the one that was shown is another change.
    let body =
        json!({"planTier": "standard", "when": "now", "previewToken": shown["previewToken"]});
    let answer = world.call(Method::PUT, SUBSCRIPTION, Some(body)).await;
    assert_eq!(answer.problem(), (409, "preview_stale"));

    let changed = world.change_as(&shown).await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    let pending = &changed["pendingChange"];
    assert_eq!(pending["planTier"], "standard");
    assert_eq!(pending["when"], "period_end");
    assert_eq!(pending["quantity"], 1);
    assert_eq!(seconds(&pending["effectiveAt"]), RENEWAL);
    let schedule = text(pending, "stripeScheduleId");
    assert_eq!(
        world.running(&customer).await["schedule"],
        schedule.as_str()
    );
    // The webhooks confirm it, and change nothing.
    world.settle().await;
    assert_eq!(world.current().await, changed);
    assert_eq!(
        world.plan().await,
        ("enterprise".into(), "enterprise".into())
    );
    assert_eq!(world.stripe.invoices(&customer).await.len(), 1);
    let upcoming = world.call(Method::GET, UPCOMING, None).await.ok();
    assert_eq!(upcoming["totalAmount"], 9_900);
    // The same plan again is the one that it has.
    let answer = world.change("enterprise").await;
    assert_eq!(answer.problem(), (409, "same_plan"));
    let detail = text(&answer.body, "detail");
    assert!(detail.contains("pending-change"), "{detail}");
    let audit = world.audit().await;
    let scheduled = |entry: &&String| *entry == "subscription_change_scheduled user";
    assert_eq!(audit.iter().filter(scheduled).count(), 1, "{audit:?}");

    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    let current = world.current().await;
    assert_eq!(current["planTier"], "standard");
    assert_eq!(current["pendingChange"], Value::Null);
    assert_eq!(seconds(&current["currentPeriodStart"]), RENEWAL);
    assert_eq!(world.plan().await, ("standard".into(), "standard".into()));
    let invoices = world.stripe.invoices(&customer).await;
    assert_eq!(invoices.len(), 2);
    assert_eq!(invoices[1]["amount_paid"], shown["nextInvoiceAmountMinor"]);
    // The schedule has done its work, and stands in nobody's way.
    let canceled = world.cancel(false).await.ok();
    assert_eq!(canceled["cancelAtPeriodEnd"], true);
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    world.settle().await;
    assert_eq!(world.current().await, canceled);
}

#[tokio::test]
async fn the_catalogue_says_when_unless_who_asks_does() {
    use crate::catalogue::shop::Shop;
    let downgrade = "[changes]\nupgrade = \"now\"\ndowngrade = \"now\"";
    let later = "[changes]\nupgrade = \"now\"\ndowngrade = \"period_end\"";
    let mut shop = Shop::open(&[(downgrade, later)]).await;
    shop.subscriber("enterprise").await;
    let world = &shop.world;
    let changed = world.change("standard").await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    assert_eq!(changed["pendingChange"]["planTier"], "standard");
    assert_eq!(changed["pendingChange"]["planVersion"], 1);
    let changed = world.change_when("standard", "now").await.ok();
    assert_eq!(changed["planTier"], "standard");
    assert_eq!(changed["pendingChange"], Value::Null);
    let changed = world.change("enterprise").await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    assert_eq!(changed["pendingChange"], Value::Null);
}

#[tokio::test]
async fn a_pending_change_is_called_off_once() {
    let (world, clock, customer) = World::on_clock(START).await;
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    world.create("enterprise").await.ok();
    world.settle().await;
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    world.change_when("standard", "period_end").await.ok();
    let key = Some("call-off");
    let first = world.call_with(Method::DELETE, PENDING, None, key).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.body["pendingChange"], Value::Null);
    assert_eq!(first.body["planTier"], "enterprise");
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    let again = world.call_with(Method::DELETE, PENDING, None, key).await;
    assert_eq!((again.status, again.body), (200, first.body.clone()));
    assert_eq!(world.call_off().await.problem(), (404, "no_pending_change"));
    world.settle().await;
    assert_eq!(world.current().await, first.body);
    let audit = world.audit().await;
    let called_off = |entry: &&String| *entry == "subscription_change_called_off user";
    assert_eq!(audit.iter().filter(called_off).count(), 1, "{audit:?}");
    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    let invoices = world.stripe.invoices(&customer).await;
    assert_eq!(invoices[1]["amount_paid"], 49_900);
    assert_eq!(world.current().await["planTier"], "enterprise");
}

#[tokio::test]
async fn another_change_at_the_periods_end_takes_the_place_of_the_first() {
    let (world, _, customer) = World::on_clock(START).await;
    world.create("enterprise").await.ok();
    let first = world.change_when("standard", "period_end").await.ok();
    let schedule = &first["pendingChange"]["stripeScheduleId"];
    let shown = world.preview_when("standard", "period_end").await.ok();
    assert_eq!(shown["nextInvoiceAmountMinor"], 9_900);
    assert_eq!(shown["pendingChange"], first["pendingChange"]);
    let again = world.change_when("standard", "period_end").await.ok();
    assert_eq!(again["pendingChange"]["stripeScheduleId"], *schedule);
    let path = format!("/v1/subscription_schedules/{}", schedule.as_str().unwrap());
    let phases = &world.stripe.get(&path, &[]).await["phases"];
    assert_eq!(phases.as_array().map(Vec::len), Some(2));
    // To nothing: the subscription ends, and nothing is pending.
    let ending = world.change_when("free", "period_end").await.ok();
    assert_eq!(ending["cancelAtPeriodEnd"], true);
    assert_eq!(ending["pendingChange"], Value::Null);
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    let answer = world.change_when("standard", "period_end").await;
    assert_eq!(answer.problem(), (409, "already_canceling"));
    let kept = world.reactivate().await.ok();
    assert_eq!(kept["cancelAtPeriodEnd"], false);
}

#[tokio::test]
async fn an_immediate_change_of_plan_takes_the_place_of_a_pending_one_unless_it_is_declined() {
    let (world, clock, customer) = World::on_clock(START).await;
    world.create("standard").await.ok();
    world.change_when("enterprise", "period_end").await.ok();
    world.settle().await;
    world.stripe.advance(&clock, START + 14 * DAY).await;
    world.settle().await;
    let shown = world.preview_when("enterprise", "now").await.ok();
    assert_eq!(shown["dueNowAmountMinor"], 20_000);
    assert_eq!(shown["nextInvoiceAmountMinor"], 49_900);
    assert_eq!(shown["pendingChange"]["planTier"], "enterprise");

    world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let answer = world.change_as(&shown).await;
    assert_eq!(answer.problem(), (402, "card_declined"));
    let current = world.current().await;
    assert_eq!(current["planTier"], "standard");
    assert_eq!(current["pendingChange"]["planTier"], "enterprise");
    assert!(world.running(&customer).await["schedule"].is_string());

    world.stripe.use_card(&customer, "pm_card_visa").await;
    let shown = world.preview_when("enterprise", "now").await.ok();
    let changed = world.change_as(&shown).await.ok();
    assert_eq!(changed["planTier"], "enterprise");
    assert_eq!(changed["pendingChange"], Value::Null);
    assert_eq!(world.running(&customer).await["schedule"], Value::Null);
    world.settle().await;
    assert_eq!(world.current().await, changed);
    let invoices = world.stripe.invoices(&customer).await;
    assert_eq!(invoices[1]["amount_paid"], shown["dueNowAmountMinor"]);
    world.stripe.advance(&clock, RENEWAL + 7_200).await;
    world.settle().await;
    let invoices = world.stripe.invoices(&customer).await;
    assert_eq!(invoices[2]["amount_paid"], shown["nextInvoiceAmountMinor"]);
}

#[tokio::test]
async fn a_schedule_of_the_dashboard_is_shown_and_vanishes_and_a_change_of_seats_leaves_it() {
    let (world, clock, customer) = World::on_clock(START).await;
    let created = world.create("enterprise").await.ok();
    world.settle().await;
    let subscription = text(&created, "stripeSubscriptionId");
    let prices = world.stripe.list("/v1/prices", &[]).await;
    let price = |tier: &str| {
        let key = format!("valuecanvas_{tier}_monthly");
        let found = prices
            .iter()
            .find(|price| price["lookup_key"] == key.as_str());
        text(found.unwrap(), "id")
    };
    let from = [("from_subscription", subscription.as_str())];
    let schedule = world.stripe.post("/v1/subscription_schedules", &from).await;
    let path = format!("/v1/subscription_schedules/{}", text(&schedule, "id"));
    world.settle().await;
    assert_eq!(world.current().await["pendingChange"], Value::Null);
    let (start, at) = (START.to_string(), (START + 20 * DAY).to_string());
    let (enterprise, standard) = (price("enterprise"), price("standard"));
    let phases = [
        ("phases[0][items][0][price]", enterprise.as_str()),
        ("phases[0][start_date]", start.as_str()),
        ("phases[0][end_date]", at.as_str()),
        ("phases[1][items][0][price]", standard.as_str()),
        ("phases[1][items][0][quantity]", "2"),
    ];
    world.stripe.post(&path, &phases).await;
    world.settle().await;
    // Whose the new price is, Stripe is asked.
    world.settled_in_the_background().await;
    let current = world.current().await;
    let pending = &current["pendingChange"];
    assert_eq!(pending["planTier"], "standard");
    assert_eq!(pending["quantity"], 2);
    assert_eq!(pending["when"], "scheduled");
    assert_eq!(seconds(&pending["effectiveAt"]), START + 20 * DAY);

    // More seats of the same plan, in the dashboard.
    world.stripe.advance(&clock, START + 5 * DAY).await;
    let item = text(&world.running(&customer).await["items"]["data"][0], "id");
    let seats = [("items[0][id]", item.as_str()), ("items[0][quantity]", "3")];
    let of_subscription = format!("/v1/subscriptions/{subscription}");
    world.stripe.post(&of_subscription, &seats).await;
    world.settle().await;
    world.settled_in_the_background().await;
    assert_eq!(world.current().await["pendingChange"], *pending);

    world.stripe.post(&format!("{path}/release"), &[]).await;
    world.settle().await;
    let current = world.current().await;
    assert_eq!(current["pendingChange"], Value::Null);
    assert_eq!(current["planTier"], "enterprise");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_what_is_right() {
    let world = World::start().await;
    world.customer("pm_card_visa").await;
    let body = json!({"planTier": "standard", "when": "period_end"});
    let answer = world.call(Method::POST, SUBSCRIPTION, Some(body)).await;
    assert_eq!(answer.problem(), (422, "no_current_period"));
    let answer = world.change_when("standard", "period_end").await;
    assert_eq!(answer.problem(), (422, "no_current_period"));
    world.change_when("standard", "now").await.ok();
    let answer = world.change_when("free", "now").await;
    assert_eq!(answer.problem(), (422, "not_at_once"));
    let answer = world.change_when("enterprise", "tomorrow").await;
    assert_eq!(answer.problem(), (400, "invalid_request"));
    let detail = text(&answer.body, "detail");
    assert!(detail.contains("`now` or `period_end`"), "{detail}");
    let answer = world.preview_when("free", "now").await;
    assert_eq!(answer.problem(), (422, "not_at_once"));
}

#[tokio::test]
async fn what_stripe_does_not_price_says_the_way_out_that_there_is() {
    let world = World::start().await;
    world.customer("pm_card_visa").await;
    let created = world.create("enterprise").await.ok();
    let subscription = text(&created, "stripeSubscriptionId");
    let from = [("from_subscription", subscription.as_str())];
    world.stripe.post("/v1/subscription_schedules", &from).await;
    world.settle().await;
    world.settled_in_the_background().await;
    let discounted = "UPDATE billing_subscriptions SET discounted = true";
    world.service.db.execute(discounted).await;
    let way_out = async || {
        let answer = world.preview_when("standard", "period_end").await;
        assert_eq!(answer.problem(), (409, "preview_unavailable"), "{answer:?}");
        text(&answer.body, "detail")
    };
    // Nothing is pending, and the schedule ends with the period.
    let ends = text(&created, "currentPeriodEnd");
    let detail = way_out().await;
    assert!(
        detail.contains(&format!("or try again after {ends}")),
        "{detail}"
    );
    world.change_when("standard", "period_end").await.ok();
    world.service.db.execute(discounted).await;
    let detail = way_out().await;
    assert!(
        detail.ends_with("call what is pending off first"),
        "{detail}"
    );
}
