//! What an organization may do while its subscription is past due, and how it gets out of
//! it: `[recovery]` of the catalogue.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{DAY, SUBSCRIPTION, VISA, World, text};
use crate::catalogue::shop::Shop;
use crate::metering::tenant::Tenant;
use valuecanvas_billing::tenancy::auth::Permission;

const REFUSED: &str = "pm_card_chargeCustomerFail";
const TRIAL: i64 = 14 * DAY;

/// `[recovery]` with these lines, in the file that ships.
fn recovery(lines: &str) -> [(String, String); 1] {
    let from = "[proration]\n".to_owned();
    let to = format!("[recovery]\n{lines}\n\n{from}");
    [(from, to)]
}

pub async fn shop(lines: &str) -> Shop {
    let changes = recovery(lines);
    let changes: Vec<(&str, &str)> = changes.iter().map(|(a, b)| (&**a, &**b)).collect();
    Shop::open(&changes).await
}

/// What the service says of what the organization may do.
#[derive(Debug, PartialEq)]
struct May {
    plan: String,
    quota_plan: String,
    seats: Value,
    projects: Value,
    sso: u16,
    checked: u16,
    payment: (String, Value),
}

struct Late {
    shop: Shop,
    clock: String,
    customer: String,
    tenant: Tenant,
    /// When the payment failed.
    failed_at: i64,
}

impl Late {
    /// On the enterprise plan, whose first payment after a trial failed `days` and an hour
    /// ago.
    async fn since(days: i64, lines: &str) -> Self {
        let mut shop = shop(lines).await;
        let failed_at = Timestamp::now().as_second() - days * DAY - 3_600;
        let began = failed_at - 3_600 - TRIAL;
        let clock = shop.world.stripe.clock(began).await;
        let customer = shop.world.newcomer(&clock).await;
        shop.world.stripe.use_card(&customer, REFUSED).await;
        let body = json!({"planTier": "enterprise", "trialDays": 14});
        let made = shop.world.call(Method::POST, SUBSCRIPTION, Some(body));
        assert_eq!(made.await.ok()["status"], "trialing");
        shop.world.settle().await;
        let organization = shop.world.organization;
        let key = shop.world.service.api_key(organization, &Permission::ALL);
        let tenant = Tenant {
            organization,
            key: key.await,
        };
        let late = Self {
            shop,
            clock,
            customer,
            tenant,
            failed_at,
        };
        assert_eq!(late.may().await, late.all(None).await);
        late.advance(failed_at + 60).await;
        assert_eq!(late.world().current().await["status"], "past_due");
        late
    }

    fn world(&self) -> &World {
        &self.shop.world
    }

    async fn advance(&self, to: i64) {
        self.world().stripe.advance(&self.clock, to).await;
        self.world().settle().await;
    }

    async fn state(&self) -> Value {
        let state = "/api/billing/state";
        self.tenant.get(&self.world().service, state).await.ok()
    }

    /// As it is at one version of the state.
    async fn may(&self) -> May {
        loop {
            let before = self.state().await["stateVersion"].clone();
            let may = self.answers().await;
            if let (Some(may), true) = (may, self.state().await["stateVersion"] == before) {
                return may;
            }
        }
    }

    /// `None` if the answers are not of one time.
    async fn answers(&self) -> Option<May> {
        let service = &self.world().service;
        let state = self.state().await;
        let quotas = self.tenant.get(service, "/api/billing/quotas").await.ok();
        let seats = |list: &Value| {
            let list = list.as_array().unwrap();
            let seats = list.iter().find(|one| one["metric"] == "user_seats");
            seats.unwrap()["quota"].clone()
        };
        let current = self.world().current().await;
        let agree = seats(&quotas["data"]) == seats(&state["quotas"])
            && state["plan"]["tier"] == current["planTier"];
        let sso = "/api/enforce?feature=sso";
        let check = json!({"metric": "user_seats", "quantity": 4, "consume": false, "id": "c"});
        let checked = self
            .tenant
            .post(service, "/api/billing/usage/check", &check);
        let may = May {
            plan: text(&state["plan"], "tier"),
            quota_plan: self.world().plan().await.1,
            seats: seats(&quotas["data"]),
            projects: state["features"]["projects"].clone(),
            sso: self.tenant.get(service, sso).await.status,
            checked: checked.await.status,
            payment: (
                text(&state["payment"], "status"),
                state["payment"]["problem"].clone(),
            ),
        };
        agree.then_some(may)
    }

