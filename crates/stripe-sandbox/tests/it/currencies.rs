//! One product with prices by interval and currency, bought by the seat.

use serde_json::Value;

use crate::support::{DAY, START, World, amounts, item, text};

/// A price of the product `plan`.
async fn plan_price(world: &World, currency: &str, interval: &str, amount: i64) -> String {
    let amount = amount.to_string();
    let lookup_key = format!("plan_{currency}_{interval}");
    let fields = [
        ("product", "plan"),
        ("currency", currency),
        ("recurring[interval]", interval),
        ("unit_amount", &amount),
        ("lookup_key", &lookup_key),
    ];
    text(&world.post("/v1/prices", &fields).await.ok(), "id")
}

struct Plan {
    eur_month: String,
    eur_year: String,
    usd_month: String,
    jpy_month: String,
}

async fn plan(world: &World) -> Plan {
    let product = [("id", "plan"), ("name", "Seat")];
    world.post("/v1/products", &product).await.ok();
    Plan {
        eur_month: plan_price(world, "eur", "month", 2_800).await,
        eur_year: plan_price(world, "eur", "year", 36_500).await,
        usd_month: plan_price(world, "usd", "month", 3_100).await,
        jpy_month: plan_price(world, "jpy", "month", 4_500).await,
    }
}

async fn subscribe(world: &World, customer: &str, price: &str, seats: &str, mode: &str) -> Value {
    let fields = [
        ("customer", customer),
        ("items[0][price]", price),
        ("items[0][quantity]", seats),
        ("billing_mode[type]", mode),
    ];
    world.post("/v1/subscriptions", &fields).await.ok()
}

#[tokio::test]
async fn a_subscription_and_its_customer_keep_the_currency_of_the_first_price() {
    let world = World::new().await;
    let plan = plan(&world).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let path = format!("/v1/customers/{customer}");
    assert_eq!(
        world.get(&path, &[]).await.ok()["currency"],
        Value::Null,
        "nothing was bought yet"
    );
    let subscription = subscribe(&world, &customer, &plan.eur_month, "1", "flexible").await;
    assert_eq!(subscription["currency"], "eur");
    assert_eq!(world.get(&path, &[]).await.ok()["currency"], "eur");
    let id = text(&subscription, "id");
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(
        (&invoice["currency"], &invoice["total"]),
        (&"eur".into(), &2_800.into())
    );
    assert_eq!(
        invoice["lines"]["data"][0]["description"],
        "1 × Seat (at €28.00 / month)"
    );

    let words =
        "The price specified only supports `usd`. This doesn't match the expected currency: `eur`.";
    let item = item(&subscription);
    let change = [
        ("items[0][id]", item.as_str()),
        ("items[0][price]", &plan.usd_month),
    ];
    let error = world
        .post(&format!("/v1/subscriptions/{id}"), &change)
        .await
        .error(400);
    assert_eq!(error["message"], words);
    assert_eq!(error["param"], "items[0][price]");
    let added = [("subscription", id.as_str()), ("price", &plan.usd_month)];
    let error = world
        .post("/v1/subscription_items", &added)
        .await
        .error(400);
    assert_eq!(error["message"], words);

    // Not even after the subscription has ended.
    world
        .delete(&format!("/v1/subscriptions/{id}"), &[])
        .await
        .ok();
    let other = [
        ("customer", customer.as_str()),
        ("items[0][price]", &plan.usd_month),
    ];
    let error = world.post("/v1/subscriptions", &other).await.error(400);
    let message = error["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("You cannot combine currencies on a single customer.")
            && message.ends_with("with currency eur."),
        "{message}"
    );
    let preview = [
        ("customer", customer.as_str()),
        ("subscription_details[items][0][price]", &plan.usd_month),
    ];
    let refused = world
        .post("/v1/invoices/create_preview", &preview)
        .await
        .error(400);
    assert_eq!(refused["message"], message);
}

