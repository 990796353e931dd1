//! `POST /api/billing/webhooks/stripe`: what it takes, and what it refuses.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::Sha256;
use valuecanvas_billing::stripe::signature::{self, SigningSecret};

use crate::support::TestService;
use crate::support::events::{SECRET, event, invoice, sign};
use crate::support::service::{Options, WEBHOOKS};
use crate::support::wire::{Reply, Wire};

const MIB: usize = 1024 * 1024;

/// A delivery, and the status and code that answer it; 200: it is stored.
struct Case {
    what: &'static str,
    headers: Vec<Vec<u8>>,
    body: Vec<u8>,
    expect: (u16, &'static str),
}

const STORED: (u16, &str) = (200, "");
const MISSING: (u16, &str) = (400, "signature_missing");
const INVALID: (u16, &str) = (400, "signature_invalid");
const OUT_OF_TOLERANCE: (u16, &str) = (400, "timestamp_out_of_tolerance");
const NO_EVENT: (u16, &str) = (400, "payload_invalid");
const TOO_LARGE: (u16, &str) = (413, "payload_too_large");

/// Delivers each case and checks its answer, and that the event log has grown by
/// exactly what was accepted, byte for byte.
async fn check(service: &TestService, cases: Vec<Case>) {
    for case in cases {
        let before = service.db.count("webhook_events").await;
        let reply = deliver(service, &case.headers, &case.body).await;
        let grown = service.db.count("webhook_events").await - before;
        let what = case.what;
        assert_eq!(
            (reply.status, &*reply.code()),
            case.expect,
            "{what}: {reply:?}"
        );
        if case.expect == STORED {
            assert_eq!(grown, 1, "{what}");
            let id = reply.json()["eventId"].as_str().unwrap().to_owned();
            let kept = payload_of(service, &id).await;
            assert!(
                kept.as_bytes() == case.body,
                "{what}: the payload was changed"
            );
        } else {
            assert_eq!(grown, 0, "{what}");
            let problem = reply.json();
            assert_eq!(problem["status"], case.expect.0, "{what}");
            assert!(
                problem["detail"].is_string() && problem["title"].is_string(),
                "{what}"
            );
        }
    }
    assert_eq!(service.get("/healthz").send().await.unwrap().status(), 200);
}

/// Sends header lines and a body as they are.
async fn deliver(service: &TestService, headers: &[Vec<u8>], body: &[u8]) -> Reply {
    let mut wire = Wire::open(&service.base).await;
    let mut request = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n",
        body.len()
    )
    .into_bytes();
    for header in headers {
        request.extend([header, &b"\r\n"[..]].concat());
    }
    request.extend(b"\r\n");
    request.extend(body);
    // A body that is too large need not be read to its end.
    let _ = wire.try_send(request).await;
    wire.answer().await
}

async fn payload_of(service: &TestService, id: &str) -> String {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT payload::text FROM webhook_events WHERE stripe_event_id = $1
         UNION ALL
         SELECT payload::text FROM webhook_dead_letter_queue WHERE stripe_event_id = $1",
    )
    .bind(id)
    .fetch_all(&service.db.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), 1, "{id}");
    rows.into_iter().next().unwrap()
}

fn header(signature: impl AsRef<[u8]>) -> Vec<u8> {
    [b"stripe-signature: ", signature.as_ref()].concat()
}

