//! Logins by the dozen.

use serde_json::json;

use super::hands::{Attack, requests};

const LOGIN: &str = "/api/auth/login";
const APART: &str = "logins have connections and threads of their own";

pub const ATTACKS: &[Attack] = &[
    Attack::new("wrong passwords", APART, |world| {
        Box::pin(async move {
            requests(&world, 2 * world.sizes.connections, |world, _| {
                let body = json!({"email": "somebody@example.com", "password": "wrong one"});
                world.post(LOGIN).json(&body)
            })
            .await;
        })
    }),
    Attack::new("a new account each time", APART, |world| {
        Box::pin(async move {
            requests(&world, world.sizes.connections, |world, number| {
                let email = format!("nobody{number}@example.com");
                world
                    .post(LOGIN)
                    .json(&json!({"email": email, "password": "wrong one"}))
            })
            .await;
        })
    }),
    Attack::new("long passwords", APART, |world| {
        Box::pin(async move {
            let long = "é".repeat(400_000);
            requests(&world, world.sizes.connections / 2, move |world, number| {
                let (email, password) = if number % 2 == 0 {
                    ("a@example.com", &*long)
                } else {
                    (&*long, "wrong one")
                };
                world
                    .post(LOGIN)
                    .json(&json!({"email": email, "password": password}))
            })
            .await;
        })
    }),
    Attack::new(
        "nested bodies",
        "a body nests no deeper than it may",
        |world| {
            Box::pin(async move {
                let nested = "[".repeat(15_000);
                let members = format!("{{{}}}", vec![r#""a":{}"#; 2_000].join(","));
                requests(&world, world.sizes.connections, move |world, number| {
                    let body = if number % 2 == 0 { &nested } else { &members };
                    let request = world.post(LOGIN).header("content-type", "application/json");
                    request.body(body.clone())
                })
                .await;
            })
        },
    ),
];
