//! Envelopes and payloads as Stripe and others send them.

use super::*;

fn read(body: &str) -> Result<Envelope, PayloadError> {
    Envelope::read(body.as_bytes(), 7)
}

#[test]
fn an_event_is_filed_by_its_envelope() {
    let envelope = read(
        r#"{"id":"evt_1","object":"event","api_version":"2020-03-02","created":5,
            "type":"invoice.paid","livemode":true,"data":{"object":{"id":"in_1"}}}"#,
    )
    .unwrap();
    assert_eq!(envelope.id, "evt_1");
    assert_eq!(envelope.event_type, "invoice.paid");
    assert_eq!(envelope.api_version.as_deref(), Some("2020-03-02"));
    assert!(envelope.livemode);
    assert_eq!(envelope.created, 5);
}

#[test]
fn a_thin_event_needs_no_object() {
    let thin = read(
        r#"{"id":"evt_2","object":"v2.core.event","type":"v1.billing.meter.no_meter_found",
            "created":"2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    assert_eq!(thin.created, 7);
    assert!(thin.thin);
}

#[test]
fn what_is_no_event_is_refused() {
    let long_id = format!(
        r#"{{"id":"{}","type":"a","data":{{"object":{{}}}}}}"#,
        "x".repeat(256)
    );
    let deep = format!(
        r#"{{"id":"a","type":"b","data":{{"object":{{"x":{}{}}}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for body in [
        "",
        "null",
        "[]",
        "\u{feff}{}",
        "{\"test\": true}",
        r#"{"id":"a","data":{"object":{}}}"#,
        r#"{"type":"a","data":{"object":{}}}"#,
        r#"{"id":"a","type":"b"}"#,
        r#"{"id":"a","type":"b","data":{}}"#,
        r#"{"id":"a","type":"b","data":{"object":[]}}"#,
        r#"{"id":"a","type":"b","data":{"object":null}}"#,
        r#"{"id":"a","id":"b","type":"b","data":{"object":{}}}"#,
        r#"{"id":"a","type":"b","type":"c","data":{"object":{}}}"#,
        r#"{"id":"","type":"b","data":{"object":{}}}"#,
        r#"{"id":"a\u0000","type":"b","data":{"object":{}}}"#,
        r#"{"id":"\ud800","type":"b","data":{"object":{}}}"#,
        r#"{"id":1,"type":"b","data":{"object":{}}}"#,
        r#"{"id":"a","type":"b","created":-1,"data":{"object":{}}}"#,
        // In the year 9999, beyond the range of timestamps.
        r#"{"id":"a","type":"b","created":253402300799,"data":{"object":{}}}"#,
        r#"{"id":"a","type":"b","created":1e400,"data":{"object":{}}}"#,
        &long_id,
        &deep,
    ] {
        assert!(read(body).is_err(), "{}", &body[..body.len().min(80)]);
    }
    assert_eq!(
        Envelope::read(b"\xff", 0).unwrap_err(),
        PayloadError::NotUtf8
    );
}

#[test]
fn the_organization_is_the_one_that_the_metadata_names() {
    let id = "6f1c1d52-7c3f-4c39-9f52-0d3f0f6f2b11";
    let named = |metadata: &str| {
        let object = format!(r#"{{"id":"sub_1","metadata":{metadata},"items":[]}}"#);
        let event = format!(r#"{{"id":"a","type":"b","created":1,"data":{{"object":{object}}}}}"#);
        read(&event).unwrap().organization_id
    };
    let some = id.parse().ok();
    assert_eq!(named(&format!(r#"{{"organization_id":"{id}"}}"#)), some);
    assert_eq!(named(&format!(r#"{{"tenant_id":"{id}"}}"#)), some);
    assert_eq!(named(r#"{"organization_id":"acme"}"#), None);
    assert_eq!(named(r#"{"organization_id":7}"#), None);
    let first = format!(r#"{{"organization_id":"acme","tenant_id":"{id}"}}"#);
    assert_eq!(named(&first), some);
    for none in ["null", "[]", "7", "1e400", "\"organization_id\"", "{}"] {
        assert_eq!(named(none), None, "{none}");
    }
    assert_eq!(named(r#"{"organization_id":1e400}"#), None);
}

#[test]
fn an_account_is_named_by_either_field_and_never_overlooked() {
    let named = |fields: &str| {
        let event =
            format!(r#"{{"id":"a","type":"b","created":1,{fields}"data":{{"object":{{}}}}}}"#);
        read(&event).unwrap().account
    };
    assert_eq!(named(""), None);
    assert_eq!(named(r#""account":null,"context":null,"#), None);
    for (fields, account) in [
        (r#""account":"acct_1","#, "acct_1"),
        (r#""context":"acct_1","#, "acct_1"),
        (r#""context":"org_1/acct_1","#, "org_1/acct_1"),
        (r#""account":"acct_1","context":"org_1/acct_1","#, "acct_1"),
        (r#""account":"acct_1","context":"acct_2","#, "acct_1 acct_2"),
        (r#""account":7,"#, UNREADABLE),
        (r#""account":"","#, UNREADABLE),
        (r#""context":{"id":"acct_1"},"#, UNREADABLE),
    ] {
        assert_eq!(named(fields).as_deref(), Some(account), "{fields}");
    }
    let long = format!(r#""account":"{}","#, "x".repeat(256));
    assert_eq!(named(&long).as_deref(), Some(UNREADABLE));
}

#[test]
fn depth_is_counted_by_levels_not_by_brackets() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let in_text = format!(r#"{{"a":"\\\"{}","b":{}}}"#, "[".repeat(200), nested(9));
    for (json, deeper) in [
        (nested(10), false),
        (nested(11), true),
        ("[{}]".repeat(50), false),
        (in_text, false),
        (format!(r#"["\\",{}]"#, nested(10)), true),
    ] {
        assert_eq!(depth_exceeds(json.as_bytes(), 10), deeper, "{json}");
    }
}

#[test]
fn a_payload_that_cannot_be_read_is_refused_by_its_field() {
    let payload = r#"{"data":{"object":{"lines":[{"amount":1e400}]}}}"#;
    let error = EventData::read(payload).unwrap_err().to_string();
    assert!(
        error.starts_with("data.object.lines[0].amount: number out of range"),
        "{error}"
    );
}

#[test]
fn text_that_columns_cannot_hold_is_replaced_when_read() {
    let payload = r#"{"data":{"object":{"a":"x\u0000y","b":"\ud800!","c":"\ud83d\ude00","d":"\\u0000","e":"\udc00"}}}"#;
    let object = EventData::read(payload).unwrap().object;
    assert_eq!(object["a"], "x\u{fffd}y");
    assert_eq!(object["b"], "\u{fffd}!");
    assert_eq!(object["c"], "😀");
    assert_eq!(object["d"], "\\u0000");
    assert_eq!(object["e"], "\u{fffd}");
}
