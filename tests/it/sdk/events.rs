//! Events as the service sends them, verified by the package.

use serde_json::{Value, json};

use super::package::asked;
use crate::metering::tenant::Tenant;
use crate::outbox::receiver::{Receiver, Reply, Taken, change, endpoint, events, service};

fn request(secrets: &[&str], taken: &[&Taken]) -> Value {
    let messages: Vec<Value> = taken
        .iter()
        .map(|taken| {
            let headers: serde_json::Map<String, Value> = taken
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
                .collect();
            json!({"headers": headers, "body": taken.body})
        })
        .collect();
    json!({"secrets": secrets, "messages": messages})
}

#[tokio::test]
async fn what_the_service_sends_verifies_by_each_secret_of_a_rotation() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    let (id, secret) = endpoint(&service.db, &receiver, &[]).await;
    let tenant = Tenant::of(&service, "Zoë & Söhne").await;
    change(&service, tenant.organization, 7).await;
    let first = receiver.of_type("organization.state_changed").await;
    let rotated = events(&service.db, &["endpoints", "rotate", &id, "--json"]).await;
    let young = rotated.json()["secret"].as_str().unwrap().to_owned();
    change(&service, tenant.organization, 9).await;
    let newer = |taken: &Taken| taken.event()["data"]["features"]["projects"] == json!(9);
    let second = receiver.until("the next state", newer).await;
    let state = |projects: u32| json!(["organization.state_changed", projects, "Zoë & Söhne"]);
    let refused = json!("signature_invalid");

    let by_old = asked("sdk_events", request(&[&secret], &[&first, &second])).await;
    assert_eq!(by_old, json!([state(7), state(9)]));
    let by_young = asked("sdk_events", request(&[&young], &[&first, &second])).await;
    assert_eq!(by_young, json!([refused, state(9)]));
    let by_both = asked("sdk_events", request(&[&secret, &young], &[&first, &second])).await;
    assert_eq!(by_both, json!([state(7), state(9)]));
}
