//! Recorded changes, replayed over HTTP: the sandbox charges what Stripe did.

use std::path::Path;

use serde_json::Value;

use crate::support::{OLD, START, World, amounts, item, text};

/// Whether a single monthly subscription can replay the vector: one item before
/// and after, in a calendar month from its anchor.
fn replayable(vector: &Value) -> bool {
    let whole = ["old_unit_amount", "new_unit_amount"]
        .iter()
        .all(|key| vector[*key].is_i64());
    let note = vector["note"].as_str().unwrap_or_default();
    let charged = vector["expected_credit"].is_i64();
    // Flexible credits after a change without proration have their own test,
    // and classic billing restarts the period when free becomes paid.
    whole && charged && !note.contains("originally debited") && monthly(vector)
}

fn monthly(vector: &Value) -> bool {
    let (start, end) = (
        vector["period_start"].as_i64(),
        vector["period_end"].as_i64(),
    );
    let (Some(start), Some(end)) = (start, end) else {
        return false;
    };
    let cadence = billing_domain::period::Cadence::MONTHLY;
    cadence.boundary(start, 1) == Ok(end)
}

#[tokio::test]
async fn recorded_changes_are_charged_as_stripe_charged_them() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/proration-vectors.json");
    let file = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let vectors: Vec<Value> = serde_json::from_str(&file).expect("well-formed vectors");
    let mut replayed = 0;
    let world = World::new().await;
    for vector in vectors.iter().filter(|vector| replayable(vector)) {
        replay(&world, vector).await;
        replayed += 1;
    }
    assert!(replayed >= 15, "only {replayed} vectors could be replayed");
}

async fn replay(world: &World, vector: &Value) {
    let number = |key: &str| vector[key].as_i64().expect("a number");
    let mode = if vector["mode"] == "classic" {
        "classic"
    } else {
        "flexible"
    };
    let (start, at) = (number("period_start"), number("proration_at"));
    let (old, new) = (
        world.price(number("old_unit_amount")).await,
        world.price(number("new_unit_amount")).await,
    );
    let (old_quantity, new_quantity) = (
        number("quantity_old").to_string(),
        number("quantity_new").to_string(),
    );
    let clock = world.clock(start).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let subscription = world
        .post(
            "/v1/subscriptions",
            &[
                ("customer", &customer),
                ("items[0][price]", &old),
                ("items[0][quantity]", &old_quantity),
                ("billing_mode[type]", mode),
            ],
        )
        .await
        .ok();
    if at > start {
        world.advance(&clock, at).await;
    }
    let id = text(&subscription, "id");
    world
        .post(
            &format!("/v1/subscriptions/{id}"),
            &[
                ("items[0][id]", &item(&subscription)),
                ("items[0][price]", &new),
                ("items[0][quantity]", &new_quantity),
                ("proration_behavior", "always_invoice"),
            ],
        )
        .await
        .ok();
    let expected = [number("expected_credit"), number("expected_debit")];
    assert_eq!(
        amounts(&world.latest_invoice(&id).await),
        expected,
        "{}",
        vector["name"]
    );
}

/// Fields of the recorded version, 2020-03-02, that later versions of the older
/// shape removed or renamed, or that belong to unsupported features.
const NOT_OURS: [&str; 8] = [
    "application_fee_amount",
    "custom_fields",
    "destination",
    "dispute",
    "order",
    "refunds",
    "tax_percent",
    "plan.tiers",
];

/// The sandbox's objects have every field of the recorded ones.
#[tokio::test]
async fn the_older_shape_has_the_fields_of_recorded_events() {
    let mut world = World::new().await;
    world.version = Some(OLD);
    let price = world.price(1_000).await;
    let clock = world.clock(START).await;
    let customer = world.customer(&clock, "pm_card_visa").await;
    let id = text(&world.subscribe(&customer, &price, "classic").await, "id");
    let invoice = world.latest_invoice(&id).await;
    let charge = world
        .get(&format!("/v1/charges/{}", text(&invoice, "charge")), &[])
        .await
        .ok();
    let methods = world
        .get(&format!("/v1/customers/{customer}/payment_methods"), &[])
        .await
        .ok();
    let ours = [
        ("subscription_created", world.subscription(&id).await),
        ("invoice_paid", invoice),
        ("charge_succeeded", charge),
        ("payment_method_attached", methods["data"][0].clone()),
    ];
    let mut missing = Vec::new();
    for (name, object) in ours {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../../shared/data/stripe-events/{name}.json"));
        let file = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let event: Value = serde_json::from_str(&file).expect("JSON");
        compare(name, &event["data"]["object"], &object, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

fn compare(path: &str, recorded: &Value, ours: &Value, missing: &mut Vec<String>) {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            for (key, value) in recorded {
                let here = format!("{path}.{key}");
                let skipped = key.as_str() == "metadata"
                    || NOT_OURS
                        .iter()
                        .any(|name| here.ends_with(&format!(".{name}")));
                match ours.get(key) {
                    _ if skipped => {}
                    Some(other) => compare(&here, value, other, missing),
                    None => missing.push(here),
                }
            }
        }
        (Value::Array(recorded), Value::Array(ours)) => {
            if let (Some(recorded), Some(ours)) = (recorded.first(), ours.first()) {
                compare(path, recorded, ours, missing);
            }
        }
        _ => {}
    }
}
