//! `/api/operator/dead-letters`

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::audit;

use super::{Desk, problem};

/// Three events of a customer whom nobody is yet.
async fn with_letters() -> Desk {
    let desk = Desk::open().await;
    desk.deliver("cus_2", &["evt_1", "evt_2", "evt_3"]).await;
    let letters = desk.service.db.count("webhook_dead_letter_queue").await;
    assert_eq!(letters, 3);
    desk
}

impl Desk {
    async fn replay(&self, body: Value) -> (u16, Value) {
        let path = "/dead-letters/replay";
        self.ask(Method::POST, path, Some(body)).await
    }
}

#[tokio::test]
async fn dead_letters_are_listed_oldest_first_and_shown_with_their_reason() {
    let desk = with_letters().await;
    let ids = desk.ids("/dead-letters", "eventId").await;
    assert_eq!(ids, ["evt_1", "evt_2", "evt_3"]);
    let (status, page) = desk.get("/dead-letters?type=invoice.finalized").await;
    assert_eq!((status, &page["data"]), (200, &json!([])));
    let (status, letter) = desk.get("/dead-letters/evt_1").await;
    assert_eq!((status, &letter["state"]), (200, &json!("dead_letter")));
    let reason = letter["errorMessage"].as_str().unwrap();
    assert!(reason.contains("cus_2"), "{letter}");
    assert_eq!(letter["attempts"].as_array().unwrap().len(), 1);

    // An event that is none is not found among them.
    desk.deliver("cus_1", &["evt_4"]).await;
    problem(404, "not_found")(desk.get("/dead-letters/evt_4").await);
    let entered = desk.entries(Uuid::nil()).await;
    let list = "dead_letters_listed all";
    assert_eq!(entered, [list, list, list, "webhook_event_shown evt_1"]);
}

#[tokio::test]
async fn a_replay_runs_the_handler_and_takes_the_letter_away_only_when_it_succeeds() {
    let desk = with_letters().await;
    let replay = || desk.ask(Method::POST, "/dead-letters/evt_1/replay", None);
    let (status, answer) = replay().await;
    assert_eq!((status, &answer["result"]), (200, &json!("failed")));
    assert!(answer["error"].as_str().unwrap().contains("cus_2"));
    let kept = "webhook_dead_letter_queue
                 WHERE stripe_event_id = 'evt_1' AND jsonb_array_length(attempts) = 2";
    assert_eq!(desk.service.db.count(kept).await, 1);

    let organization = desk.service.db.organization("cus_2").await;
    let applied = json!({"eventId": "evt_1", "result": "succeeded", "outcome": "applied"});
    assert_eq!(replay().await, (200, applied));
    let subscription = "billing_subscriptions WHERE stripe_subscription_id = 'sub_evt_1'";
    assert_eq!(desk.service.db.count(subscription).await, 1);
    problem(404, "not_found")(replay().await);

    let replayed = ["webhook_event_replayed evt_1"];
    assert_eq!(desk.entries(Uuid::nil()).await, replayed);
    assert_eq!(desk.entries(organization).await, replayed);
    // The operators' chain is one like all others.
    let mut conn = desk.service.db.pool.acquire().await.unwrap();
    let report = audit::verify(&mut conn, None).await.unwrap();
    assert!(report.breaks.is_empty(), "{:?}", report.breaks);
}

#[tokio::test]
async fn many_are_replayed_each_by_itself() {
    let desk = with_letters().await;
    desk.service.db.organization("cus_2").await;
    desk.deliver("cus_3", &["evt_4"]).await;
    let (status, first) = desk.replay(json!({"limit": 3})).await;
    assert_eq!(status, 200, "{first}");
    let results = |page: &Value| -> Vec<Value> {
        let data = page["data"].as_array().unwrap();
        data.iter().map(|event| event["result"].clone()).collect()
    };
    assert_eq!(results(&first), ["succeeded"; 3]);
    let rest = json!({"limit": 3, "cursor": first["nextCursor"]});
    let (status, rest) = desk.replay(rest).await;
    assert_eq!((status, results(&rest)), (200, vec![json!("failed")]));
    assert_eq!(rest["nextCursor"], Value::Null);

    // By name: also what was processed before, and what there is not.
    let named = json!({"eventIds": ["evt_1", "evt_4", "evt_none"]});
    let (status, named) = desk.replay(named).await;
    assert_eq!(status, 200, "{named}");
    assert_eq!(results(&named), ["succeeded", "failed", "unknown"]);
}

#[tokio::test]
async fn a_selection_that_is_none_is_refused() {
    let desk = with_letters().await;
    let many: Vec<String> = (0..101).map(|n| format!("evt_{n}")).collect();
    for (body, code) in [
        (json!({"eventIds": []}), "invalid_request"),
        (json!({"eventIds": many}), "invalid_request"),
        (
            json!({"eventIds": ["evt_1"], "type": "x"}),
            "invalid_request",
        ),
        (
            json!({"eventIds": ["evt_1"], "organizationId": "x"}),
            "unknown_field",
        ),
        (json!({"limit": 0}), "invalid_request"),
        (json!({"limit": 101}), "invalid_request"),
        (json!({"cursor": "forged"}), "invalid_cursor"),
        (json!([]), "invalid_request"),
    ] {
        problem(400, code)(desk.replay(body).await);
    }
    let letters = desk.service.db.count("webhook_dead_letter_queue").await;
    assert_eq!(letters, 3, "nothing was replayed");
}

