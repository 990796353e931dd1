//! Trials: what nobody can charge is not given away as overage.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::json;
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::tenancy::auth::Permission;

use super::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{SUBSCRIPTION, Stripe, VISA, World, text};
use crate::support::service::Options;

struct Trial {
    world: World,
    tenant: Tenant,
    customer: String,
    _file: tempfile::TempDir,
}

/// An organization in a trial of thirty days, without a card.
async fn trial(changes: &[(&str, &str)]) -> Trial {
    let file = tempfile::tempdir().unwrap();
    let mut text_of_plans = std::fs::read_to_string("config/plans.toml").unwrap();
    for (from, to) in changes {
        assert!(text_of_plans.contains(from));
        text_of_plans = text_of_plans.replace(from, to);
    }
    let path: PathBuf = file.path().join("plans.toml");
    std::fs::write(&path, text_of_plans).unwrap();
    let options = Options {
        plans_file: Some(path),
        ..Options::default()
    };
    let world = World::with(Stripe::start().await, options).await;
    let clock = world.stripe.clock(jiff::Timestamp::now().as_second()).await;
    let fields = [("test_clock", &*clock)];
    let customer = text(&world.stripe.post("/v1/customers", &fields).await, "id");
    world.adopt(&customer).await;
    let body = json!({"planTier": "enterprise", "trialDays": 30});
    world
        .call(Method::POST, SUBSCRIPTION, Some(body))
        .await
        .ok();
    world.settle().await;
    let organization = world.organization;
    let key = world.service.api_key(organization, &Permission::ALL).await;
    Trial {
        tenant: Tenant { organization, key },
        world,
        customer,
        _file: file,
    }
}

impl Trial {
    async fn consume(&self, quantity: i64) -> super::tenant::Answer {
        let service = &self.world.service;
        self.tenant
            .consume(service, "agent_executions", quantity)
            .await
    }

    /// What happens over the quota, as usage and as quotas show it.
    async fn over_limit(&self) -> (String, String) {
        let service = &self.world.service;
        let usage = self.tenant.usage(service, "agent_executions").await;
        let quotas = self.tenant.get(service, "/api/billing/quotas").await.ok();
        let quotas = quotas["data"].as_array().unwrap();
        let quota = quotas
            .iter()
            .find(|one| one["metric"] == "agent_executions");
        (text(&usage, "overLimit"), text(quota.unwrap(), "overLimit"))
    }
}

#[tokio::test]
async fn without_a_card_a_trial_ends_at_its_quota() {
    let trial = trial(&[]).await;
    assert_eq!(
        trial.over_limit().await,
        ("hard".to_owned(), "hard".to_owned())
    );
    trial.consume(50_000).await.ok();
    let refused = trial.consume(1).await;
    assert_eq!(refused.problem(), (402, "QUOTA_EXCEEDED"));
    let service = &trial.world.service;
    let executed = trial.tenant.execute(service).await;
    assert_eq!(executed.problem(), (402, "QUOTA_EXCEEDED"));
    let enforced = "/api/enforce?metric=agent_executions";
    assert_eq!(trial.tenant.get(service, enforced).await.status, 402);
    // What has happened is counted, and costs nothing.
    let body = json!({"id": "a", "metric": "agent_executions", "quantity": 100});
    trial.tenant.post(service, EVENTS, &body).await.ok();
    let usage = trial.tenant.usage(service, "agent_executions").await;
    assert_eq!(
        (
            &usage["overage"],
            &usage["overageAmount"],
            &usage["overageRate"]
        ),
        (&json!(100), &json!(null), &json!(null))
    );

    // A card, and the plan's own policy holds at once.
    trial.world.stripe.use_card(&trial.customer, VISA).await;
    trial.world.settle().await;
    let overage = "overage".to_owned();
    assert_eq!(trial.over_limit().await, (overage.clone(), overage));
    trial.consume(1).await.ok();
}

#[tokio::test]
async fn a_trial_that_ends_has_the_plans_own_policy_at_once() {
    let trial = trial(&[]).await;
    trial.consume(50_000).await.ok();
    assert_eq!(trial.consume(1).await.status, 402);
    assert_eq!(trial.over_limit().await.0, "hard");
    // In Stripe's dashboard, the trial is ended and paid, and the card is taken away: that
    // there is a way to charge matters no more.
    let (stripe, customer) = (&trial.world.stripe, &trial.customer);
    stripe.use_card(customer, VISA).await;
    let subscription = stripe.subscriptions(customer).await.remove(0);
    let path = format!("/v1/subscriptions/{}", text(&subscription, "id"));
    stripe.post(&path, &[("trial_end", "now")]).await;
    let cards = [("customer", customer.as_str())];
    for card in stripe.list("/v1/payment_methods", &cards).await {
        let path = format!("/v1/payment_methods/{}/detach", text(&card, "id"));
        stripe.post(&path, &[]).await;
    }
    trial.world.settle().await;
    trial.world.settled_in_the_background().await;
    let left = "billing_payment_methods WHERE status = 'attached'";
    assert_eq!(trial.world.service.db.count(left).await, 0);
    assert_eq!(trial.over_limit().await.0, "overage");
    trial.consume(1).await.ok();
}

#[tokio::test]
async fn the_catalogue_may_say_otherwise() {
    let said = |word: &str| format!("trial_days_max = 30\ntrial_over_limit = \"{word}\"");
    let trial_with = async |word: &str| trial(&[("trial_days_max = 30", &said(word))]).await;
    let graced = trial_with("grace").await;
    let answer = graced.consume(50_001).await;
    assert!(
        !answer.header("x-grace-period-expires").is_empty(),
        "{answer:?}"
    );
    let generous = trial_with("overage").await;
    let answer = generous.consume(1_000_000).await;
    assert_eq!(
        (answer.status, answer.header("x-quota-warning")),
        (200, "true")
    );
    assert_eq!(generous.over_limit().await.0, "overage");
}

#[tokio::test]
async fn what_an_operator_set_holds_in_a_trial() {
    let trial = trial(&[]).await;
    let service = &trial.world.service;
    // Only the number: the trial's rule stays.
    trial
        .tenant
        .set_quota(service, "agent_executions", "60000", None)
        .await;
    assert_eq!(trial.consume(60_001).await.status, 402);
    let kind = Some(OverLimit::Overage);
    trial
        .tenant
        .set_quota(service, "agent_executions", "60000", kind)
        .await;
    trial.consume(60_001).await.ok();
}
