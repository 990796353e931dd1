//! Tax rates that are set by hand, and automatic tax by address.

use serde_json::{Value, json};

use crate::support::{DAY, Fields, OLD, START, World, amounts, item, text};

/// 2026-02-28T10:00:00Z, the end of the first period.
const RENEWAL: i64 = START + 28 * DAY;

async fn rate(world: &World, percentage: &str, inclusive: &str) -> String {
    let fields = [
        ("display_name", "VAT"),
        ("percentage", percentage),
        ("inclusive", inclusive),
    ];
    text(&world.post("/v1/tax_rates", &fields).await.ok(), "id")
}

/// Subtotal, tax, total, and the total without tax.
fn sums(invoice: &Value) -> [i64; 4] {
    let number = |value: &Value| value.as_i64().expect("a number");
    let taxes = invoice["total_taxes"].as_array().expect("taxes");
    let tax = taxes.iter().map(|tax| number(&tax["amount"])).sum();
    [
        number(&invoice["subtotal"]),
        tax,
        number(&invoice["total"]),
        number(&invoice["total_excluding_tax"]),
    ]
}

struct Taxed {
    clock: String,
    subscription: Value,
}

impl Taxed {
    async fn new(world: &World, price: &str, more: Fields<'_>) -> Self {
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let mut fields = vec![("customer", customer.as_str()), ("items[0][price]", price)];
        fields.extend(more);
        let subscription = world.post("/v1/subscriptions", &fields).await.ok();
        Self {
            clock,
            subscription,
        }
    }

    fn id(&self) -> String {
        text(&self.subscription, "id")
    }

    async fn latest(&self, world: &World) -> Value {
        world.latest_invoice(&self.id()).await
    }

    async fn upcoming(&self, world: &World) -> Value {
        let id = self.id();
        world
            .post("/v1/invoices/create_preview", &[("subscription", &id)])
            .await
            .ok()
    }
}

#[tokio::test]
async fn tax_is_on_what_discounts_leave() {
    let world = World::new().await;
    let price = world.price(2_000).await;
    let five = rate(&world, "5", "false").await;
    let coupon = [("id", "TEN"), ("percent_off", "10"), ("duration", "once")];
    world.post("/v1/coupons", &coupon).await.ok();
    let fields = [
        ("default_tax_rates[0]", five.as_str()),
        ("discounts[0][coupon]", "TEN"),
    ];
    let it = Taxed::new(&world, &price, &fields).await;
    assert_eq!(it.subscription["default_tax_rates"][0]["percentage"], 5);
    let invoice = it.latest(&world).await;
    // As recorded from Stripe: 2000 − 200 + 90.
    assert_eq!(sums(&invoice), [2_000, 90, 1_890, 1_800]);
    assert_eq!(invoice["amount_paid"], 1_890);
    assert_eq!(
        invoice["lines"]["data"][0]["taxes"],
        json!([{
            "amount": 90,
            "tax_behavior": "exclusive",
            "tax_rate_details": { "tax_rate": five },
            "taxability_reason": "not_available",
            "taxable_amount": 1_800,
            "type": "tax_rate_details",
        }])
    );
    assert_eq!(sums(&it.upcoming(&world).await), [2_000, 100, 2_100, 2_000]);
    world.advance(&it.clock, RENEWAL + 7_200).await;
    let renewal = it.latest(&world).await;
    assert_eq!(sums(&renewal), [2_000, 100, 2_100, 2_000]);
    assert_eq!(renewal["default_tax_rates"][0]["id"], five.as_str());
}

#[tokio::test]
async fn an_inclusive_tax_is_part_of_the_amount() {
    let mut world = World::new().await;
    let price = world.price(1_190).await;
    let vat = rate(&world, "19", "true").await;
    let fields = [("items[0][tax_rates][0]", vat.as_str())];
    let it = Taxed::new(&world, &price, &fields).await;
    let shown = &it.subscription["items"]["data"][0]["tax_rates"][0];
    assert_eq!(shown["id"], vat.as_str());
    let invoice = it.latest(&world).await;
    assert_eq!(sums(&invoice), [1_190, 190, 1_190, 1_000]);
    assert_eq!(invoice["subtotal_excluding_tax"], 1_000);
    assert_eq!(invoice["total_taxes"][0]["tax_behavior"], "inclusive");
    world.version = Some(OLD);
    let invoice = it.latest(&world).await;
    assert_eq!(invoice["tax"], 190);
    assert_eq!(invoice["total_tax_amounts"][0]["inclusive"], true);
    assert_eq!(
        invoice["lines"]["data"][0]["tax_amounts"][0]["tax_rate"],
        vat.as_str()
    );
}

#[tokio::test]
async fn prorations_are_taxed_and_credits_untaxed() {
    let world = World::new().await;
    let (small, large) = (world.price(2_800).await, world.price(5_600).await);
    let ten = rate(&world, "10", "false").await;
    let fields = [("default_tax_rates[0]", ten.as_str())];
    let it = Taxed::new(&world, &small, &fields).await;
    world.advance(&it.clock, START + 7 * DAY).await;
    let (id, item) = (it.id(), item(&it.subscription));
    let preview = [
        ("subscription", id.as_str()),
        ("subscription_details[items][0][id]", &item),
        ("subscription_details[items][0][price]", &large),
        ("subscription_details[proration_behavior]", "always_invoice"),
    ];
    let preview = world
        .post("/v1/invoices/create_preview", &preview)
        .await
        .ok();
    let change = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", &large),
        ("proration_behavior", "always_invoice"),
    ];
    world
        .post(&format!("/v1/subscriptions/{id}"), &change)
        .await
        .ok();
    let invoice = it.latest(&world).await;
    assert_eq!(amounts(&invoice), [-2_100, 4_200]);
    assert_eq!(sums(&invoice), [2_100, 210, 2_310, 2_100]);
    assert_eq!(sums(&preview), sums(&invoice));
    assert_eq!(invoice["lines"]["data"][0]["taxes"][0]["amount"], -210);
}

