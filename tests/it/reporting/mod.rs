//! Business figures: what is booked of subscriptions, and what the views make of it.

mod dates;
mod figures;
mod journal;
mod rights;
mod terms;

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::reporting::journal as book;
use valuecanvas_billing::tenancy::auth::Role;

use crate::support::TestService;
use crate::support::events::{event, subscription};

/// The service with an operator, whose subscriptions change as the test says.
struct Books {
    service: TestService,
    operator: String,
}

/// 1 January 2026, UTC.
const JANUARY: i64 = 1_767_225_600;
const DAY: i64 = 86_400;
const FEBRUARY: i64 = JANUARY + 31 * DAY;
const MARCH: i64 = FEBRUARY + 28 * DAY;

/// A subscription that is charged `unit_amount` a `interval`, `quantity` times.
fn paying(id: &str, customer: &str, unit_amount: i64, interval: &str, quantity: i64) -> Value {
    let mut object = subscription(id, customer, "active", "standard");
    let item = &mut object["items"]["data"][0];
    item["price"]["unit_amount"] = json!(unit_amount);
    item["price"]["unit_amount_decimal"] = json!(unit_amount.to_string());
    item["price"]["recurring"]["interval"] = json!(interval);
    item["quantity"] = json!(quantity);
    object["created"] = json!(JANUARY);
    object
}

impl Books {
    async fn open() -> Self {
        let service = TestService::start().await;
        let operator = service.token(Uuid::nil(), Role::Operator).await;
        Self { service, operator }
    }

    /// Delivers `object` as of `at`, and books it.
    async fn happens(&self, id: &str, at: i64, object: Value) {
        let deleted = object["status"] == "canceled";
        let kind = match deleted {
            true => "customer.subscription.deleted",
            false => "customer.subscription.updated",
        };
        self.service.deliver(&event(id, kind, at, object)).await;
        self.service.settle().await;
        self.book().await;
    }

    /// Delivers `object` as of `at`, and books nothing yet.
    async fn comes(&self, id: &str, at: i64, object: Value) {
        let kind = "customer.subscription.updated";
        self.service.deliver(&event(id, kind, at, object)).await;
        self.service.settle().await;
    }

    /// Kind, time, event and amounts of each movement, oldest first.
    async fn dated(&self) -> Vec<Value> {
        let page = self.get("/movements?limit=100").await;
        let rows = page["data"].as_array().unwrap().iter().rev();
        rows.map(|row| {
            json!([
                row["kind"],
                row["occurredAt"],
                row["stripeEventId"],
                row["beforeAmount"],
                row["afterAmount"],
            ])
        })
        .collect()
    }

    /// Books what the service has not.
    async fn book(&self) {
        book::run(&self.service.db.service_pool()).await.unwrap();
    }

    async fn get(&self, path: &str) -> Value {
        let response = self
            .service
            .get(&format!("/api/operator/figures{path}"))
            .bearer_auth(&self.operator)
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn csv(&self, path: &str) -> String {
        let response = self
            .service
            .get(&format!("/api/operator/figures{path}"))
            .bearer_auth(&self.operator)
            .header("accept", "text/csv")
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["content-type"],
            "text/csv; charset=utf-8"
        );
        response.text().await.unwrap()
    }

    /// How many balances are not what the subscriptions come to.
    async fn differences(&self) -> i64 {
        let differences = "(
            SELECT organization_id FROM reporting.recurring_revenue r
              FULL JOIN (SELECT * FROM billing_revenue_balances WHERE amount > 0) b
                USING (organization_id, currency)
             WHERE coalesce(r.amount, 0) <> coalesce(b.amount, 0)) differences";
        self.service.db.count(differences).await
    }
}
