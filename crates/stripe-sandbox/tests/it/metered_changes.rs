//! What becomes of usage when a metered price comes or goes within a period, and
//! items that a change adds to its invoice.

use serde_json::Value;

use crate::support::{DAY, START, World, amounts, text};

struct Metered {
    world: World,
    clock: String,
    customer: String,
    subscription: String,
    /// A dollar and two dollars for a unit over ten.
    cheap: String,
    dear: String,
}

impl Metered {
    async fn on(mode: &str) -> Self {
        let world = World::new().await;
        let meter = world
            .post(
                "/v1/billing/meters",
                &[
                    ("display_name", "Tokens"),
                    ("event_name", "tokens"),
                    ("default_aggregation[formula]", "sum"),
                ],
            )
            .await
            .ok();
        let meter = text(&meter, "id");
        let cheap = price(&world, &meter, "100").await;
        let dear = price(&world, &meter, "200").await;
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let base = world.price(5_000).await;
        let fields = [
            ("customer", &*customer),
            ("items[0][price]", &base),
            ("items[1][price]", &cheap),
            ("billing_mode[type]", mode),
        ];
        let subscription = world.post("/v1/subscriptions", &fields).await.ok();
        Self {
            subscription: text(&subscription, "id"),
            world,
            clock,
            customer,
            cheap,
            dear,
        }
    }

    async fn uses(&self, units: &str) {
        let fields = [
            ("event_name", "tokens"),
            ("payload[stripe_customer_id]", &*self.customer),
            ("payload[value]", units),
        ];
        let path = "/v1/billing/meter_events";
        self.world.post(path, &fields).await.ok();
    }

    async fn item_of(&self, price: &str) -> String {
        let subscription = self.world.subscription(&self.subscription).await;
        let items = subscription["items"]["data"].as_array().unwrap();
        let item = items.iter().find(|item| item["price"]["id"] == price);
        text(item.unwrap(), "id")
    }

    /// Replaces the cheap price.
    async fn swap(&self, behavior: &str) {
        let item = self.item_of(&self.cheap).await;
        let fields = [
            ("items[0][id]", &*item),
            ("items[0][price]", &self.dear),
            ("proration_behavior", behavior),
        ];
        let path = format!("/v1/subscriptions/{}", self.subscription);
        self.world.post(&path, &fields).await.ok();
    }

    async fn preview(&self) -> Value {
        let fields = [("subscription", &*self.subscription)];
        let path = "/v1/invoices/create_preview";
        self.world.post(path, &fields).await.ok()
    }

    async fn renewal(&self) -> Value {
        self.world
            .advance(&self.clock, START + 28 * DAY + 7_200)
            .await;
        self.world.latest_invoice(&self.subscription).await
    }
}

/// A metered price whose first ten units cost nothing.
async fn price(world: &World, meter: &str, amount: &str) -> String {
    let price = world
        .post(
            "/v1/prices",
            &[
                ("currency", "usd"),
                ("product_data[name]", "Tokens"),
                ("recurring[interval]", "month"),
                ("recurring[usage_type]", "metered"),
                ("recurring[meter]", meter),
                ("billing_scheme", "tiered"),
                ("tiers_mode", "graduated"),
                ("tiers[0][up_to]", "10"),
                ("tiers[0][unit_amount]", "0"),
                ("tiers[1][up_to]", "inf"),
                ("tiers[1][unit_amount]", amount),
            ],
        )
        .await
        .ok();
    text(&price, "id")
}

/// As Stripe's documentation says of prices that change within a cycle.
#[tokio::test]
async fn in_classic_billing_usage_before_another_price_is_never_charged() {
    let metered = Metered::on("classic").await;
    metered.world.advance(&metered.clock, START + 5 * DAY).await;
    metered.uses("15").await;
    assert_eq!(metered.preview().await["total"], 5_000 + 500);
    metered.world.advance(&metered.clock, START + 6 * DAY).await;
    metered.swap("always_invoice").await;
    assert_eq!(metered.preview().await["total"], 5_000);
    metered.uses("13").await;
    assert_eq!(metered.preview().await["total"], 5_000 + 600);
    assert_eq!(metered.renewal().await["total"], 5_000 + 600);
}

#[tokio::test]
async fn in_flexible_billing_a_price_that_goes_charges_its_usage() {
    for (behavior, at_once) in [("always_invoice", true), ("create_prorations", false)] {
        let metered = Metered::on("flexible").await;
        metered.world.advance(&metered.clock, START + 5 * DAY).await;
        metered.uses("15").await;
        metered.world.advance(&metered.clock, START + 6 * DAY).await;
        metered.swap(behavior).await;
        let latest = metered.world.latest_invoice(&metered.subscription).await;
        if at_once {
            assert_eq!(
                (&latest["total"], &latest["status"]),
                (&500.into(), &"paid".into())
            );
        }
        metered.uses("13").await;
        let later = if at_once { 0 } else { 500 };
        assert_eq!(metered.renewal().await["total"], 5_000 + 600 + later);
    }
    let metered = Metered::on("flexible").await;
    metered.world.advance(&metered.clock, START + 5 * DAY).await;
    metered.uses("15").await;
    metered.world.advance(&metered.clock, START + 6 * DAY).await;
    metered.swap("none").await;
    assert_eq!(metered.renewal().await["total"], 5_000);
}

