//! What HTTP itself allows: methods, addresses, connections.

use serde_json::json;

use crate::support::TestService;
use crate::support::events::{event, sign};
use crate::support::service::WEBHOOKS;
use crate::support::wire::Wire;

#[tokio::test]
async fn other_methods_and_addresses_are_problems() {
    let service = TestService::intake_only().await;
    let mut wire = Wire::open(&service.base).await;
    for (request, status, code) in [
        (format!("GET {WEBHOOKS}"), 405, "method_not_allowed"),
        (format!("PUT {WEBHOOKS}"), 405, "method_not_allowed"),
        (format!("DELETE {WEBHOOKS}"), 405, "method_not_allowed"),
        (format!("POST {WEBHOOKS}/"), 404, "not_found"),
        (format!("POST {WEBHOOKS}/more"), 404, "not_found"),
        ("POST /api/billing/webhooks".to_owned(), 404, "not_found"),
        ("GET /%00%ff/../etc/passwd".to_owned(), 404, "not_found"),
        ("POST /healthz".to_owned(), 405, "method_not_allowed"),
    ] {
        wire.send(format!(
            "{request} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n"
        ))
        .await;
        let reply = wire.answer().await;
        assert_eq!((reply.status, &*reply.code()), (status, code), "{request}");
        assert_eq!(
            reply.header("allow").is_some(),
            status == 405,
            "{request}: {reply:?}"
        );
    }
    wire.send(format!("HEAD {WEBHOOKS} HTTP/1.1\r\nhost: test\r\n\r\n"))
        .await;
    assert_eq!(wire.answer_without_body().await.status, 405);
    assert_eq!(service.db.count("webhook_events").await, 0);
}

#[tokio::test]
async fn one_connection_carries_many_deliveries() {
    let service = TestService::intake_only().await;
    let request = |id: &str| {
        let body = event(id, "plan.created", 1, json!({"id": "plan_1"})).to_string();
        format!(
            "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\nstripe-signature: {}\r\ncontent-length: {}\r\n\r\n{body}",
            sign(body.as_bytes()),
            body.len()
        )
    };
    let mut wire = Wire::open(&service.base).await;
    for id in ["evt_1", "evt_2"] {
        wire.send(request(id)).await;
        assert_eq!(wire.answer().await.json()["eventId"], id);
    }
    // Pipelined: all are sent before the first is answered.
    let ids = ["evt_3", "evt_1", "evt_4"];
    wire.send(ids.map(request).concat()).await;
    for (id, duplicate) in ids.into_iter().zip([false, true, false]) {
        let answer = json!({"received": true, "eventId": id, "duplicate": duplicate});
        assert_eq!(wire.answer().await.json(), answer);
    }
    assert_eq!(service.db.count("webhook_events").await, 4);
}

/// Ten seconds for the headers, as many for the body, and then it is over; a body
/// that nobody signed is not waited for at all.
#[tokio::test]
async fn a_slow_sender_is_not_waited_for() {
    let service = TestService::intake_only().await;
    let slow_headers = async {
        let mut wire = Wire::open(&service.base).await;
        wire.send(format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: te"))
            .await;
        let said = wire.closed().await;
        assert!(said.is_empty() || said.contains(" 408 "), "{said}");
    };
    let says_nothing = async {
        let said = Wire::open(&service.base).await.closed().await;
        assert!(said.is_empty() || said.contains(" 408 "), "{said}");
    };
    let slow_body = async {
        let mut wire = Wire::open(&service.base).await;
        let signature = sign(b"another body");
        let head = format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n");
        wire.send(head + &format!("stripe-signature: {signature}\r\n\r\n{{\"id\":"))
            .await;
        let reply = wire.answer().await;
        assert_eq!((reply.status, &*reply.code()), (503, "body_timeout"));
        assert!(reply.header("retry-after").is_some());
    };
    let unsigned_body = async {
        let mut wire = Wire::open(&service.base).await;
        let head = format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\n");
        wire.send(head + "{\"id\":").await;
        let reply = wire.answer().await;
        assert_eq!((reply.status, &*reply.code()), (400, "signature_missing"));
    };
    tokio::join!(slow_headers, says_nothing, slow_body, unsigned_body);
    assert_eq!(service.get("/healthz").send().await.unwrap().status(), 200);
}