#[tokio::test]
async fn a_discarded_letter_is_a_duplicate_when_it_comes_again() {
    let desk = with_letters().await;
    let discard = |id| {
        let path = format!("/dead-letters/{id}");
        let desk = &desk;
        async move { desk.ask(Method::DELETE, &path, None).await }
    };
    assert_eq!(discard("evt_1").await.0, 204);
    problem(404, "not_found")(discard("evt_1").await);
    problem(404, "not_found")(discard("evt_none").await);
    let kept = "webhook_events WHERE processed AND outcome = 'discarded'";
    assert_eq!(desk.service.db.count(kept).await, 1);
    desk.service.db.organization("cus_2").await;
    desk.deliver("cus_2", &["evt_1"]).await;
    assert_eq!(desk.service.db.count("billing_subscriptions").await, 0);
    let entry = "SELECT before_state->>'eventType' FROM billing_audit_log
                  WHERE action = 'webhook_event_discarded'";
    let event_type = desk.service.db.value(entry).await;
    assert_eq!(event_type, "customer.subscription.created");
    let entered = desk.entries(Uuid::nil()).await;
    assert_eq!(entered, ["webhook_event_discarded evt_1"]);
}

/// Two operators, or one who clicks twice.
#[tokio::test]
async fn a_letter_that_is_replayed_twice_at_once_has_one_effect() {
    let desk = with_letters().await;
    desk.service.db.organization("cus_2").await;
    let replay = || desk.ask(Method::POST, "/dead-letters/evt_1/replay", None);
    let (one, other) = tokio::join!(replay(), replay());
    for (status, answer) in [&one, &other] {
        assert!(matches!(status, 200 | 404), "{answer}");
    }
    assert!(one.0 == 200 || other.0 == 200);
    let effects = "billing_applied_events WHERE stripe_event_id = 'evt_1'";
    assert_eq!(desk.service.db.count(effects).await, 1);
    assert_eq!(desk.service.db.count("webhook_dead_letter_queue").await, 2);
}

#[tokio::test]
async fn a_rehearsal_says_what_a_replay_would_change_and_changes_nothing() {
    let desk = with_letters().await;
    let own = &desk;
    let rehearse = |id: &'static str| async move {
        let path = format!("/webhook-events/{id}/rehearse");
        own.ask(Method::POST, &path, None).await
    };
    let (status, failed) = rehearse("evt_1").await;
    assert_eq!((status, &failed["result"]), (200, &json!("failed")));
    assert_eq!(failed["changes"], json!([]), "{failed}");
    let organization = desk.service.db.organization("cus_2").await;

    let (status, tried) = rehearse("evt_1").await;
    assert_eq!((status, &tried["outcome"]), (200, &json!("applied")));
    let of = |table: &str| {
        let changes = tried["changes"].as_array().unwrap().iter();
        let mut changes = changes.filter(|change| change["table"] == table);
        changes
            .next()
            .unwrap_or_else(|| panic!("{table}: {tried:#}"))
            .clone()
    };
    let added = of("billing_subscriptions");
    assert_eq!(
        (&added["row"], &added["change"]),
        (&json!("sub_evt_1"), &json!("added"))
    );
    let plan = of("organizations");
    assert_eq!(plan["change"], "changed");
    let columns = plan["columns"].as_array().unwrap();
    let tier = json!({"column": "plan_tier", "before": "free", "after": "standard"});
    assert!(columns.contains(&tier), "{plan:#}");
    assert_eq!(of("usage_quotas")["change"], "changed");
    let entries = tried["entries"].as_array().unwrap();
    let actions: Vec<&str> = entries
        .iter()
        .map(|one| one["action"].as_str().unwrap())
        .collect();
    assert!(actions.contains(&"subscription_created"), "{actions:?}");

    let db = &desk.service.db;
    assert_eq!(db.count("billing_subscriptions").await, 0);
    assert_eq!(db.count("webhook_dead_letter_queue").await, 3);
    let tier = "organizations WHERE stripe_customer_id = 'cus_2' AND plan_tier = 'free'";
    let tier = tier.replace(
        "stripe_customer_id = 'cus_2'",
        &format!("id = '{organization}'"),
    );
    assert_eq!(db.count(&tier).await, 1);

    // The replay does what the rehearsal said.
    desk.ask(Method::POST, "/dead-letters/evt_1/replay", None)
        .await;
    let entered = format!(
        "SELECT string_agg(action, ' ' ORDER BY sequence) FROM billing_audit_log
          WHERE organization_id = '{organization}' AND actor_type = 'webhook'"
    );
    assert_eq!(db.value(&entered).await, actions.join(" "));
    // Again it changes nothing but when it was written.
    let (_, again) = rehearse("evt_1").await;
    assert_eq!(again["result"], "succeeded", "{again}");
    problem(404, "not_found")(rehearse("evt_none").await);
    let entered = desk.entries(organization).await;
    let rehearsed = "webhook_event_rehearsed evt_1".to_owned();
    assert!(entered.contains(&rehearsed), "{entered:?}");
}
