//! Credentials that are none, and other organizations' ids.

use super::{Case, case};

const INVOICES: &str = "GET /api/billing/invoices";
const SUBSCRIBE: &str = "POST /api/billing/subscription";

pub fn credentials() -> Vec<Case> {
    let refused = |what, headers: &str| {
        case(what, INVOICES, 401, "unauthenticated").headers(headers.to_owned() + "\r\n")
    };
    // {"alg":"none"} and {}
    let none = "eyJhbGciOiJub25lIn0.e30.";
    vec![
        case("the token", INVOICES, 200, ""),
        case("nothing", INVOICES, 401, "unauthenticated").headers(""),
        refused(
            "a token that nobody signed",
            &format!("authorization: Bearer {none}"),
        ),
        refused("an expired token", "authorization: Bearer {expired}"),
        refused(
            "a token that was logged out",
            "authorization: Bearer {logged out}",
        ),
        refused("half a token", "authorization: Bearer {half}"),
        refused("a token and more", "authorization: Bearer {token}00"),
        refused(
            "two tokens in one",
            "authorization: Bearer {token}, Bearer {token}",
        ),
        refused("another scheme", "authorization: Basic {token}"),
        refused("a token in capitals", "authorization: Bearer {TOKEN}"),
        refused(
            "two headers, both good",
            "authorization: Bearer {token}\r\nauthorization: Bearer {token}",
        ),
        refused(
            "two headers, the first good",
            "authorization: Bearer {token}\r\nauthorization: Bearer x",
        ),
        refused("a token in a cookie", "cookie: token={token}"),
        refused("the proxy's word", "x-forwarded-user: owner@example.com"),
        case(
            "a token in the query",
            "GET /api/billing/invoices?token={token}",
            401,
            "unauthenticated",
        )
        .headers(""),
        case("not text", INVOICES, 401, "unauthenticated")
            .headers(b"authorization: Bearer \xff\xfe\r\n"),
        case("NUL", INVOICES, 401, "unauthenticated")
            .headers(b"authorization: Bearer {token}%00\r\n"),
    ]
}

pub fn others() -> Vec<Case> {
    vec![
        case(
            "their id in a header",
            "GET /api/billing/invoices/in_theirs",
            404,
            "not_found",
        )
        .and("x-organization-id: {theirs}"),
        case(
            "their id in the path",
            "GET /api/billing/invoices/{theirs}",
            404,
            "not_found",
        ),
        case(
            "their id in the query",
            "GET /api/billing/invoices?organizationId={theirs}",
            400,
            "unknown_field",
        ),
        case("their id in a body", SUBSCRIBE, 400, "unknown_field")
            .body(r#"{"planTier":"standard","organizationId":"{theirs}"}"#),
        case(
            "their invoice",
            "GET /api/billing/invoices/in_theirs",
            404,
            "not_found",
        ),
        case(
            "their invoice's PDF",
            "GET /api/billing/invoices/in_theirs/pdf",
            404,
            "not_found",
        ),
        case(
            "their cursor",
            "GET /api/billing/invoices?cursor={cursor}",
            400,
            "invalid_cursor",
        ),
        case(
            "an operator's route",
            "GET /api/operator/organizations",
            403,
            "forbidden",
        ),
        case(
            "another path, encoded",
            "GET /api/billing/invoices/..%2f..%2foperator%2forganizations",
            404,
            "not_found",
        ),
        case(
            "another path, with dots",
            "GET /api/billing/../operator/organizations",
            404,
            "not_found",
        ),
        case(
            "another path, doubled",
            "GET //api/operator/organizations",
            404,
            "not_found",
        ),
        case("another method, by header", INVOICES, 200, "").and("x-http-method-override: DELETE"),
        case("another path, by header", INVOICES, 200, "")
            .and("x-original-url: /api/operator/organizations"),
    ]
}