    /// All of the plan, with this problem.
    async fn all(&self, problem: Option<&str>) -> May {
        May {
            plan: "enterprise".to_owned(),
            quota_plan: "enterprise".to_owned(),
            seats: Value::Null,
            projects: json!(1_000),
            sso: 200,
            checked: 200,
            payment: payment(problem),
        }
    }

    /// What there is without a subscription.
    async fn nothing(&self) -> May {
        May {
            plan: "free".to_owned(),
            quota_plan: "free".to_owned(),
            seats: json!(3),
            projects: json!(3),
            sso: 403,
            checked: 402,
            payment: payment(Some("payment_failed")),
        }
    }

    /// Waits until the background has changed what it may.
    async fn becomes(&self, expected: May) {
        for _ in 0..600 {
            if self.may().await == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(self.may().await, expected);
    }

    /// A new card becomes the default.
    async fn new_card(&self, card: &str) -> u16 {
        let id = self.world().attach(&self.customer, card).await;
        let path = format!("/api/billing/payment-methods/{id}/default");
        let made = self.world().call(Method::PUT, &path, None).await;
        made.status
    }

    async fn access_entries(&self) -> Vec<String> {
        let entries = self.world().audit().await.into_iter();
        entries
            .filter(|entry| entry.starts_with("subscription_access"))
            .collect()
    }
}

fn payment(problem: Option<&str>) -> (String, Value) {
    let status = match problem {
        Some(_) => "past_due",
        None => "paid",
    };
    (status.to_owned(), json!(problem))
}

#[tokio::test]
async fn without_access_everything_says_the_same_until_the_new_card_has_paid() {
    let late = Late::since(0, "past_due_access = \"none\"").await;
    assert_eq!(late.may().await, late.nothing().await);
    assert_eq!(
        late.access_entries().await,
        ["subscription_access_ended webhook"]
    );
    let failed_at = Timestamp::from_second(late.failed_at).unwrap();
    let ends = text(&late.state().await["payment"], "accessEndsAt");
    assert_eq!(ends.parse::<Timestamp>().unwrap(), failed_at);
    let before = late.state().await["stateVersion"].as_i64().unwrap();
    // A card that is refused as well is the default now, and changes nothing else.
    assert_eq!(late.new_card(REFUSED).await, 200);
    assert_eq!(late.may().await, late.nothing().await);
    late.advance(late.failed_at + 120).await;
    // Before any webhook.
    late.world().deliver_nothing().await;
    assert_eq!(late.new_card(VISA).await, 200);
    assert_eq!(late.may().await, late.all(None).await);
    let state = late.state().await;
    assert_eq!(state["payment"]["accessEndsAt"], Value::Null);
    assert!(state["stateVersion"].as_i64().unwrap() > before);
    let paid = late.world().stripe.invoices(&late.customer).await;
    let paid = paid.iter().filter(|one| one["amount_paid"] == 49_900);
    assert_eq!(paid.count(), 1);
    // The webhooks confirm it.
    late.world().deliver_again().await;
    late.world().settle().await;
    assert_eq!(late.may().await, late.all(None).await);
    assert_eq!(
        late.access_entries().await,
        [
            "subscription_access_ended webhook",
            "subscription_access_restored system"
        ]
    );
}

#[tokio::test]
async fn access_lasts_as_many_days_as_the_catalogue_says() {
    let late = Late::since(1, "past_due_access = \"3d\"").await;
    let kept = late.all(Some("payment_failed")).await;
    assert_eq!(late.may().await, kept);
    let ends = text(&late.state().await["payment"], "accessEndsAt");
    let ends: Timestamp = ends.parse().unwrap();
    assert_eq!(ends.as_second(), late.failed_at + 3 * DAY);
    // The next attempt fails as well, and begins no days anew: Stripe's clock is ahead.
    late.advance(late.failed_at + 3 * DAY + 60).await;
    assert_eq!(late.may().await, late.nothing().await);
    let again = text(&late.state().await["payment"], "accessEndsAt");
    assert_eq!(again.parse::<Timestamp>().unwrap(), ends);
    // Who pays on Stripe's page has it back with the event.
    let stripe = &late.world().stripe;
    stripe.use_card(&late.customer, VISA).await;
    let invoices = stripe.invoices(&late.customer).await;
    let open = invoices.iter().find(|invoice| invoice["status"] == "open");
    let path = format!("/v1/invoices/{}/pay", text(open.unwrap(), "id"));
    stripe.post(&path, &[]).await;
    late.world().settle().await;
    assert_eq!(late.may().await, late.all(None).await);
}

#[tokio::test]
async fn time_and_another_policy_change_it_without_an_event() {
    let mut late = Late::since(2, "past_due_access = \"keep\"").await;
    let kept = late.all(Some("payment_failed")).await;
    assert_eq!(late.may().await, kept);
    let access = |word: &str| format!("past_due_access = \"{word}\"");
    late.shop.edit(&[(&access("keep"), &access("1d"))]);
    late.shop.restart().await;
    late.becomes(late.nothing().await).await;
    assert_eq!(
        late.access_entries().await,
        ["subscription_access_ended system"]
    );
    late.shop.edit(&[(&access("1d"), &access("30d"))]);
    late.shop.restart().await;
    late.becomes(kept).await;
    let ends = text(&late.state().await["payment"], "accessEndsAt");
    let ends: Timestamp = ends.parse().unwrap();
    assert_eq!(ends.as_second(), late.failed_at + 30 * DAY);
}

#[tokio::test]
async fn by_default_the_plan_stays_while_stripe_tries() {
    let late = Late::since(2, "").await;
    assert_eq!(late.may().await, late.all(Some("payment_failed")).await);
    let state = late.state().await;
    assert_eq!(state["payment"]["accessEndsAt"], Value::Null);
    assert_eq!(late.access_entries().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_payment_whose_answer_is_lost_is_made_once() {
    let late = Late::since(0, "past_due_access = \"none\"").await;
    let invoices = late.world().stripe.invoices(&late.customer).await;
    let open = invoices.iter().find(|invoice| invoice["status"] == "open");
    let path = format!("/v1/invoices/{}/pay", text(open.unwrap(), "id"));
    late.world().deliver_nothing().await;
    let fault = [
        ("fault", "drop_after_acting"),
        ("path", path.as_str()),
        ("next", "3"),
    ];
    late.world().stripe.fault(&fault).await;
    assert_eq!(late.new_card(VISA).await, 503);
    late.world().stripe.clear_faults().await;
    let aged = "UPDATE billing_stripe_requests
                   SET created_at = created_at - interval '1 hour', called_at = called_at - interval '1 hour'
                 WHERE subject = 'payment_method' AND state = 'open'";
    late.world().service.db.execute(aged).await;
    late.world().settled_in_the_background().await;
    late.becomes(late.all(None).await).await;
    let fields = [("customer", &*late.customer)];
    let charges = late.world().stripe.list("/v1/charges", &fields).await;
    let paid = charges.iter().filter(|one| one["status"] == "succeeded");
    assert_eq!(paid.count(), 1);
}