/// An event that nothing is wrong with.
fn good(id: &str) -> Vec<u8> {
    event(id, "plan.created", 1, json!({"id": "plan_1"}))
        .to_string()
        .into_bytes()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// `(t, hex)` of a valid signature as of `at`.
fn parts(body: &[u8], at: i64) -> (String, String) {
    let signed = signature::sign(&SigningSecret::new(SECRET), body, at);
    let (t, v1) = signed.split_once(",v1=").unwrap();
    (t.trim_start_matches("t=").to_owned(), v1.to_owned())
}

/// The headers of a body, from its time and its valid signature.
type MakeHeaders<'a> = dyn Fn(&[u8], &str, &str) -> Vec<Vec<u8>> + 'a;

#[tokio::test]
async fn signatures_are_checked_before_anything_is_stored() {
    let service = TestService::intake_only().await;
    let mut serial = 0;
    let mut case = |what, expect, signature: &MakeHeaders<'_>| {
        serial += 1;
        let body = good(&format!("evt_s{serial}"));
        let (t, v1) = parts(&body, now());
        Case {
            what,
            headers: signature(&body, &t, &v1),
            body,
            expect,
        }
    };
    let one = |text: String| vec![header(text)];
    let at = |body: &[u8], offset: i64| {
        let (t, v1) = parts(body, now() + offset);
        vec![header(format!("t={t},v1={v1}"))]
    };
    // Truly signed, whatever stands for the time.
    let with_t = |body: &[u8], t: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&[t.as_bytes(), b".", body].concat());
        let v1 = hex::encode(mac.finalize().into_bytes());
        vec![header(format!("t={t},v1={v1}"))]
    };
    let zeros = "0".repeat(64);
    let many = format!(",v1={zeros}").repeat(10_000);
    let wrong = SigningSecret::new("whsec_another");
    let cases = vec![
        case("no header", MISSING, &|_, _, _| vec![]),
        case("empty", INVALID, &|_, _, _| one(String::new())),
        case("malformed", INVALID, &|_, _, _| one("what is this".into())),
        case("only commas and signs", INVALID, &|_, _, _| {
            one(",=,==,t,v1".into())
        }),
        case("no t", INVALID, &|_, _, v1| one(format!("v1={v1}"))),
        case("no v1", INVALID, &|_, t, _| one(format!("t={t}"))),
        case("only v0", INVALID, &|_, t, v1| {
            one(format!("t={t},v0={v1}"))
        }),
        case("two headers", INVALID, &|_, t, v1| {
            let valid = header(format!("t={t},v1={v1}"));
            vec![valid.clone(), valid]
        }),
        case("two t", INVALID, &|_, t, v1| {
            one(format!("t={t},t={t},v1={v1}"))
        }),
        case("two v1, one valid", STORED, &|_, t, v1| {
            one(format!("t={t},v1={zeros},v1={v1}"))
        }),
        case("v0 beside v1", STORED, &|_, t, v1| {
            one(format!("t={t},v1={v1},v0={zeros}"))
        }),
        case("an odd number of digits", INVALID, &|_, t, v1| {
            one(format!("t={t},v1={}", &v1[1..]))
        }),
        case("upper case", INVALID, &|_, t, v1| {
            one(format!("t={t},v1={}", v1.to_uppercase()))
        }),
        case("a space after the comma", INVALID, &|_, t, v1| {
            one(format!("t={t}, v1={v1}"))
        }),
        case("not ASCII", INVALID, &|_, t, v1| {
            one(format!("t={t},v1={v1},é=1"))
        }),
        case("not UTF-8", INVALID, &|_, t, _| {
            vec![header(
                [format!("t={t},v1=").as_bytes(), b"\xff\xfe"].concat(),
            )]
        }),
        case("ten thousand v1, the last valid", STORED, &|_, t, v1| {
            one(format!("t={t}{many},v1={v1}"))
        }),
        case("ten thousand v1, none valid", INVALID, &|_, t, _| {
            one(format!("t={t}{many}"))
        }),
        case("another secret", INVALID, &|body, _, _| {
            one(signature::sign(&wrong, body, now()))
        }),
        case("another body's", INVALID, &|_, _, _| one(sign(b"{}"))),
        case("301 s old", OUT_OF_TOLERANCE, &|body, _, _| at(body, -301)),
        case("too far in the future", OUT_OF_TOLERANCE, &|body, _, _| {
            at(body, 310)
        }),
        case("nearly too old", STORED, &|body, _, _| at(body, -290)),
        case("299 s in the future", STORED, &|body, _, _| at(body, 299)),
        case("t negative", INVALID, &|body, _, _| at(body, -2 * now())),
        case("t beyond 64 bits", INVALID, &|body, _, _| {
            with_t(body, "99999999999999999999")
        }),
        case("t a float", INVALID, &|body, t, _| {
            with_t(body, &format!("{t}.0"))
        }),
        case("t not a number", INVALID, &|body, _, _| with_t(body, "NaN")),
    ];
    check(&service, cases).await;

    let body = good("evt_reserialized");
    let reserialized =
        serde_json::to_string_pretty(&serde_json::from_slice::<Value>(&body).unwrap());
    let headers = vec![header(sign(&body))];
    let reply = deliver(&service, &headers, reserialized.unwrap().as_bytes()).await;
    assert_eq!((reply.status, &*reply.code()), INVALID);
}

