//! Coupons, promotion codes and the discounts that they become.

mod refusals;

use serde_json::Value;

use crate::support::{DAY, Fields, OLD, START, World, amounts, item, text};

/// 2026-02-28T10:00:00Z, the end of the first period.
const RENEWAL: i64 = START + 28 * DAY;

async fn coupon(world: &World, fields: Fields<'_>) -> String {
    text(&world.post("/v1/coupons", fields).await.ok(), "id")
}

async fn code(world: &World, coupon: &str, more: Fields<'_>) -> String {
    let mut fields = vec![("promotion[type]", "coupon"), ("promotion[coupon]", coupon)];
    fields.extend(more);
    text(&world.post("/v1/promotion_codes", &fields).await.ok(), "id")
}

/// A subscription with discounts, on a clock.
struct Discounted {
    clock: String,
    customer: String,
    subscription: Value,
}

impl Discounted {
    async fn new(world: &World, price: &str, mode: &str, discounts: Fields<'_>) -> Self {
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let mut fields = vec![
            ("customer", customer.as_str()),
            ("items[0][price]", price),
            ("billing_mode[type]", mode),
        ];
        fields.extend(discounts);
        let subscription = world.post("/v1/subscriptions", &fields).await.ok();
        Self {
            clock,
            subscription,
            customer,
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

    async fn discounts(&self, world: &World) -> usize {
        let subscription = world.subscription(&self.id()).await;
        subscription["discounts"]
            .as_array()
            .expect("discounts")
            .len()
    }
}

/// Subtotal, discount and total.
fn sums(invoice: &Value) -> (i64, i64, i64) {
    let number = |value: &Value| value.as_i64().expect("a number");
    let off = invoice["total_discount_amounts"]
        .as_array()
        .expect("a list");
    (
        number(&invoice["subtotal"]),
        off.iter().map(|entry| number(&entry["amount"])).sum(),
        number(&invoice["total"]),
    )
}

/// Each discount was created, and deleted when it was used up or over.
async fn check_events(world: &World) {
    let all = world
        .get(
            "/v1/events",
            &[("type", "customer.discount.*"), ("limit", "100")],
        )
        .await
        .ok();
    let kinds: Vec<_> = all["data"]
        .as_array()
        .expect("events")
        .iter()
        .rev()
        .map(|event| text(event, "type").replace("customer.discount.", ""))
        .collect();
    assert_eq!(
        kinds,
        ["created", "deleted", "created", "deleted", "created"]
    );
    let ended = &all["data"][1];
    assert_eq!(ended["created"], START + 59 * DAY);
}

#[tokio::test]
async fn a_discount_lasts_as_long_as_its_coupon_says() {
    let world = World::new().await;
    let price = world.price(2_000).await;
    let once = coupon(&world, &[("percent_off", "10"), ("duration", "once")]).await;
    let three = [
        ("percent_off", "10"),
        ("duration", "repeating"),
        ("duration_in_months", "2"),
    ];
    let two_months = coupon(&world, &three).await;
    let forever = coupon(
        &world,
        &[
            ("amount_off", "500"),
            ("currency", "usd"),
            ("duration", "forever"),
        ],
    )
    .await;
    let ten = (2_000, 200, 1_800);
    let none = (2_000, 0, 2_000);
    let five = (2_000, 500, 1_500);
    for (coupon, kept, invoices) in [
        (&once, 0, [ten, none, none]),
        (&two_months, 1, [ten, ten, none]),
        (&forever, 1, [five, five, five]),
    ] {
        let fields = [("discounts[0][coupon]", coupon.as_str())];
        let it = Discounted::new(&world, &price, "flexible", &fields).await;
        assert_eq!(it.discounts(&world).await, kept);
        let first = it.latest(&world).await;
        assert_eq!(sums(&first), invoices[0]);
        assert_eq!(first["amount_paid"], invoices[0].2);
        let line = &first["lines"]["data"][0];
        assert_eq!(line["amount"], 2_000);
        assert_eq!(line["discount_amounts"][0]["amount"], invoices[0].1);
        assert_eq!(
            line["discount_amounts"][0]["discount"],
            first["discounts"][0]
        );
        assert_eq!(line["pretax_credit_amounts"][0]["type"], "discount");
        for (end, expected) in [(RENEWAL, invoices[1]), (START + 59 * DAY, invoices[2])] {
            assert_eq!(sums(&it.upcoming(&world).await), expected);
            world.advance(&it.clock, end + 7_200).await;
            assert_eq!(sums(&it.latest(&world).await), expected);
        }
    }
    check_events(&world).await;
    let used = world.get(&format!("/v1/coupons/{once}"), &[]).await.ok();
    assert_eq!(used["times_redeemed"], 1);
}

#[tokio::test]
async fn a_percentage_is_prorated_as_charged_or_as_it_is_now() {
    let world = World::new().await;
    let (small, large) = (world.price(2_800).await, world.price(5_600).await);
    let half = [("percent_off", "50"), ("duration", "forever")];
    let forever = coupon(&world, &half).await;
    let once = coupon(&world, &[("percent_off", "50"), ("duration", "once")]).await;
    // Three quarters of the period are left. Once used, the coupon is gone:
    // classic billing credits the full price, flexible billing what was paid.
    for (mode, coupon, lines) in [
        ("classic", &forever, [-1_050, 2_100]),
        ("flexible", &forever, [-1_050, 2_100]),
        ("classic", &once, [-2_100, 4_200]),
        ("flexible", &once, [-1_050, 4_200]),
    ] {
        let fields = [("discounts[0][coupon]", coupon.as_str())];
        let it = Discounted::new(&world, &small, mode, &fields).await;
        assert_eq!(it.latest(&world).await["total"], 1_400);
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
        assert_eq!(amounts(&invoice), lines, "{mode}");
        assert_eq!(amounts(&preview), lines, "{mode}");
        // The amounts include the discount, so nothing is taken off again.
        assert_eq!(invoice["total"], lines.iter().sum::<i64>());
        assert_eq!(invoice["lines"]["data"][1]["discountable"], false);
    }
    let off = [
        ("amount_off", "100"),
        ("currency", "usd"),
        ("duration", "forever"),
    ];
    let off = coupon(&world, &off).await;
    let fields = [("discounts[0][coupon]", off.as_str())];
    let it = Discounted::new(&world, &small, "flexible", &fields).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let item = item(&it.subscription);
    let mut change = vec![("items[0][id]", item.as_str()), ("items[0][price]", &large)];
    let error = world.post(&path, &change).await.error(400);
    assert_eq!(error["code"], "sandbox_unsupported");
    change.push(("proration_behavior", "none"));
    world.post(&path, &change).await.ok();
}

#[tokio::test]
async fn discounts_are_replaced_kept_and_cleared() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let ten = coupon(&world, &[("percent_off", "10"), ("duration", "forever")]).await;
    let five = coupon(&world, &[("percent_off", "5"), ("duration", "forever")]).await;
    let fields = [("discounts[0][coupon]", ten.as_str())];
    let it = Discounted::new(&world, &price, "classic", &fields).await;
    let path = format!("/v1/subscriptions/{}", it.id());
    let first = it.subscription["discounts"][0]
        .as_str()
        .expect("a discount")
        .to_owned();
    let both = [
        ("discounts[0][discount]", first.as_str()),
        ("discounts[1][coupon]", &five),
    ];
    let after = world.post(&path, &both).await.ok();
    assert_eq!(after["discounts"][0], first.as_str());
    assert_eq!(it.discounts(&world).await, 2);
    // Five percent of what ten percent left.
    assert_eq!(sums(&it.upcoming(&world).await), (1_000, 145, 855));
    let preview = [
        ("subscription", &*it.id()),
        ("discounts[0][coupon]", five.as_str()),
    ];
    let preview = world
        .post("/v1/invoices/create_preview", &preview)
        .await
        .ok();
    assert_eq!(sums(&preview), (1_000, 50, 950));
    let twice = [
        ("discounts[0][coupon]", five.as_str()),
        ("discounts[1][coupon]", &five),
    ];
    world.post(&path, &twice).await.error(400);
    let kept = [("metadata[k]", "v")];
    world.post(&path, &kept).await.ok();
    assert_eq!(it.discounts(&world).await, 2);
    let none = [("discounts", "")];
    let after = world.post(&path, &none).await.ok();
    assert_eq!(after["discounts"].as_array().map(Vec::len), Some(0));
    world
        .delete(&format!("{path}/discount"), &[])
        .await
        .error(404);
    let again = [("discounts[0][coupon]", ten.as_str())];
    world.post(&path, &again).await.ok();
    let removed = world.delete(&format!("{path}/discount"), &[]).await.ok();
    assert_eq!(removed["deleted"], true);
    assert_eq!(sums(&it.upcoming(&world).await), (1_000, 0, 1_000));
}

#[tokio::test]
async fn a_phase_has_the_discounts_that_it_names() {
    let world = World::new().await;
    let (large, small) = (world.price(2_000).await, world.price(1_000).await);
    let ten = coupon(&world, &[("percent_off", "10"), ("duration", "forever")]).await;
    let half = coupon(&world, &[("percent_off", "50"), ("duration", "forever")]).await;
    let (start, end) = (START.to_string(), RENEWAL.to_string());
    for (second, kept, total) in [
        (Some(&ten), true, 900),
        (Some(&half), false, 500),
        (None, false, 1_000),
    ] {
        let fields = [("discounts[0][coupon]", ten.as_str())];
        let it = Discounted::new(&world, &large, "flexible", &fields).await;
        let (id, first) = (it.id(), text_of(&it.subscription["discounts"][0]));
        let schedule = world
            .post(
                "/v1/subscription_schedules",
                &[("from_subscription", id.as_str())],
            )
            .await
            .ok();
        let discount = &schedule["phases"][0]["discounts"][0];
        assert_eq!(discount["discount"], first.as_str());
        let mut phases = vec![
            ("phases[0][items][0][price]", large.as_str()),
            ("phases[0][start_date]", &start),
            ("phases[0][end_date]", &end),
            ("phases[0][discounts][0][discount]", &first),
            ("phases[1][items][0][price]", &small),
        ];
        if let Some(coupon) = second {
            phases.push(("phases[1][discounts][0][coupon]", coupon));
        }
        let path = format!("/v1/subscription_schedules/{}", text(&schedule, "id"));
        world.post(&path, &phases).await.ok();
        assert_eq!(it.discounts(&world).await, 1);
        assert_eq!(it.upcoming(&world).await["total"], total);
        world.advance(&it.clock, RENEWAL + 7_200).await;
        assert_eq!(it.latest(&world).await["total"], total);
        let after = world.subscription(&id).await;
        assert_eq!(after["discounts"][0] == first.as_str(), kept);
    }
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn a_customers_discount_applies_where_the_subscription_has_none() {
    let mut world = World::new().await;
    let price = world.price(1_000).await;
    let ten = coupon(&world, &[("percent_off", "10"), ("duration", "forever")]).await;
    let half = coupon(&world, &[("percent_off", "50"), ("duration", "forever")]).await;
    world.version = Some(OLD);
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let path = format!("/v1/customers/{customer}");
    let after = world.post(&path, &[("coupon", &ten)]).await.ok();
    assert_eq!(after["discount"]["coupon"]["percent_off"], 10);
    let own = [
        ("customer", customer.as_str()),
        ("items[0][price]", &price),
        ("discounts[0][coupon]", &half),
    ];
    for (fields, total) in [(&own[..2], 900), (&own[..], 500)] {
        let subscription = world.post("/v1/subscriptions", fields).await.ok();
        let invoice = world.latest_invoice(&text(&subscription, "id")).await;
        assert_eq!(invoice["total"], total);
        assert_eq!(
            subscription["discount"].is_null(),
            total == 900,
            "{subscription:#}"
        );
    }
    let removed = world.delete(&format!("{path}/discount"), &[]).await.ok();
    assert_eq!(removed["deleted"], true);
    world
        .delete(&format!("{path}/discount"), &[])
        .await
        .error(404);
    assert_eq!(world.get(&path, &[]).await.ok()["discount"], Value::Null);
    world.version = None;
    let error = world.post(&path, &[("coupon", &ten)]).await.error(400);
    assert_eq!(error["param"], "coupon");
}

#[tokio::test]
async fn a_preview_needs_no_customer_and_may_have_no_discount() {
    let mut world = World::new().await;
    let price = world.price(9_900).await;
    let quarter = coupon(&world, &[("percent_off", "25"), ("duration", "forever")]).await;
    let promotion = code(&world, &quarter, &[]).await;
    let item = ("subscription_details[items][0][price]", price.as_str());
    let path = "/v1/invoices/create_preview";
    let fields = [item, ("discounts[0][promotion_code]", &*promotion)];
    let nobody = world.post(path, &fields).await.ok();
    assert_eq!(nobody["customer"], Value::Null);
    assert_eq!(sums(&nobody), (9_900, 2_475, 7_425));
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    world.version = Some(OLD);
    let of_customer = format!("/v1/customers/{customer}");
    let fields = [("coupon", quarter.as_str())];
    world.post(&of_customer, &fields).await.ok();
    world.version = None;
    let fields = [item, ("customer", &*customer)];
    assert_eq!(
        sums(&world.post(path, &fields).await.ok()),
        (9_900, 2_475, 7_425)
    );
    let fields = [item, ("customer", &*customer), ("discounts", "")];
    assert_eq!(
        sums(&world.post(path, &fields).await.ok()),
        (9_900, 0, 9_900)
    );
}
