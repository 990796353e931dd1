//! An erased organization stays erased.

use serde_json::json;

use crate::subscriptions::world::{VISA, World};
use crate::support::program::{Ran, program_with_stripe, run_beside, run_on};
use crate::support::{TestService, events};

async fn ran(world: &World, arguments: &[&str]) -> Ran {
    let command = program_with_stripe(&world.service.db, &world.stripe.sandbox.url(), arguments);
    run_beside(command).await
}

/// An organization that had a subscription and a card, which Stripe still has.
async fn erased() -> (World, String, String) {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.cancel(true).await.ok();
    world.settle().await;
    let id = world.organization.to_string();
    let erased = ran(&world, &["organizations", "erase", &id, "--yes"]).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    (world, id, customer)
}

#[tokio::test]
async fn an_erased_organization_takes_no_writes_and_is_shown_as_erased() {
    let (world, id, _) = erased().await;
    let of = ["--organization", &*id];
    for (command, more) in [
        (
            &["users", "create"][..],
            &[
                "--email",
                "a@b.example",
                "--role",
                "owner",
                "--generate-password",
            ][..],
        ),
        (
            &["api-keys", "create"],
            &["--scope", "usage.write", "--name", "x"],
        ),
        (
            &["quotas", "set"],
            &["--metric", "api_calls", "--limit", "5"],
        ),
        (
            &["features", "set"],
            &["--feature", "sso", "--value", "true", "--reason", "r"],
        ),
    ] {
        let refused = ran(&world, &[command, &of, more].concat()).await;
        assert_eq!(refused.status, 1, "{command:?}: {}", refused.stderr);
        let said = format!("organization {id} was erased");
        assert!(
            refused.stderr.contains(&said),
            "{command:?}: {}",
            refused.stderr
        );
    }
    let other = world.stripe.customer(VISA, None).await;
    let link = [
        "organizations",
        "link-customer",
        &id,
        "--stripe-customer",
        &other,
    ];
    let refused = ran(&world, &link).await;
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("was erased"), "{}", refused.stderr);
    let db = &world.service.db;
    assert_eq!(db.count("users WHERE email = 'a@b.example'").await, 0);

    let listed = ran(&world, &["organizations", "list"]).await;
    assert!(listed.stdout.contains("(erased at "), "{}", listed.stdout);
    let listed = ran(&world, &["organizations", "list", "--json"])
        .await
        .json();
    let listed = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["id"] == *id);
    assert!(listed.unwrap()["erasedAt"].is_string());
    let shown = ran(&world, &["organizations", "show", &id]).await;
    assert!(shown.stdout.contains("erasedAt: 2"), "{}", shown.stdout);
}

#[tokio::test]
async fn a_reconciliation_brings_nothing_personal_back() {
    let (world, id, customer) = erased().await;
    let db = &world.service.db;
    for arguments in [
        &["subscriptions", "reconcile"][..],
        &["subscriptions", "reconcile", "--apply"],
    ] {
        let compared = ran(&world, arguments).await;
        assert_eq!(compared.status, 0, "{}{}", compared.stdout, compared.stderr);
    }
    assert_eq!(
        db.count(&format!(
            "billing_payment_methods WHERE organization_id = '{id}'"
        ))
        .await,
        0
    );
    let attached = format!("/v1/payment_methods?customer={customer}&type=card");
    assert!(
        !world.stripe.list(&attached, &[]).await.is_empty(),
        "Stripe still has the card"
    );
}

#[tokio::test]
async fn events_that_come_late_bring_nothing_personal_back() {
    let service = TestService::start().await;
    let db = &service.db;
    let id = db.organization("cus_1").await;
    let erase = ["organizations", "erase", &id.to_string(), "--yes"];
    let erased = run_on(db, &erase).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    let card = json!({"id": "pm_late", "object": "payment_method", "customer": "cus_1", "type": "card",
                      "livemode": false, "metadata": {}, "created": 1_767_225_600,
                      "card": {"brand": "visa", "last4": "7391", "exp_month": 1, "exp_year": 2031,
                               "funding": "credit", "country": "SM"}});
    let late = 4_000_000_000;
    service
        .deliver(&events::event(
            "evt_card",
            "payment_method.attached",
            late,
            card,
        ))
        .await;
    let mut invoice = events::invoice("in_late", "cus_1", "sub_late", "open");
    invoice["hosted_invoice_url"] = json!("https://invoice.stripe.example/lovelace");
    invoice["metadata"] = json!({"who": "Ada Lovelace"});
    let event = events::event(
        "evt_asked",
        "invoice.payment_action_required",
        late,
        invoice,
    );
    service.deliver(&event).await;
    service.settle().await;

    let late = "webhook_events WHERE stripe_event_id IN ('evt_card', 'evt_asked') AND processed";
    assert_eq!(db.count(late).await, 2);
    assert_eq!(
        db.count("billing_invoices WHERE stripe_invoice_id = 'in_late'")
            .await,
        1,
        "money is kept"
    );
    for gone in [
        format!("billing_payment_methods WHERE organization_id = '{id}'"),
        "webhook_events WHERE payload::text LIKE '%7391%' OR payload::text LIKE '%ovelace%'"
            .to_owned(),
        "billing_invoices i WHERE to_jsonb(i)::text LIKE '%ovelace%'".to_owned(),
        "billing_alerts WHERE message LIKE '%ovelace%'".to_owned(),
        "billing_audit_log l WHERE to_jsonb(l)::text LIKE '%7391%'".to_owned(),
    ] {
        assert_eq!(db.count(&gone).await, 0, "{gone}");
    }
}