#[tokio::test]
async fn bodies_are_stored_as_they_are_or_refused() {
    let service = TestService::intake_only().await;
    let signed = |what, body: Vec<u8>, expect| Case {
        what,
        headers: vec![header(sign(&body))],
        body,
        expect,
    };
    let refused = |what, body: &[u8]| signed(what, body.to_vec(), NO_EVENT);
    let stored = |what, body: &str| signed(what, body.as_bytes().to_vec(), STORED);
    let padded = |id: &str, size: usize| {
        let mut body = good(id);
        body.resize(size, b' ');
        body
    };
    let deep = format!(
        r#"{{"id":"evt_deep","type":"a.b","data":{{"object":{{"x":{}{}}}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    let long_id = format!(
        r#"{{"id":"evt_{}","type":"a.b","created":1,"data":{{"object":{{}}}}}}"#,
        "x".repeat(1_000_000)
    );
    let mut cases = vec![
        refused("empty", b""),
        refused("white space", b" \n"),
        refused("a byte order mark", &[b"\xef\xbb\xbf", &good("evt_bom")[..]].concat()),
        refused("not JSON", b"id=evt_1&type=a.b"),
        refused("cut off", &good("evt_cut")[..40]),
        refused("something after it", &[&good("evt_more")[..], b"{}"].concat()),
        refused("invalid UTF-8", b"{\"id\":\"evt_\xff\",\"type\":\"a.b\",\"data\":{\"object\":{}}}"),
        refused("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00"),
        refused("an array", b"[]"),
        refused("null", b"null"),
        refused("a number", b"1"),
        refused("not an event", br#"{"test": true}"#),
        refused("100,000 levels", deep.as_bytes()),
        refused("two ids", br#"{"id":"a","id":"b","type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("two types", br#"{"id":"a","type":"a.b","type":"c.d","created":1,"data":{"object":{}}}"#),
        refused("no id", br#"{"type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("no type", br#"{"id":"a","created":1,"data":{"object":{}}}"#),
        refused("no data", br#"{"id":"a","type":"a.b","created":1}"#),
        refused("no object", br#"{"id":"a","type":"a.b","created":1,"data":{}}"#),
        refused("a null object", br#"{"id":"a","type":"a.b","created":1,"data":{"object":null}}"#),
        refused("an array as object", br#"{"id":"a","type":"a.b","created":1,"data":{"object":[]}}"#),
        refused("an empty id", br#"{"id":"","type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("a number as id", br#"{"id":1,"type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("NUL in the id", br#"{"id":"a\u0000","type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("half a surrogate in the id", br#"{"id":"a\ud800","type":"a.b","created":1,"data":{"object":{}}}"#),
        refused("an id of 1 MB", long_id.as_bytes()),
        refused("made before 1970", br#"{"id":"a","type":"a.b","created":-1,"data":{"object":{}}}"#),
        refused("made at 1e400", br#"{"id":"a","type":"a.b","created":1e400,"data":{"object":{}}}"#),
        signed("1 MiB", padded("evt_mib", MIB), STORED),
        signed("1 MiB and 1", padded("evt_mib1", MIB + 1), TOO_LARGE),
        signed("50 MB", padded("evt_50mb", 50_000_000), TOO_LARGE),
        stored("a thin event", r#"{"id":"evt_thin","object":"v2.core.event","type":"v1.billing.meter.no_meter_found","created":"2026-01-01T00:00:00Z"}"#),
        stored("an unknown type", r#"{"id":"evt_type","type":"made.up","created":1,"data":{"object":{}}}"#),
        stored("an unknown version", r#"{"id":"evt_version","type":"a.b","api_version":"2099-01-01.fern","created":1,"data":{"object":{}}}"#),
        stored("no version", r#"{"id":"evt_nover","type":"a.b","api_version":null,"created":1,"data":{"object":{}}}"#),
        stored("SQL in the id", r#"{"id":"'; DROP TABLE webhook_events; --","type":"a.b","created":1,"data":{"object":{}}}"#),
        stored("odd white space", "\n{\t\"id\" :\r\n\"evt_space\",\"type\":\"a.b\",  \"created\":1,\"data\":{\"object\":{ }}}\n\n"),
        stored("two keys in the object", r#"{"id":"evt_dup","type":"a.b","created":1,"data":{"object":{"a":1,"a":2}}}"#),
        stored("numbers beyond reason", r#"{"id":"evt_num","type":"a.b","created":1,"data":{"object":{"a":1e400,"b":9223372036854775808,"c":0.50,"d":-0}}}"#),
        stored("NUL and half surrogates", r#"{"id":"evt_nul","type":"a.b","created":1,"data":{"object":{"a":"\u0000","b":"\ud800","c":"\udc00\ud800"}}}"#),
    ];
    for (what, line) in [
        ("text/plain", "content-type: text/plain"),
        ("said to be gzip", "content-encoding: gzip"),
        ("said to be nothing known", "content-type: \u{1F4A9}"),
    ] {
        let body = good(&format!("evt_{}", what.replace([' ', '/'], "_")));
        cases.push(Case {
            what,
            headers: vec![header(sign(&body)), line.into()],
            body,
            expect: STORED,
        });
    }
    check(&service, cases).await;
}

/// Sent without a length, a body is read until it is too large, and no further.
#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let service = TestService::intake_only().await;
    let mut wire = Wire::open(&service.base).await;
    let head = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\nstripe-signature: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        sign(b"another body")
    );
    wire.send(head).await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x1_0000));
    let mut chunks = 0;
    while !wire.has_answer().await && wire.try_send(&chunk).await.is_ok() {
        chunks += 1;
        assert!(chunks < 1_600, "100 MB were read");
    }
    let reply = wire.answer().await;
    assert_eq!((reply.status, &*reply.code()), TOO_LARGE);

    let body = good("evt_chunked");
    let mut wire = Wire::open(&service.base).await;
    let (start, end) = body.split_at(20);
    let head = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\nstripe-signature: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        sign(&body)
    );
    wire.send(head).await;
    for part in [start, end, b""] {
        wire.send(format!(
            "{:x}\r\n{}\r\n",
            part.len(),
            String::from_utf8_lossy(part)
        ))
        .await;
    }
    assert_eq!(
        wire.answer().await.status,
        200,
        "chunks are fine in themselves"
    );
}

#[tokio::test]
async fn what_columns_cannot_hold_is_stored_as_sent_and_processed() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let mut object = invoice("in_1", "cus_1", "sub_1", "open");
    object["description"] = json!("NUL AND HALF");
    object["metadata"] = json!({"organization_id": "no uuid'; --"});
    let body = event("evt_1", "invoice.finalized", 100, object)
        .to_string()
        .replace("NUL AND HALF", r"a\u0000b\ud800");
    let reply = deliver(&service, &[header(sign(body.as_bytes()))], body.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    service.settle().await;
    let outcome = service.db.value("SELECT outcome FROM webhook_events").await;
    assert_eq!(outcome, "applied");
    assert_eq!(payload_of(&service, "evt_1").await, body);
}

#[tokio::test]
async fn amounts_beyond_us_are_dead_lettered_at_once_by_their_field() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    for (amount, outcome) in [
        ("9223372036854775807", "applied"),
        ("-1", "applied"),
        ("9223372036854775808", "data.object.amount_due"),
        ("-9223372036854775809", "data.object.amount_due"),
        ("1e400", "data.object.amount_due"),
        ("0.5", "data.object.amount_due"),
        ("\"9900\"", "data.object.amount_due"),
        ("true", "data.object.amount_due"),
        ("{}", "data.object.amount_due"),
    ] {
        service
            .db
            .execute("TRUNCATE webhook_events, webhook_dead_letter_queue")
            .await;
        let object = invoice("in_1", "cus_1", "sub_1", "open");
        let body = event("evt_1", "invoice.finalized", 100, object)
            .to_string()
            .replace(r#""amount_due":9900"#, &format!(r#""amount_due":{amount}"#));
        let reply = deliver(&service, &[header(sign(body.as_bytes()))], body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{amount}: {reply:?}");
        service.settle().await;
        let found = service
            .db
            .value(
                "SELECT string_agg(concat(outcome, error_message), '') FROM (
                   SELECT outcome, NULL AS error_message FROM webhook_events
                   UNION ALL
                   SELECT NULL, error_message FROM webhook_dead_letter_queue WHERE retry_count = 0) x",
            )
            .await;
        assert!(found.contains(outcome), "{amount}: {found}");
    }
}

/// Both modes and connected accounts may post here; only what is ours counts.
#[tokio::test]
async fn the_other_mode_and_other_accounts_are_stored_and_not_applied() {
    let service = TestService::with(Options {
        key_is_live: Some(true),
        ..Options::default()
    })
    .await;
    service.db.organization("cus_1").await;
    let test_mode = event(
        "evt_1",
        "invoice.finalized",
        1,
        invoice("in_1", "cus_1", "sub_1", "open"),
    );
    let mut connected = test_mode.clone();
    connected["id"] = json!("evt_2");
    connected["livemode"] = json!(true);
    connected["account"] = json!("acct_another");
    service.deliver(&test_mode).await;
    service.deliver(&connected).await;
    service.settle().await;
    let outcomes = "SELECT string_agg(outcome, ' ' ORDER BY stripe_event_id) FROM webhook_events";
    assert_eq!(
        service.db.value(outcomes).await,
        "livemode_mismatch foreign_account"
    );
    assert_eq!(service.db.count("billing_invoices").await, 0);
    for outcome in ["livemode_mismatch", "foreign_account"] {
        let series = format!("stripe_webhook_outcomes_total{{outcome=\"{outcome}\"}}");
        assert_eq!(service.metric(&series).await, Some(1));
    }
}

/// The guide's "Webhook Verification".
#[tokio::test]
async fn the_guides_curl_is_answered_400() {
    let service = TestService::intake_only().await;
    let output = tokio::process::Command::new("curl")
        .args([
            "-sS",
            "-o",
            "-",
            "-w",
            "\n%{http_code} %{content_type}",
            "-X",
            "POST",
        ])
        .arg(format!("{}{WEBHOOKS}", service.base))
        .args([
            "-H",
            "Content-Type: application/json",
            "-d",
            r#"{"test": true}"#,
        ])
        .output()
        .await
        .expect("curl is installed");
    let said = String::from_utf8(output.stdout).unwrap();
    let (problem, status) = said.rsplit_once('\n').unwrap();
    assert_eq!(status, "400 application/problem+json");
    let problem: Value = serde_json::from_str(problem).unwrap();
    assert_eq!(problem["code"], "signature_missing");
}
