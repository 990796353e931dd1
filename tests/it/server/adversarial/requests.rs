//! Bodies and queries.

use super::{Case, case};

const SUBSCRIBE: &str = "POST /api/billing/subscription";

pub fn bodies() -> Vec<Case> {
    let refused = |what, body: &str, code| case(what, SUBSCRIBE, 400, code).body(body);
    vec![
        refused(
            "an unknown field",
            r#"{"planTier":"standard","admin":true}"#,
            "unknown_field",
        ),
        refused(
            "a role",
            r#"{"planTier":"standard","role":"operator"}"#,
            "unknown_field",
        ),
        refused(
            "negative trial days",
            r#"{"planTier":"standard","trialDays":-1}"#,
            "invalid_request",
        ),
        refused(
            "half a trial day",
            r#"{"planTier":"standard","trialDays":0.5}"#,
            "invalid_request",
        ),
        refused(
            "trial days in words",
            r#"{"planTier":"standard","trialDays":"30"}"#,
            "invalid_request",
        ),
        refused(
            "trial days beyond numbers",
            r#"{"planTier":"standard","trialDays":1e309}"#,
            "invalid_json",
        ),
        refused(
            "trial days that are none",
            r#"{"planTier":"standard","trialDays":NaN}"#,
            "invalid_json",
        ),
        refused(
            "a field twice",
            r#"{"planTier":"free","planTier":"standard"}"#,
            "invalid_request",
        ),
        refused("an array", r#"["standard"]"#, "invalid_request"),
        refused("null", "null", "invalid_request"),
        refused("nothing", "", "invalid_json"),
        refused(
            "two documents",
            r#"{"planTier":"x"}{"planTier":"x"}"#,
            "invalid_json",
        ),
        refused(
            "a lone surrogate",
            r#"{"planTier":"\ud800"}"#,
            "invalid_json",
        ),
        refused("100,000 levels", &"[".repeat(100_000), "invalid_request"),
        refused(
            "a byte order mark",
            "\u{feff}{\"planTier\":\"standard\"}",
            "invalid_json",
        ),
        case("invalid UTF-8", SUBSCRIBE, 400, "invalid_json").body(b"{\"planTier\":\"\xff\"}"),
        case("a plan that is SQL", SUBSCRIBE, 422, "unknown_plan")
            .body(r#"{"planTier":"'; DROP TABLE users; --"}"#),
        case("a plan of NUL", SUBSCRIBE, 422, "unknown_plan").body(r#"{"planTier":"\u0000"}"#),
        case("text", SUBSCRIBE, 415, "unsupported_media_type").and("content-type: text/plain"),
        case("a form", SUBSCRIBE, 415, "unsupported_media_type")
            .and("content-type: application/x-www-form-urlencoded"),
        case("more than a mebibyte", SUBSCRIBE, 413, "body_too_large").body(vec![b' '; 1_048_577]),
    ]
}

pub fn queries() -> Vec<Case> {
    let refused = |what, line, code| case(what, line, 400, code);
    vec![
        refused(
            "limit -1",
            "GET /api/billing/invoices?limit=-1",
            "invalid_query",
        ),
        refused(
            "limit 0",
            "GET /api/billing/invoices?limit=0",
            "invalid_query",
        ),
        refused(
            "limit 101",
            "GET /api/billing/invoices?limit=101",
            "invalid_query",
        ),
        refused(
            "limit beyond numbers",
            "GET /api/billing/invoices?limit=99999999999999999999",
            "invalid_query",
        ),
        refused(
            "limit in words",
            "GET /api/billing/invoices?limit=ten",
            "invalid_query",
        ),
        refused(
            "limit twice",
            "GET /api/billing/invoices?limit=1&limit=2",
            "invalid_query",
        ),
        refused(
            "a cursor made up",
            "GET /api/billing/invoices?cursor=AAAA",
            "invalid_cursor",
        ),
        refused(
            "a cursor that is SQL",
            "GET /api/billing/invoices?cursor='%20OR%201=1",
            "invalid_cursor",
        ),
        refused(
            "a time that is none",
            "GET /api/billing/audit-log?from=yesterday",
            "invalid_query",
        ),
        refused(
            "the year 10000",
            "GET /api/billing/audit-log?to=10000-01-01T00:00:00Z",
            "invalid_query",
        ),
        case(
            "the year 9999",
            "GET /api/billing/audit-log?to=9999-12-30T00:00:00Z",
            200,
            "",
        ),
        case(
            "before our era",
            "GET /api/billing/audit-log?from=-009999-01-03T00:00:00Z",
            400,
            "invalid_time",
        ),
        refused(
            "NUL in a filter",
            "GET /api/billing/audit-log?action=%00",
            "invalid_text",
        ),
        case(
            "SQL in a filter",
            "GET /api/billing/audit-log?action='%20OR%20'1'='1",
            200,
            "",
        ),
    ]
}
