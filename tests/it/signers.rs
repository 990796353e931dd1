//! Stripe's own libraries sign what we verify, and verify what we sign.

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::stripe::signature::{self, SigningSecret};

use crate::support::TestService;
use crate::support::events::{SECRET, event};
use crate::support::libraries::{LANGUAGES, ask};

const SCRIPT: &str = "sign";

/// Bodies that a library might read otherwise than we do.
fn bodies() -> Vec<String> {
    let object = json!({"id": "in_1", "description": "naïve café 😀 \u{2028} \u{7f}", "amount": 0});
    let event = event("evt_1", "invoice.created", 1, object);
    vec![
        event.to_string(),
        serde_json::to_string_pretty(&event)
            .unwrap()
            .replace('\n', "\r\n"),
    ]
}

#[tokio::test]
async fn what_stripes_libraries_sign_is_accepted() {
    for library in LANGUAGES {
        let service = TestService::intake_only().await;
        for (body, duplicate) in bodies().into_iter().zip([false, true]) {
            let request = json!({"action": "sign", "secret": SECRET, "body": body});
            let header = ask(library, SCRIPT, &request).expect("it signs");
            let response = service.deliver_raw(body, &header).await;
            assert_eq!(response.status(), 200, "{library}: {header}");
            let answer: Value = response.json().await.unwrap();
            assert_eq!(answer["duplicate"], duplicate, "{library}");
        }
    }
}

#[test]
fn what_we_sign_stripes_libraries_accept() {
    for library in LANGUAGES {
        for body in bodies() {
            let secret = SigningSecret::new(SECRET);
            let header = signature::sign(&secret, body.as_bytes(), Timestamp::now().as_second());
            let mut request =
                json!({"action": "verify", "secret": SECRET, "body": body, "header": header});
            assert_eq!(
                ask(library, SCRIPT, &request).as_deref(),
                Ok("evt_1"),
                "{library}"
            );
            request["secret"] = json!("whsec_another");
            assert!(
                ask(library, SCRIPT, &request).is_err(),
                "{library} checks what it is given"
            );
        }
    }
}

#[test]
fn all_agree_on_the_known_vector() {
    let body = r#"{"id":"evt_1","object":"event","type":"invoice.paid","data":{"object":{}}}"#;
    let header = "t=1700000000,v1=f5cea1cf83fdb88f207396bf70178f94f66c7b7c8b15f68a223eede5a7b27faf";
    let request = json!({
        "action": "sign", "secret": "whsec_test_secret", "body": body, "timestamp": 1_700_000_000,
    });
    for library in LANGUAGES {
        assert_eq!(
            ask(library, SCRIPT, &request).as_deref(),
            Ok(header),
            "{library}"
        );
    }
    let secret = SigningSecret::new("whsec_test_secret");
    assert_eq!(
        signature::sign(&secret, body.as_bytes(), 1_700_000_000),
        header
    );
}
