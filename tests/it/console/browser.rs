//! The console in a real browser: with scripts off, on a narrow screen, in the dark; axe finds
//! nothing on any page.

use serde_json::{Value, json};

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
    assert_eq!(found["pages"], 84);
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
