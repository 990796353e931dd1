//! The console in a real browser: with scripts off, on a narrow screen, in the dark; axe finds
//! nothing on any page.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use valuecanvas_billing::reporting::journal;

use super::{Desk, OPERATOR, PASSWORD};
use crate::support::libraries;

#[tokio::test]
async fn an_operator_finds_a_dead_letter_replays_it_and_opens_an_organization() {
    let desk = Desk::open().await;
    desk.deliver("cus_1", &["evt_1", "evt_2"]).await;
    let passes = ["plain", "without scripts", "narrow and dark"];
    let events = ["evt_plain", "evt_still", "evt_dark"];
    desk.deliver("cus_2", &events).await;
    desk.service.db.organization("cus_2").await;
    desk.service
        .db
        .execute(&format!(
            "UPDATE organizations SET name = 'Acme Tools', external_id = 'acme-1',
                    email = 'billing@acme.example' WHERE id = '{}'",
            desk.organization
        ))
        .await;
    book(&desk).await;
    let events: Vec<(&str, &str)> = passes.into_iter().zip(events).collect();
    let events: Value = events
        .into_iter()
        .map(|(pass, id)| (pass, json!(id)))
        .collect();
    let asked = json!({
        "base": desk.service.base,
        "email": OPERATOR,
        "password": PASSWORD,
        "organization": "Acme Tools",
        "event": events,
        // Where the README's picture goes, and what it is of.
        "picture": std::env::var("VCB_PICTURE").ok(),
        "pictureMark": mark(),
        // A folder for pictures of each page.
        "shots": std::env::var("VCB_SHOTS").ok(),
    });
    let walk = tokio::task::spawn_blocking(move || libraries::ask("node", "console", &asked));
    let found = walk
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["faults"], json!([]), "{found:#}");
    assert_eq!(found["pages"], 66);
    assert_eq!(desk.dead_letters().await, 0);
}

/// Figures of a year: customers came, grew, shrank and went.
async fn book(desk: &Desk) {
    journal::run(&desk.service.db.service_pool()).await.unwrap();
    desk.service
        .db
        .execute(
            "INSERT INTO billing_revenue_months (month, currency, kind, movements, amount)
             SELECT date_trunc('month', now(), 'UTC') - n * interval '1 month', currency, kind,
                    movements, sign * amount
               FROM generate_series(1, 8) AS n,
                    (VALUES ('usd'), ('eur')) AS c(currency),
                    (VALUES ('new', 4, 39600, 1), ('expansion', 2, 14850, 1),
                            ('contraction', 1, 9900, -1), ('churn', 1, 9900, -1))
                      AS m(kind, movements, amount, sign)
             ON CONFLICT DO NOTHING",
        )
        .await;
}

/// Says from which templates and style a picture was made.
fn mark() -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/console/templates");
    let mut hash = Sha256::new();
    for name in ["base.html", "cell.html", "console.css", "screen.html"] {
        hash.update(std::fs::read(format!("{folder}/{name}")).unwrap());
    }
    format!("templates {}", hex::encode(&hash.finalize()[..8]))
}

#[test]
fn the_picture_in_the_readme_is_of_the_console_as_it_is() {
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/console.svg");
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(
        picture.contains(&mark()),
        "the console's templates have changed: run `make picture`"
    );
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let shown = readme
        .find("docs/console.svg")
        .expect("the README shows it");
    let screen = readme.lines().take(30).map(|line| line.len() + 1).sum();
    assert!(shown < screen, "on its first screen");
    assert!(!picture.contains("<script") && !picture.contains("127.0.0.1"));
}
