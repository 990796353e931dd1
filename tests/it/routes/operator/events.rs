//! `/api/operator/webhook-events`

use uuid::Uuid;

use super::{Desk, problem};

#[tokio::test]
async fn all_organizations_events_are_listed_newest_first_as_the_filters_say() {
    let desk = Desk::open().await;
    let other = desk.service.db.organization("cus_2").await;
    desk.deliver("cus_1", &["evt_1", "evt_2", "evt_3"]).await;
    desk.deliver("cus_2", &["evt_4"]).await;
    let list = "/webhook-events";
    let all = ["evt_4", "evt_3", "evt_2", "evt_1"];
    assert_eq!(desk.ids(list, "eventId").await, all);
    for (filter, expected) in [
        ("processed=true".to_owned(), &all[..]),
        (format!("organizationId={other}"), &all[..1]),
        (format!("organizationId={}", desk.organization), &all[1..]),
        ("type=customer.subscription.created".to_owned(), &all),
    ] {
        let list = format!("{list}?{filter}");
        assert_eq!(desk.ids(&list, "eventId").await, expected, "{filter}");
    }
    for filter in ["processed=false", "type=invoice.finalized"] {
        let (status, page) = desk.get(&format!("{list}?{filter}")).await;
        assert_eq!((status, page["data"].as_array().unwrap().len()), (200, 0));
    }
    let entered = desk.entries(Uuid::nil()).await;
    assert!(
        entered
            .iter()
            .all(|entry| entry == "webhook_events_listed all")
    );
    let filters = "SELECT metadata->'filters'->>'organizationId' FROM billing_audit_log
                    WHERE metadata->'filters'->>'organizationId' IS NOT NULL ORDER BY sequence LIMIT 1";
    assert_eq!(desk.service.db.value(filters).await, other.to_string());
}

#[tokio::test]
async fn an_event_is_shown_as_it_was_received_and_its_organization_learns_of_it() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1"]).await;
    let (status, event) = desk.get("/webhook-events/evt_1").await;
    assert_eq!(status, 200, "{event}");
    assert_eq!(event["state"], "processed");
    assert_eq!(event["organizationId"], desk.organization.to_string());
    assert_eq!(event["payload"]["data"]["object"]["id"], "sub_evt_1");
    assert_eq!(event["attempts"], serde_json::json!([]));
    let entered = desk.entries(desk.organization).await;
    assert_eq!(entered, ["webhook_event_shown evt_1"]);
    for unknown in ["evt_2", "%27", "evt_1%00"] {
        let answer = desk.get(&format!("/webhook-events/{unknown}")).await;
        assert!(matches!(answer.0, 400 | 404), "{unknown}: {answer:?}");
    }
    assert_eq!(desk.entries(desk.organization).await.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let desk = Desk::open().await;
    for (query, code) in [
        ("limit=0", "invalid_query"),
        ("processed=perhaps", "invalid_query"),
        ("organizationId=acme", "invalid_query"),
        ("customer=cus_1", "unknown_field"),
        ("cursor=forged", "invalid_cursor"),
    ] {
        let answer = desk.get(&format!("/webhook-events?{query}")).await;
        problem(400, code)(answer);
    }
}
