//! `/api/operator/bulk-actions`

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Role;

use super::{Desk, problem};
use crate::webhooks::bulk::dead_letters;

#[tokio::test]
async fn all_that_match_are_counted_begun_done_and_shown() {
    let desk = Desk::open().await;
    dead_letters(&desk.service.db, "cus_1", 0..12).await;
    let counted = "/bulk-actions/matching?action=discard_dead_letters&type=";
    let (status, found) = desk
        .get(&format!("{counted}customer.subscription.created"))
        .await;
    assert_eq!((status, &found["count"]), (200, &json!(12)), "{found}");
    assert_eq!(found["sample"].as_array().unwrap().len(), 10);
    let (_, none) = desk.get(&format!("{counted}invoice.paid")).await;
    assert_eq!(
        (&none["count"], &none["through"]),
        (&json!(0), &json!(null))
    );

    let wanted = json!({"action": "discard_dead_letters", "through": found["through"]});
    let begin = |wanted| desk.ask(Method::POST, "/bulk-actions", Some(wanted));
    let (status, begun) = begin(wanted).await;
    assert_eq!((status, &begun["counted"]), (202, &json!(12)), "{begun}");
    let path = format!("/bulk-actions/{}", begun["id"].as_str().unwrap());
    let mut shown = begun.clone();
    for _ in 0..1_500 {
        shown = desk.get(&path).await.1;
        if shown["state"] == "done" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        (&shown["state"], &shown["succeeded"]),
        (&json!("done"), &json!(12)),
        "{shown}"
    );
    let letters = desk.service.db.count("webhook_dead_letter_queue").await;
    assert_eq!(letters, 0);
    let counter = "webhook_bulk_events_total{action=\"discard_dead_letters\",result=\"succeeded\"}";
    assert_eq!(desk.service.metric(counter).await, Some(12));
    let (_, page) = desk.get("/bulk-actions").await;
    assert_eq!(page["data"][0]["id"], begun["id"]);

    problem(409, "bulk_action_ended")(desk.ask(Method::POST, &format!("{path}/stop"), None).await);
    problem(422, "none_match")(begin(json!({"action": "replay_dead_letters"})).await);
    let misplaced = json!({"action": "replay_events", "filter": {"reason": "a"}});
    problem(400, "invalid_request")(begin(misplaced).await);
    problem(404, "not_found")(desk.get(&format!("/bulk-actions/{}", Uuid::now_v7())).await);
    let entered = desk.entries(Uuid::nil()).await;
    let started = format!("bulk_action_started {}", begun["id"].as_str().unwrap());
    assert!(entered.contains(&started), "{entered:?}");
}

#[tokio::test]
async fn each_event_has_an_entry_of_the_operator_and_the_bulk_action() {
    let desk = Desk::open().await;
    dead_letters(&desk.service.db, "cus_1", 0..3).await;
    let wanted = json!({"action": "replay_dead_letters"});
    let (_, begun) = desk.ask(Method::POST, "/bulk-actions", Some(wanted)).await;
    let entered = format!(
        "billing_audit_log WHERE action = 'webhook_event_replayed' AND actor_type = 'user'
           AND actor_id = (SELECT id FROM users WHERE operator)
           AND organization_id = '{}' AND metadata->>'bulkAction' = '{}'",
        desk.organization,
        begun["id"].as_str().unwrap()
    );
    for _ in 0..1_500 {
        if desk.service.db.count(&entered).await == 3 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}", desk.get("/bulk-actions").await);
}

#[tokio::test]
async fn the_entry_of_each_event_names_the_key_that_asked() {
    let mut desk = Desk::open().await;
    desk.operator = desk.service.operator_key(Role::Operator).await;
    dead_letters(&desk.service.db, "cus_1", 0..2).await;
    let key = "SELECT id::text FROM operator_api_keys";
    let key = desk.service.db.value(key).await;
    let wanted = json!({"action": "discard_dead_letters"});
    let (_, begun) = desk.ask(Method::POST, "/bulk-actions", Some(wanted)).await;
    assert_eq!(begun["requestedByKey"], json!(key), "{begun}");
    assert_eq!(begun["requestedBy"], json!(null));
    let entered = format!(
        "billing_audit_log WHERE action = 'webhook_event_discarded' AND actor_type = 'api_key'
           AND actor_id = '{key}' AND metadata->>'bulkAction' = '{}'",
        begun["id"].as_str().unwrap()
    );
    for _ in 0..1_500 {
        if desk.service.db.count(&entered).await == 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{:?}", desk.get("/bulk-actions").await);
}
