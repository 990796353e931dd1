//! Add-ons: what is bought beside a plan is charged as it was shown, and its quotas and
//! features add up with the plan's, whoever buys it and in whatever order events come.

mod bought;
mod dashboard;
mod later;
mod metered;
mod random;
mod refused;
mod sold;

use serde_json::{Value, json};

use super::shop::Shop;
use crate::subscriptions::world::{DAY, START};

pub const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
pub const PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
]
";
/// Storage is a hard limit, so that nobody can be over it.
pub const STORAGE: (&str, &str) = (
    "storage_gb = { quota = 100, over_limit = \"overage\", overage_rate = \"0.50\" }",
    "storage_gb = { quota = 100, over_limit = \"hard\" }",
);
const LAST: &str = "[plans.features]\nsso = true\nprojects = 1_000\nsupport = \"priority\"\n";
pub const ADDONS: &str = r#"
[[addons]]
id = "extra_tokens"
name = "Extra tokens"
prices = [
  { interval = "month", currency = "usd", amount = 2_000, lookup_key = "extra_tokens_month" },
  { interval = "year", currency = "usd", amount = 20_000, lookup_key = "extra_tokens_year" },
]
quotas = { llm_tokens = 500_000, storage_gb = 50 }
features = { projects = 5 }
max_quantity = 10

[[addons]]
id = "care"
name = "Personal care"
price = { interval = "month", currency = "usd", amount = 4_000, lookup_key = "care_month" }
features = { support = "personal", sso = true }
plans = ["standard"]
on_plan_change = "drop"

[[addons]]
id = "endless_calls"
name = "Endless calls"
price = { interval = "month", currency = "usd", amount = 10_000, lookup_key = "endless_month" }
quotas = { api_calls = "unlimited" }
"#;

/// Sells add-ons beside the plans that ship, with these changes.
pub async fn selling(changes: &[(&str, &str)]) -> Shop {
    let with_addons = format!("{LAST}{ADDONS}");
    let mut all = vec![STORAGE];
    all.extend(changes);
    all.push((LAST, &with_addons));
    Shop::open(&all).await
}

/// The plan with these add-ons.
pub fn with(addons: Value) -> Value {
    json!({"planTier": "standard", "addons": addons})
}

pub fn of(id: &str, quantity: u32) -> Value {
    json!({"id": id, "quantity": quantity})
}

/// A shop with one subscriber, a quarter into the month.
pub async fn subscribed(changes: &[(&str, &str)], addons: Value) -> (Shop, String, String) {
    let mut shop = selling(changes).await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.subscribe(with(addons)).await.ok();
    shop.world.settle().await;
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    (shop, customer, clock)
}

impl Shop {
    /// The quota of a metric, as the API shows it.
    pub async fn limit_of(&self, metric: &str) -> Value {
        self.usage(metric).await["quota"].clone()
    }

    /// Waits until the service has applied its file.
    pub async fn has_limit(&self, metric: &str, limit: i64) {
        for _ in 0..500 {
            if self.limit_of(metric).await == limit {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(self.limit_of(metric).await, limit);
    }

    pub async fn features(&self) -> Value {
        self.get("/api/billing/state").await["features"].clone()
    }

    /// The add-ons, as each view shows them: they are one.
    pub async fn addons(&self) -> Value {
        let current = self.world.current().await;
        let state = self.get("/api/billing/state").await;
        assert_eq!(current["addons"], state["plan"]["addons"], "{state:#}");
        current["addons"].clone()
    }

    /// Somebody adds an item in Stripe's dashboard.
    pub async fn adds_in_stripe(&self, customer: &str, key: &str) {
        let found = &[("lookup_keys[]", key)];
        let found = self.world.stripe.list("/v1/prices", found).await;
        let price = found[0]["id"].as_str().unwrap();
        let subscription = self.world.running(customer).await;
        let id = subscription["id"].as_str().unwrap();
        let fields = [("subscription", id), ("price", price)];
        self.world
            .stripe
            .post("/v1/subscription_items", &fields)
            .await;
        self.world.settle().await;
        self.world.settled_in_the_background().await;
    }

    /// Lookup keys and quantities of the licensed items in Stripe.
    pub async fn paid_items(&self, customer: &str) -> Vec<(String, i64)> {
        let subscription = self.world.running(customer).await;
        let items = subscription["items"]["data"].as_array().unwrap();
        let licensed = items
            .iter()
            .filter(|item| item["price"]["recurring"]["usage_type"] == "licensed");
        let mut licensed: Vec<(String, i64)> = licensed
            .map(|item| {
                let key = item["price"]["lookup_key"].as_str().unwrap_or("none");
                (key.to_owned(), item["quantity"].as_i64().unwrap())
            })
            .collect();
        licensed.sort_unstable();
        licensed
    }
}
