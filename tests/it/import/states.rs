//! What Stripe has is here afterwards, whatever state it is in.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Account, reasons};
use crate::subscriptions::world::text;

impl Account {
    /// Subscriptions in every state that needs no clock; what was paid, refunded, disputed.
    async fn fill(&self) {
        let stripe = &self.world.stripe;
        let (_, paying) = self.named().await;
        self.subscribe(&paying, &[]).await;
        let (_, trying) = self.named().await;
        self.subscribe(&trying, &[("trial_period_days", "14")])
            .await;
        let (_, gone) = self.named().await;
        let canceled = text(&self.subscribe(&gone, &[]).await, "id");
        let path = format!("/v1/subscriptions/{canceled}");
        stripe.send(Method::DELETE, &path, &[]).await;
        let (_, ending) = self.named().await;
        self.subscribe(&ending, &[("cancel_at_period_end", "true")])
            .await;
        let (_, failing) = self.named().await;
        stripe
            .use_card(&failing, "pm_card_chargeCustomerFail")
            .await;
        self.subscribe(&failing, &[]).await;
        let (_, planned) = self.named().await;
        let id = text(&self.subscribe(&planned, &[]).await, "id");
        let fields = [("from_subscription", &*id)];
        stripe.post("/v1/subscription_schedules", &fields).await;
        let (_, disputed) = self.named().await;
        stripe.use_card(&disputed, "pm_card_createDispute").await;
        self.subscribe(&disputed, &[]).await;
        let (_, refunded) = self.named().await;
        self.subscribe(&refunded, &[]).await;
        let charge = &stripe.list("/v1/charges", &[("customer", &refunded)]).await[0];
        let fields = [("charge", &*text(charge, "id")), ("amount", "100")];
        stripe.post("/v1/refunds", &fields).await;
        self.named().await;
    }
}

#[tokio::test]
async fn an_account_in_every_state_leaves_no_difference_and_its_events_change_nothing() {
    let account = Account::open().await;
    account.fill().await;

    let before = account.state().await;
    let rehearsed = account.imported(&["--dry-run"]).await;
    assert_eq!(rehearsed["dryRun"], true);
    assert_eq!(rehearsed["customers"]["byMetadata"], 9);
    assert_eq!(rehearsed["subscriptions"]["active"], 5, "{rehearsed:#}");
    assert_eq!(rehearsed["subscriptions"]["trialing"], 1);
    assert_eq!(rehearsed["subscriptions"]["canceled"], 1);
    assert_eq!(rehearsed["subscriptions"]["incomplete"], 1);
    let told: Vec<String> = reasons(&rehearsed)
        .into_iter()
        .map(|(why, _)| why)
        .collect();
    assert_eq!(told, ["schedule"]);
    assert_eq!(account.state().await, before);
    assert_eq!(account.count("stripe_imports").await, 0);

    let report = account.imported(&[]).await;
    assert_eq!(report["complete"], true);
    assert_eq!(
        report["done"]["subscriptions"],
        json!({"seen": 8, "written": 8})
    );
    assert_eq!(report["done"]["links"]["written"], 9);
    assert_eq!(account.drift().await, [""; 0]);
    let plans = "SELECT count(*)::text FROM organizations WHERE plan_tier = 'standard'";
    assert_eq!(account.value(plans).await, "6");
    assert!(account.count("billing_prices").await > 0);

    // Again, nothing is left to do.
    let (state, entries) = (
        account.state().await,
        account.count("billing_audit_log").await,
    );
    let report = account.imported(&[]).await;
    let done = report["done"].as_object().unwrap();
    let written = |one: &Value| one["written"].as_u64().unwrap();
    assert!(done.values().all(|one| written(one) == 0), "{done:#?}");
    assert_eq!(account.count("billing_audit_log").await, entries);

    // The events that told of it all when it happened come now.
    let ran = account
        .run(&["webhooks", "backfill", "--since", "1d", "--json"])
        .await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    account.world.service.settle().await;
    assert!(account.count("webhook_events WHERE processed").await > 50);
    assert_eq!(account.state().await, state);
    assert_eq!(account.drift().await, [""; 0]);
}