#[tokio::test]
async fn a_new_subscription_has_one_currency() {
    let world = World::new().await;
    let plan = plan(&world).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let both = [
        ("customer", customer.as_str()),
        ("items[0][price]", &plan.eur_month),
        ("items[1][price]", &plan.usd_month),
    ];
    let error = world.post("/v1/subscriptions", &both).await.error(400);
    assert_eq!(error["param"], "items[1][price]");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("This `price` has `currency=usd`, but other items use `currency=eur`."),
        "{message}"
    );
    let named = [
        ("customer", customer.as_str()),
        ("items[0][price]", &plan.usd_month),
        ("currency", "eur"),
    ];
    let error = world.post("/v1/subscriptions", &named).await.error(400);
    assert_eq!(
        error["message"],
        "The price specified only supports `usd`. This doesn't match the expected currency: `eur`."
    );
    let yen = subscribe(&world, &customer, &plan.jpy_month, "2", "flexible").await;
    let invoice = world.latest_invoice(&text(&yen, "id")).await;
    assert_eq!(invoice["total"], 9_000);
    assert_eq!(
        invoice["lines"]["data"][0]["description"],
        "2 × Seat (at 4500 JPY / month)"
    );
    let again = [
        ("items[0][price]", plan.jpy_month.as_str()),
        ("items[0][quantity]", "3"),
    ];
    let path = format!("/v1/subscriptions/{}", text(&yen, "id"));
    let error = world.post(&path, &again).await.error(400);
    assert_eq!(error["param"], "plan");
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains(&item(&yen)), "{message}");
}

/// Previews a change and makes it. Both must give the same lines and total.
async fn change(world: &World, subscription: &Value, fields: &[(&str, &str)]) -> Value {
    let (id, item) = (text(subscription, "id"), item(subscription));
    let mut request = vec![("items[0][id]".to_owned(), item)];
    request.extend(
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let nested: Vec<(String, &str)> = request
        .iter()
        .map(|(name, value)| {
            let (head, tail) = name.split_at(name.find('[').unwrap_or(name.len()));
            (
                format!("subscription_details[{head}]{tail}"),
                value.as_str(),
            )
        })
        .collect();
    let mut asked = vec![("subscription", id.as_str())];
    asked.extend(nested.iter().map(|(name, value)| (name.as_str(), *value)));
    let preview = world.post("/v1/invoices/create_preview", &asked).await.ok();
    let request: Vec<(&str, &str)> = request
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    world
        .post(&format!("/v1/subscriptions/{id}"), &request)
        .await
        .ok();
    let invoice = world.latest_invoice(&id).await;
    assert_eq!(amounts(&invoice), amounts(&preview));
    assert_eq!(invoice["total"], preview["total"]);
    invoice
}

#[tokio::test]
async fn seats_are_prorated_over_a_year() {
    let world = World::new().await;
    let plan = plan(&world).await;
    for mode in ["classic", "flexible"] {
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let subscription = subscribe(&world, &customer, &plan.eur_year, "5", mode).await;
        let first = world.latest_invoice(&text(&subscription, "id")).await;
        assert_eq!(first["total"], 5 * 36_500);
        world.advance(&clock, START + 73 * DAY).await;
        let more = [
            ("items[0][quantity]", "8"),
            ("proration_behavior", "always_invoice"),
        ];
        let invoice = change(&world, &subscription, &more).await;
        // Four fifths of the year are left.
        assert_eq!(amounts(&invoice), [-4 * 36_500, 8 * 29_200], "{mode}");
        let lines = &invoice["lines"]["data"];
        assert_eq!(
            (&lines[0]["quantity"], &lines[1]["quantity"]),
            (&5.into(), &8.into())
        );
        assert_eq!(
            lines[1]["description"],
            "Remaining time on 8 × Seat after 14 Apr 2026"
        );
        let none = [
            ("items[0][quantity]", "0"),
            ("proration_behavior", "always_invoice"),
        ];
        let invoice = change(&world, &subscription, &none).await;
        assert_eq!(amounts(&invoice), [-8 * 29_200, 0], "{mode}");
        assert_eq!(invoice["ending_balance"], -8 * 29_200);
    }
}

#[tokio::test]
async fn a_month_becomes_a_year_for_all_seats() {
    let world = World::new().await;
    let plan = plan(&world).await;
    for (mode, anchor) in [("classic", "unchanged"), ("flexible", "now")] {
        let clock = world.clock(START).await;
        let customer = world.customer(&clock, "pm_card_visa").await;
        let subscription = subscribe(&world, &customer, &plan.eur_month, "3", mode).await;
        world.advance(&clock, START + 7 * DAY).await;
        let yearly = [
            ("items[0][price]", plan.eur_year.as_str()),
            ("items[0][quantity]", "4"),
            ("billing_cycle_anchor", anchor),
            ("proration_behavior", "always_invoice"),
        ];
        let invoice = change(&world, &subscription, &yearly).await;
        assert_eq!(amounts(&invoice), [-3 * 2_100, 4 * 36_500], "{mode}");
        let after = world.subscription(&text(&subscription, "id")).await;
        let period = &after["items"]["data"][0];
        assert_eq!(period["current_period_start"], START + 7 * DAY);
        assert_eq!(period["current_period_end"], START + (7 + 365) * DAY);
        assert_eq!(period["price"]["recurring"]["interval"], "year");
    }
}
