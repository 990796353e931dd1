//! The customer pages in a real browser: with scripts off, by keyboard, on a narrow screen, in
//! the dark; axe finds nothing on any page.

use serde_json::{Value, json};

use super::link;
use crate::subscriptions::world::{DAY, START, World};
use crate::support::libraries;

/// How the browser is set: each pass is a customer of its own.
const PASSES: [&str; 3] = ["plain", "without scripts", "narrow and dark"];

#[tokio::test]
async fn a_customer_upgrades_knowing_the_price_pays_a_failed_invoice_and_finds_an_old_one() {
    let (mut world, clock, first) = World::on_clock(START).await;
    let mut customers = vec![first];
    let mut organizations = vec![world.organization];
    for n in 0..PASSES.len() {
        if n > 0 {
            customers.push(world.newcomer(&clock).await);
            organizations.push(world.organization);
        }
        world.create("standard").await.ok();
    }
    world.settle().await;
    // The second month is not paid: the card fails.
    for customer in &customers {
        let failing = "pm_card_chargeCustomerFail";
        world.stripe.use_card(customer, failing).await;
    }
    world.stripe.advance(&clock, START + 32 * DAY).await;
    world.settle().await;
    for organization in &organizations {
        world
            .service
            .db
            .execute(&format!(
                "UPDATE organizations SET name = 'Acme Tools' WHERE id = '{organization}'"
            ))
            .await;
    }
    let mut links = serde_json::Map::new();
    for (pass, organization) in PASSES.into_iter().zip(&organizations) {
        let url = link(&world.service, &organization.to_string(), "owner").await;
        links.insert(pass.to_owned(), json!(url));
    }
    let asked = json!({
        "base": world.service.base,
        "stripe": world.stripe.sandbox.url(),
        "links": links,
        // A folder for pictures of each page.
        "shots": std::env::var("VCB_SHOTS").ok(),
    });
    let walk = tokio::task::spawn_blocking(move || libraries::ask("node", "portal", &asked));
    let found = walk
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"));
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["faults"], json!([]), "{found:#}");
    world.settle().await;
    for (n, organization) in organizations.iter().enumerate() {
        let plan = format!("SELECT plan_tier FROM organizations WHERE id = '{organization}'");
        assert_eq!(world.service.db.value(&plan).await, "enterprise");
        let charged = world.charged(&customers[n]).await;
        let shown = found["due"][PASSES[n]].as_i64().unwrap();
        assert_eq!(charged, [9_900, 9_900, shown], "{}", PASSES[n]);
    }
}