#[tokio::test]
async fn automatic_tax_follows_the_address() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let path = format!("/v1/customers/{customer}");
    let create = [
        ("customer", customer.as_str()),
        ("items[0][price]", &price),
        ("automatic_tax[enabled]", "true"),
    ];
    let preview = [
        ("customer", customer.as_str()),
        ("subscription_details[items][0][price]", &price),
        ("automatic_tax[enabled]", "true"),
    ];
    let calls = [
        ("/v1/subscriptions", &create[..]),
        ("/v1/invoices/create_preview", &preview[..]),
    ];
    for address in [
        &[][..],
        &[("address[city]", "Berlin")],
        &[("address[country]", "US"), ("address[state]", "NY")],
    ] {
        world.post(&path, address).await.ok();
        for (call, fields) in calls {
            let error = world.post(call, fields).await.error(400);
            assert_eq!(error["code"], "customer_tax_location_invalid");
        }
    }
    for (address, tax, reason) in [
        (&[("address[country]", "DE")][..], 190, "standard_rated"),
        (
            &[
                ("address[country]", "US"),
                ("address[state]", "NY"),
                ("address[postal_code]", "10001"),
            ],
            40,
            "standard_rated",
        ),
        (&[("address[country]", "BR")], 0, "not_collecting"),
    ] {
        world.post(&path, address).await.ok();
        let previewed = world.post(calls[1].0, calls[1].1).await.ok();
        let subscription = world.post(calls[0].0, calls[0].1).await.ok();
        assert_eq!(subscription["automatic_tax"]["enabled"], true);
        let invoice = world.latest_invoice(&text(&subscription, "id")).await;
        assert_eq!(sums(&invoice), [1_000, tax, 1_000 + tax, 1_000]);
        assert_eq!(sums(&previewed), sums(&invoice));
        assert_eq!(invoice["automatic_tax"]["status"], "complete");
        assert_eq!(invoice["total_taxes"][0]["taxability_reason"], reason);
    }
    let error = world.post(&path, &[("address", "")]).await.error(400);
    assert_eq!(error["code"], "sandbox_unsupported");
}

#[tokio::test]
async fn tax_settings_are_checked_and_changed() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let (five, included) = (
        rate(&world, "5", "false").await,
        rate(&world, "7", "true").await,
    );
    let it = Taxed::new(&world, &price, &[]).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let item = item(&it.subscription);
    for (fields, param) in [
        (
            &[("default_tax_rates[0]", "txr_none")][..],
            "default_tax_rates",
        ),
        (
            &[
                ("items[0][id]", item.as_str()),
                ("items[0][tax_rates][0]", "txr_none"),
            ],
            "items[0][tax_rates]",
        ),
        (
            &[
                ("default_tax_rates[0]", five.as_str()),
                ("default_tax_rates[1]", &included),
            ],
            "default_tax_rates",
        ),
        (
            &[
                ("default_tax_rates[0]", five.as_str()),
                ("automatic_tax[enabled]", "true"),
            ],
            "automatic_tax[enabled]",
        ),
    ] {
        let error = world.post(&path, fields).await.error(400);
        assert_eq!(error["param"], param, "{fields:?}");
    }
    world
        .post(&path, &[("default_tax_rates[0]", five.as_str())])
        .await
        .ok();
    assert_eq!(it.upcoming(&world).await["total"], 1_050);
    world.post(&path, &[("default_tax_rates", "")]).await.ok();
    assert_eq!(it.upcoming(&world).await["total"], 1_000);
}

#[tokio::test]
async fn tax_rates_are_checked_and_changed() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let five = rate(&world, "5", "false").await;
    rate(&world, "7", "true").await;
    let it = Taxed::new(&world, &price, &[]).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let of_rate = format!("/v1/tax_rates/{five}");
    let renamed = [("display_name", "GST"), ("active", "false")];
    let after = world.post(&of_rate, &renamed).await.ok();
    assert_eq!(after["percentage"], 5);
    let error = world
        .post(&path, &[("default_tax_rates[0]", five.as_str())])
        .await
        .error(400);
    assert_eq!(error["param"], "default_tax_rates");
    let active = world.get("/v1/tax_rates", &[("active", "true")]).await.ok();
    assert_eq!(active["data"].as_array().map(Vec::len), Some(1));
    for missing in ["display_name", "percentage", "inclusive"] {
        let all = [
            ("display_name", "VAT"),
            ("percentage", "19"),
            ("inclusive", "true"),
        ];
        let fields: Vec<_> = all
            .into_iter()
            .filter(|(name, _)| *name != missing)
            .collect();
        let error = world.post("/v1/tax_rates", &fields).await.error(400);
        assert_eq!(error["param"], missing);
    }
    let error = world
        .post(&of_rate, &[("percentage", "6")])
        .await
        .error(400);
    assert_eq!(error["code"], "parameter_unknown");
}