type Owned = Vec<(String, String)>;

/// These fields under another name.
fn under(name: &str, fields: &[(&str, &str)]) -> Owned {
    let fields = fields.iter();
    fields
        .map(|(field, value)| (format!("{name}{field}"), (*value).to_owned()))
        .collect()
}

fn borrowed(fields: &Owned) -> Vec<(&str, &str)> {
    fields.iter().map(|(n, v)| (&**n, &**v)).collect()
}

#[tokio::test]
async fn a_change_adds_items_to_its_own_invoice_or_to_the_next_one() {
    for (behavior, at_once) in [("always_invoice", true), ("create_prorations", false)] {
        let metered = Metered::on("classic").await;
        let world = &metered.world;
        let end = START + 14 * DAY;
        world.advance(&metered.clock, end).await;
        let higher = world.price(9_000).await;
        let subscription = world.subscription(&metered.subscription).await;
        let base = text(&subscription["items"]["data"][0], "id");
        let product = text(&subscription["items"]["data"][1]["price"], "product");
        let added = [
            ("[price_data][currency]", "usd"),
            ("[price_data][product]", &*product),
            ("[price_data][unit_amount_decimal]", "0.5"),
            ("[quantity]", "301"),
        ];
        let (from, to) = (START.to_string(), end.to_string());
        let item = [("[0][id]", &*base), ("[0][price]", &*higher)];

        let mut shown = under("invoice_items[0]", &added);
        let period = [("[start]", &*from), ("[end]", &*to)];
        shown.extend(under("invoice_items[0][period]", &period));
        shown.extend(under("subscription_details[items]", &item));
        let behavior_field = [("[proration_behavior]", behavior)];
        shown.extend(under("subscription_details", &behavior_field));
        shown.extend(under("", &[("subscription", &metered.subscription)]));
        let path = "/v1/invoices/create_preview";
        let preview = world.post(path, &borrowed(&shown)).await.ok();

        let mut change = under("add_invoice_items[0]", &added);
        for (bound, at) in [("start", &*from), ("end", &*to)] {
            let name = format!("add_invoice_items[0][period][{bound}]");
            change.extend(under(
                &name,
                &[("[type]", "timestamp"), ("[timestamp]", at)],
            ));
        }
        change.extend(under("items", &item));
        change.extend(under("", &[("proration_behavior", behavior)]));
        let path = format!("/v1/subscriptions/{}", metered.subscription);
        world.post(&path, &borrowed(&change)).await.ok();
        let invoice = if at_once {
            world.latest_invoice(&metered.subscription).await
        } else {
            metered.renewal().await
        };
        assert_eq!(invoice["total"], preview["total"], "{behavior}");
        // Half a cent each, rounded half up.
        assert!(amounts(&invoice).contains(&151), "{invoice:#}");
        let lines = invoice["lines"]["data"].as_array().unwrap();
        let line = lines.iter().find(|line| line["amount"] == 151).unwrap();
        assert_eq!(line["description"], "Tokens");
        let period = (&line["period"]["start"], &line["period"]["end"]);
        assert_eq!(period, (&START.into(), &end.into()));
    }
}

#[tokio::test]
async fn a_change_that_is_not_paid_adds_nothing() {
    let metered = Metered::on("classic").await;
    let card = metered
        .world
        .post(
            "/v1/payment_methods/pm_card_chargeCustomerFail/attach",
            &[("customer", &metered.customer)],
        )
        .await
        .ok();
    let path = format!("/v1/customers/{}", metered.customer);
    let card = text(&card, "id");
    let fields = [("invoice_settings[default_payment_method]", &*card)];
    metered.world.post(&path, &fields).await.ok();
    metered
        .world
        .advance(&metered.clock, START + 14 * DAY)
        .await;
    let higher = metered.world.price(9_000).await;
    let subscription = metered.world.subscription(&metered.subscription).await;
    let base = text(&subscription["items"]["data"][0], "id");
    let product = text(&subscription["items"]["data"][1]["price"], "product");
    let path = format!("/v1/subscriptions/{}", metered.subscription);
    let mut fields = vec![
        ("items[0][id]", &*base),
        ("items[0][price]", &higher),
        ("proration_behavior", "always_invoice"),
        ("payment_behavior", "error_if_incomplete"),
        ("add_invoice_items[0][price_data][currency]", "usd"),
        ("add_invoice_items[0][price_data][product]", &product),
        ("add_invoice_items[0][price_data][unit_amount]", "700"),
    ];
    metered.world.post(&path, &fields).await.error(402);
    let items = metered.world.get("/v1/invoiceitems", &[]).await.ok();
    assert_eq!(items["data"].as_array().map(Vec::len), Some(0));
    fields.push(("add_invoice_items[0][amount]", "700"));
    let error = metered.world.post(&path, &fields).await.error(400);
    assert_eq!(error["code"], "parameter_unknown");
    fields.pop();
    fields[4].1 = "eur";
    metered.world.post(&path, &fields).await.error(400);
}
