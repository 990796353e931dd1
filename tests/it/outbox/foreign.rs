//! The libraries of Standard Webhooks and CloudEvents verify and read an event of each
//! type, and each has the form that `events types` shows.

use serde_json::{Value, json};

use super::receiver::{Receiver, Reply, Taken, endpoint, events, service, until_count};
use crate::metering::tenant::Tenant;
use crate::support::TestService;
use crate::support::events::{event, invoice, subscription};
use crate::support::libraries::{LANGUAGES, ask};

fn request(secret: &str, taken: &Taken) -> Value {
    let headers: serde_json::Map<_, _> = taken
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
        .collect();
    json!({"action": "receive", "secret": secret, "headers": headers, "body": taken.body})
}

fn verified(secret: &str, taken: &Taken) {
    let sent = taken.event();
    for language in LANGUAGES {
        let read = ask(language, "usage", &request(secret, taken)).expect("it verifies");
        let read: Value = serde_json::from_str(&read).unwrap();
        for name in ["id", "type", "subject", "sequence", "source"] {
            assert_eq!(read[name], sent[name], "{language}: {name}");
        }
        assert_eq!(read["data"], sent["data"], "{language}");
        let mut forged = request(secret, taken);
        forged["body"] = json!(taken.body.replace("1.0", "1.1"));
        assert!(
            ask(language, "usage", &forged).is_err(),
            "{language} checks what it is given"
        );
    }
}

async fn types(service: &TestService) -> Vec<Value> {
    let listed = events(&service.db, &["types", "--json"]).await;
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    listed.json().as_array().unwrap().clone()
}

/// The example of each type, sent as it would be.
#[tokio::test]
async fn libraries_verify_and_read_an_event_of_each_type() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let (id, secret) = endpoint(&service.db, &receiver, &[]).await;
    let types = types(&service).await;
    assert_eq!(types.len(), 15);
    let organization = uuid::Uuid::from_u128(0xacce);
    for (number, one) in types.iter().enumerate() {
        let example = one["example"].to_string().replace('\'', "''");
        let name = one["type"].as_str().unwrap();
        service
            .db
            .execute(&format!(
                "INSERT INTO outbound_events (organization_id, sequence, id, event_type, body)
                   VALUES ('{organization}', {number} + 1, gen_random_uuid(), '{name}', '{example}');
                 INSERT INTO outbound_deliveries (organization_id, endpoint_id, sequence)
                   VALUES ('{organization}', '{id}', {number} + 1)"
            ))
            .await;
        validates(&one["schema"], &one["example"], name);
    }
    service
        .db
        .execute(&format!(
            "INSERT INTO outbound_lanes (organization_id, endpoint_id, due_at)
             VALUES ('{organization}', '{id}', now())"
        ))
        .await;
    for (taken, one) in receiver.count(types.len()).await.iter().zip(&types) {
        assert_eq!(taken.event()["type"], one["type"]);
        verified(&secret, taken);
    }
}

/// Checks a document against a schema, by another's validator.
fn validates(schema: &Value, document: &Value, name: &str) {
    let script = "import json,sys,jsonschema;\
                  d=json.load(sys.stdin);\
                  jsonschema.Draft202012Validator(d['schema']).validate(d['document'])";
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut child = std::process::Command::new(root.join("target/foreign-python/bin/python"))
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({"schema": schema, "document": document}).to_string();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}\n{document:#}");
}

/// What really happens has the form that is documented.
#[tokio::test]
async fn each_event_has_the_form_of_its_type() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;
    let tenant = Tenant::of(&service, "Acme").await;
    let organization = tenant.organization.to_string();
    let link = [
        "organizations",
        "link-customer",
        &organization,
        "--stripe-customer",
        "cus_a",
    ];
    assert_eq!(
        crate::support::program::run_on(&service.db, &link)
            .await
            .status,
        0
    );
    tenant.consume(&service, "api_calls", 900).await.ok();
    tenant.consume(&service, "api_calls", 200).await.ok();
    let at = 1_760_000_000;
    let sub = |status: &str| subscription("sub_a", "cus_a", status, "standard");
    let bill = |status: &str| invoice("in_a", "cus_a", "sub_a", status);
    let card = json!({
        "id": "pm_a", "object": "payment_method", "type": "card", "customer": "cus_a",
        "card": {"brand": "visa", "last4": "4242", "exp_month": 4, "exp_year": 2030, "funding": "credit"},
        "livemode": false, "metadata": {}, "created": at, "billing_details": {},
    });
    let checkout = json!({
        "id": "cs_a", "object": "checkout.session", "customer": "cus_a", "mode": "subscription",
        "status": "complete", "payment_status": "paid", "subscription": "sub_a", "currency": "usd",
        "amount_total": 9900, "livemode": false, "metadata": {}, "created": at,
    });
    let mut told = vec![
        ("customer.subscription.created", sub("trialing")),
        ("customer.subscription.trial_will_end", sub("trialing")),
        ("payment_method.attached", card),
        ("invoice.payment_action_required", bill("open")),
        ("invoice.payment_failed", bill("open")),
        ("invoice.paid", bill("paid")),
        ("checkout.session.completed", checkout),
        ("customer.subscription.updated", sub("active")),
        ("customer.subscription.deleted", sub("canceled")),
    ];
    for (n, (kind, object)) in told.drain(..).enumerate() {
        let n = n as i64;
        service
            .deliver(&event(&format!("evt_{n}"), kind, at + n, object))
            .await;
        service.settle().await;
    }
    until_count(&service, "outbound_changes", 0).await;
    until_count(&service, "outbound_deliveries WHERE status = 'pending'", 0).await;
    let types = types(&service).await;
    let mut seen = std::collections::BTreeSet::new();
    for taken in receiver.all() {
        let event = taken.event();
        let name = event["type"].as_str().unwrap().to_owned();
        let one = types
            .iter()
            .find(|one| one["type"] == event["type"])
            .expect("a known type");
        if seen.insert(name.clone()) {
            validates(&one["schema"], &event, &name);
        }
    }
    let missing: Vec<&str> = types
        .iter()
        .filter_map(|one| one["type"].as_str())
        .filter(|name| !seen.contains(*name))
        .collect();
    assert!(
        missing.is_empty(),
        "never told of: {missing:?}, but {seen:?}"
    );
}

/// docs/events.md has the example of each type, as `events types` prints it.
#[test]
fn the_documentation_has_an_example_of_each_type() {
    let page = include_str!("../../../docs/events.md");
    for one in valuecanvas_billing::outbox::EventType::ALL {
        let heading = format!("\n### {}\n", one.as_str());
        let found = page.split_once(&heading);
        let (_, rest) = found.unwrap_or_else(|| panic!("{} is missing", one.as_str()));
        let block = rest.split("```").nth(1).unwrap();
        let shown: Value = serde_json::from_str(block.trim_start_matches("json")).unwrap();
        let (event, data) = (one.example(), one.example()["data"].clone());
        assert!(shown == event || shown == data, "{}", one.as_str());
    }
}
