use super::*;

fn read(format: EventFormat, json: &str) -> Result<NewEvent, &'static str> {
    let catalogue = Catalogue::load(None).unwrap();
    let parsed = format.parse(json, &catalogue, Naming::Credential);
    parsed
        .map(|parsed| parsed.event)
        .map_err(|(_, fault)| fault.code)
}

fn own(fields: &str) -> Result<NewEvent, &'static str> {
    read(
        EventFormat::Native,
        &format!(r#"{{"id":"a","metric":"api_calls",{fields}}}"#),
    )
}

#[test]
fn a_quantity_keeps_its_digits_as_a_number_and_as_a_string() {
    for text in ["1234567890123456.7891", "\"1234567890123456.7891\""] {
        let event = own(&format!("\"quantity\":{text}")).unwrap();
        assert_eq!(event.quantity.to_string(), "1234567890123456.7891");
    }
}

#[test]
fn each_fault_has_its_code() {
    for (fields, code) in [
        ("\"quantity\":-1", "invalid_quantity"),
        ("\"quantity\":1e309", "invalid_quantity"),
        ("\"quantity\":\"NaN\"", "invalid_quantity"),
        ("\"quantity\":\"ten\"", "invalid_quantity"),
        ("\"quantity\":1234567890123456789012345", "invalid_quantity"),
        ("\"quantity\":1.00001", "invalid_quantity"),
        ("\"quantity\":true", "invalid_quantity"),
        ("\"quantity\":null", "invalid_quantity"),
        ("\"quantity\":NaN", "invalid_event"),
        ("\"metadata\":{}", "invalid_event"),
        ("\"quantity\":1,\"organizationId\":\"x\"", "unknown_field"),
        (
            "\"quantity\":1,\"occurredAt\":\"2026-11-23\"",
            "invalid_time",
        ),
        (
            "\"quantity\":1,\"occurredAt\":\"2026-11-23T12:00:00\"",
            "invalid_time",
        ),
        (
            "\"quantity\":1,\"occurredAt\":\"-009999-01-03T00:00:00Z\"",
            "invalid_time",
        ),
        (
            "\"quantity\":1,\"occurredAt\":\"0000-12-31T23:59:59Z\"",
            "invalid_time",
        ),
        (
            "\"quantity\":1,\"occurredAt\":\"9999-12-31T23:59:59Z\"",
            "invalid_time",
        ),
        (
            "\"quantity\":1,\"metadata\":{\"a\":1e-20000}",
            "invalid_metadata",
        ),
        ("\"quantity\":1,\"metadata\":[1]", "invalid_metadata"),
        (
            "\"quantity\":1,\"metadata\":{\"a\":\"\\u0000\"}",
            "invalid_metadata",
        ),
        (
            "\"quantity\":1,\"metadata\":{\"a\":\"\\ud800\"}",
            "invalid_metadata",
        ),
    ] {
        assert_eq!(own(fields), Err(code), "{fields}");
    }
}

#[test]
fn a_cloud_event_names_its_metric_in_its_data_or_by_its_type() {
    let event = |attributes: &str, data: &str| {
        let json = format!(
            r#"{{"specversion":"1.0","id":"a","source":"/app",{attributes},"data":{data}}}"#
        );
        read(EventFormat::CloudEvents, &json)
    };
    let read = event(
        r#""type":"com.example.used","time":"2026-11-23T12:00:00Z","traceparent":"00-1""#,
        r#"{"metric":"llm_tokens","quantity":"3"}"#,
    )
    .unwrap();
    assert_eq!(
        (read.metric.as_str(), read.quantity),
        ("llm_tokens", 3.into())
    );
    assert!(read.occurred_at.is_some());
    assert_eq!(
        event(r#""type":"api_calls""#, r#"{"quantity":1}"#)
            .unwrap()
            .metric,
        "api_calls"
    );
    assert_eq!(
        event(r#""type":"other""#, r#"{"quantity":1}"#),
        Err("unknown_metric")
    );
}

fn cloud(source: &str, rest: &str) -> Result<NewEvent, &'static str> {
    let json = format!(
        r#"{{"specversion":"1.0","id":"a","type":"api_calls","source":"{source}",{rest}}}"#
    );
    read(EventFormat::CloudEvents, &json)
}

#[test]
fn a_cloud_event_is_known_by_its_source_and_id() {
    let id = |source: &str| cloud(source, r#""data":{"quantity":1}"#).unwrap().id;
    let sources = ["/s", "/other", "/s/a", &"s".repeat(300), &"s".repeat(301)];
    let mut ids: Vec<String> = sources.iter().map(|source| id(source)).collect();
    assert!(
        ids.iter()
            .all(|id| id.len() <= MAX_ID_BYTES && check_id(id).is_err())
    );
    ids.dedup();
    assert_eq!(ids.len(), sources.len());
    assert_eq!(
        cloud("a\\u001fb", r#""data":{"quantity":1}"#),
        Err("invalid_cloud_event")
    );
}

#[test]
fn data_is_json_whatever_its_type_is_called_and_however_it_is_packed() {
    for kind in [
        "text/json",
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.usage+json",
        "Image/X+JSON",
    ] {
        let rest = format!(r#""datacontenttype":"{kind}","data":{{"quantity":2}}"#);
        assert_eq!(cloud("/s", &rest).unwrap().quantity, 2.into(), "{kind}");
    }
    // {"quantity":1}
    let packed = r#""data_base64":"eyJxdWFudGl0eSI6MX0=""#;
    assert_eq!(cloud("/s", packed).unwrap().quantity, 1.into());
    for (rest, code) in [
        (
            r#""datacontenttype":"text/plain","data":{"quantity":1}"#,
            "invalid_cloud_event",
        ),
        (
            r#""datacontenttype":"json","data":{"quantity":1}"#,
            "invalid_cloud_event",
        ),
        (r#""data_base64":"%""#, "invalid_cloud_event"),
        (r#""data_base64":"eyJ4IjoxfQ==""#, "unknown_field"),
        (
            r#""data_base64":"eyJ4IjoxfQ==","data":{"quantity":1}"#,
            "invalid_cloud_event",
        ),
        (r#""time":null"#, "invalid_event"),
    ] {
        assert_eq!(cloud("/s", rest), Err(code), "{rest}");
    }
}
