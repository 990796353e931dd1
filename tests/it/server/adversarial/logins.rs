//! Addresses and passwords.

use serde_json::json;

use super::{Case, case};

const LOGIN: &str = "POST /api/auth/login";

pub fn all() -> Vec<Case> {
    let refused =
        |what, body: String, status, code| case(what, LOGIN, status, code).headers("").body(body);
    let wrong = |what, email: &str, password: &str| {
        let body = json!({"email": email, "password": password}).to_string();
        refused(what, body, 401, "invalid_credentials")
    };
    let right = |what, email: &str| {
        let body = json!({"email": email, "password": "test123"}).to_string();
        refused(what, body, 200, "")
    };
    let mebibyte = json!({"email": "a@example.com", "password": "x".repeat(1_048_576)});
    vec![
        right("the address", "owner@example.com"),
        right("the address in capitals", "OWNER@Example.COM"),
        right("the address with space around", " owner@example.com\t"),
        wrong(
            "a letter that looks the same",
            "\u{43e}wner@example.com",
            "test123",
        ),
        wrong("full-width letters", "\u{ff4f}wner@example.com", "test123"),
        wrong("a dotless i", "owner@example.com\u{131}", "test123"),
        wrong("an invisible space", "owner\u{200b}@example.com", "test123"),
        wrong(
            "a password of 1,025 bytes",
            "owner@example.com",
            &"x".repeat(1_025),
        ),
        wrong("NUL in the password", "owner@example.com", "test123\0"),
        wrong("NUL in the address", "owner@example.com\0", "test123"),
        wrong("an address of SQL", "' OR 1=1 --", "test123"),
        refused(
            "a password of a mebibyte",
            mebibyte.to_string(),
            413,
            "body_too_large",
        ),
        refused(
            "no password",
            r#"{"email":"owner@example.com"}"#.to_owned(),
            400,
            "invalid_request",
        ),
        refused(
            "a role besides",
            r#"{"email":"owner@example.com","password":"test123","role":"operator"}"#.to_owned(),
            400,
            "unknown_field",
        ),
        refused(
            "an object for a password",
            r#"{"email":"owner@example.com","password":{"$ne":""}}"#.to_owned(),
            400,
            "invalid_request",
        ),
    ]
}
