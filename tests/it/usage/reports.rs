//! Telling Stripe of usage: whole units, each once.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::auth::Permission;
use valuecanvas_billing::plans::{self, Catalogue};
use valuecanvas_billing::stripe::client::Client;
use valuecanvas_billing::usage_reports::{self, Report};

use super::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{UPCOMING, VISA, World};
use crate::support::TestService;

struct Billed {
    world: World,
    tenant: Tenant,
    client: Client,
    catalogue: Arc<Catalogue>,
}

impl Billed {
    /// An organization on the standard plan, whose Stripe has the catalogue.
    async fn start() -> Self {
        let world = World::start().await;
        let api = world.stripe.api();
        let client = Client::new(api.base, api.key, api.patience).unwrap();
        let catalogue = Catalogue::load(None).unwrap();
        plans::sync(&client, &catalogue, false).await.unwrap();
        world.customer(VISA).await;
        world.create("standard").await.ok();
        world.settle().await;
        let organization: Uuid = world.organization;
        let key = world.service.api_key(organization, &Permission::ALL).await;
        Self {
            world,
            tenant: Tenant { organization, key },
            client,
            catalogue: Arc::new(catalogue),
        }
    }

    fn service(&self) -> &TestService {
        &self.world.service
    }

    async fn record(&self, id: &str, metric: &str, quantity: &str) {
        let body = json!({"id": id, "metric": metric, "quantity": quantity});
        self.tenant.post(self.service(), EVENTS, &body).await.ok();
    }

    async fn report(&self, now: Timestamp) -> Report {
        let pool = self.service().db.service_pool();
        usage_reports::report(&pool, &self.client, &self.catalogue, now, |_, _| {})
            .await
            .unwrap()
    }

    /// What Stripe has of a metric.
    async fn in_stripe(&self, metric: &str) -> Value {
        let meters = self.world.stripe.get("/v1/billing/meters", &[]).await;
        let name = plans::meter_event_name(metric);
        let meters = meters["data"].as_array().unwrap();
        let meter = meters
            .iter()
            .find(|meter| meter["event_name"] == name.as_str());
        let customer = self
            .service()
            .db
            .value("SELECT stripe_customer_id FROM billing_customers")
            .await;
        let path = format!(
            "/v1/billing/meters/{}/event_summaries",
            meter.unwrap()["id"].as_str().unwrap()
        );
        let now = Timestamp::now().as_second() / 60 * 60;
        let (from, to) = ((now - 86_400).to_string(), (now + 3_600).to_string());
        let summaries = self
            .world
            .stripe
            .get(
                &path,
                &[
                    ("customer", &customer),
                    ("start_time", &from),
                    ("end_time", &to),
                ],
            )
            .await;
        summaries["data"][0]["aggregated_value"].clone()
    }
}

fn books(report: &Report, metric: &str) -> Value {
    let books = report.metrics.iter().find(|books| books.metric == metric);
    serde_json::to_value(books.unwrap()).unwrap()
}

#[tokio::test]
async fn usage_is_told_whole_once_and_the_books_agree() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "1000000.6").await;
    billed.record("b", "llm_tokens", "0.3").await;
    billed.record("c", "storage_gb", "120").await;
    let now = Timestamp::now();
    let first = billed.report(now).await;
    assert_eq!((first.sent, first.failed), (2, 0));
    assert_eq!(
        books(&first, "llm_tokens"),
        json!({"metric": "llm_tokens", "counted": 1_000_000, "reported": 1_000_000, "pending": 0})
    );
    // Again in the same hour: what came since waits for the next.
    billed.record("d", "llm_tokens", "0.2").await;
    billed.record("e", "storage_gb", "110").await;
    let second = billed.report(now).await;
    assert_eq!(second.sent, 0);
    assert_eq!(books(&second, "llm_tokens")["pending"], 1);
    let next = billed.report(now + SignedDuration::from_hours(1)).await;
    assert_eq!(next.failed, 2, "Stripe takes nothing an hour ahead");
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(1_000_000));
}

#[tokio::test]
async fn a_report_whose_answer_was_lost_is_told_once() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "500").await;
    let now = Timestamp::now();
    billed.report(now).await;
    // As after a crash between Stripe and the mark.
    billed
        .service()
        .db
        .execute("UPDATE usage_reports SET sent_at = NULL")
        .await;
    let again = billed.report(now).await;
    assert_eq!((again.sent, again.failed), (1, 0));
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(500));
    // Whose fate is older than Stripe's memory, is an operator's to look at.
    billed
        .service()
        .db
        .execute(
            "UPDATE usage_reports SET sent_at = NULL, attempted_at = now() - interval '25 hours'",
        )
        .await;
    let doubtful = billed.report(now).await;
    assert_eq!((doubtful.sent, doubtful.doubtful), (0, 1));
}

#[tokio::test]
async fn two_runs_at_once_tell_of_it_once() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "77").await;
    let now = Timestamp::now();
    let (one, two) = tokio::join!(billed.report(now), billed.report(now));
    assert_eq!(one.failed + two.failed, 0);
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(77));
    let sum = "SELECT sum(units) FROM usage_reports";
    assert_eq!(billed.service().db.value(sum).await, "77");
}

#[tokio::test]
async fn overage_is_in_the_upcoming_invoice() {
    let billed = Billed::start().await;
    billed.record("a", "agent_executions", "5003").await;
    billed.report(Timestamp::now()).await;
    let usage = billed
        .tenant
        .usage(billed.service(), "agent_executions")
        .await;
    assert_eq!(
        (&usage["overage"], &usage["overageAmount"]),
        (&json!(3), &json!(30))
    );
    let upcoming = billed.tenant.get(billed.service(), UPCOMING).await.ok();
    assert_eq!(upcoming["overages"][0]["overageAmount"], 30);
    assert_eq!(upcoming["totalAmount"], 9_930);
}

#[tokio::test]
async fn who_is_not_billed_is_not_reported() {
    let billed = Billed::start().await;
    let free = Tenant::of(billed.service(), "Free").await;
    let body = json!({"id": "a", "metric": "llm_tokens", "quantity": 5});
    free.post(billed.service(), EVENTS, &body).await.ok();
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.metrics.len()), (0, 0));
}
