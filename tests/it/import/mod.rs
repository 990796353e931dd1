//! `import stripe`: an account that was there before.

mod beside;
mod findings;
mod history;
mod maps;
mod organizations;
mod resumed;
mod states;

use serde_json::Value;
use uuid::Uuid;

use crate::subscriptions::world::{VISA, World, text};
use crate::support::program::{Ran, program_with_stripe, run_beside};

/// The service beside an account whose webhooks go nowhere.
struct Account {
    world: World,
    price: String,
}

impl Account {
    async fn open() -> Self {
        let world = World::start().await;
        world.deliver_nothing().await;
        let price = text(&world.stripe.price("standard", "9900").await, "id");
        Self { world, price }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        run_beside(self.command(arguments)).await
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let base = self.world.stripe.sandbox.url();
        program_with_stripe(&self.world.service.db, &base, arguments)
    }

    async fn import(&self, arguments: &[&str]) -> Ran {
        let import = ["import", "stripe", "--json", "--rate", "1000"];
        self.run(&[&import[..], arguments].concat()).await
    }

    /// Imports, and shows the report of what went well.
    async fn imported(&self, arguments: &[&str]) -> Value {
        let ran = self.import(arguments).await;
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        ran.json()
    }

    /// What `subscriptions reconcile` finds.
    async fn drift(&self) -> Vec<String> {
        let arguments = ["subscriptions", "reconcile", "--json", "--since", "900d"];
        let found = self.run(&arguments).await.json();
        let drift = found["drift"].as_array().unwrap().iter();
        drift
            .map(|one| format!("{} {} {}", one["kind"], one["id"], one["differences"]))
            .collect()
    }

    /// A customer with a card whose metadata name `organization`.
    async fn customer(&self, organization: Option<Uuid>) -> String {
        let customer = self.world.stripe.customer(VISA, None).await;
        if let Some(id) = organization {
            let fields = [("metadata[organization_id]", &*id.to_string())];
            let path = format!("/v1/customers/{customer}");
            self.world.stripe.post(&path, &fields).await;
        }
        customer
    }

    /// A new organization, and its customer.
    async fn named(&self) -> (Uuid, String) {
        let organization = self.world.service.organization("Acme").await;
        let customer = self.customer(Some(organization)).await;
        (organization, customer)
    }

    /// A subscription with further fields.
    async fn subscribe(&self, customer: &str, further: &[(&str, &str)]) -> Value {
        let fields = [("customer", customer), ("items[0][price]", &self.price)];
        let fields = [&fields[..], further].concat();
        self.world.stripe.post("/v1/subscriptions", &fields).await
    }

    async fn count(&self, what: &str) -> i64 {
        self.world.service.db.count(what).await
    }

    async fn value(&self, sql: &str) -> String {
        self.world.service.db.value(sql).await
    }

    /// What is mirrored, and what follows from it.
    async fn state(&self) -> Vec<String> {
        let state = self
            .value(
                "SELECT concat_ws(E'\\n',
               (SELECT string_agg(concat_ws(' ', id, plan_tier), ',') FROM organizations),
               (SELECT string_agg(concat_ws(' ', stripe_customer_id, organization_id,
                  default_payment_method_id, deleted_at), ',') FROM billing_customers),
               (SELECT string_agg(concat_ws(' ', stripe_subscription_id, status, plan_tier,
                  current_period_end, stripe_schedule_id), ',') FROM billing_subscriptions),
               (SELECT string_agg(concat_ws(' ', stripe_payment_method_id, status), ',')
                  FROM billing_payment_methods),
               (SELECT string_agg(concat_ws(' ', stripe_invoice_id, status, total_amount), ',')
                  FROM billing_invoices),
               (SELECT string_agg(concat_ws(' ', stripe_charge_id, status, amount_refunded,
                  stripe_invoice_id), ',') FROM billing_charges),
               (SELECT string_agg(concat_ws(' ', stripe_refund_id, status), ',')
                  FROM billing_refunds),
               (SELECT string_agg(concat_ws(' ', stripe_dispute_id, status), ',')
                  FROM billing_disputes))",
            )
            .await;
        let mut objects: Vec<String> = state.split([',', '\n']).map(str::to_owned).collect();
        objects.sort();
        objects
    }
}

/// The reasons of a report, each with its customer.
fn reasons(report: &Value) -> Vec<(String, String)> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|one| (text(one, "reason"), text(one, "customer")))
        .collect()
}
