//! What an import brings happened before: the product hears of what is so now.

use reqwest::Method;

use super::{Account, reasons};
use crate::outbox::receiver::{Receiver, Reply, endpoint, until_count};
use crate::subscriptions::world::text;

#[tokio::test]
async fn the_product_hears_of_the_state_and_not_of_history() {
    let account = Account::open().await;
    let service = &account.world.service;
    let (_, customer) = account.named().await;
    let ended = account.subscribe(&customer, &[]).await;
    let path = format!("/v1/subscriptions/{}", text(&ended, "id"));
    account.world.stripe.send(Method::DELETE, &path, &[]).await;
    account.subscribe(&customer, &[]).await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&service.db, &receiver, &[]).await;

    let report = account.imported(&[]).await;
    assert_eq!(report["done"]["subscriptions"]["written"], 2);
    let paid = account
        .count("billing_invoices WHERE status = 'paid'")
        .await;
    assert!(paid >= 2, "{paid}");
    until_count(service, "outbound_changes", 0).await;
    let told = account
        .value("SELECT string_agg(DISTINCT event_type, ' ') FROM outbound_events")
        .await;
    assert_eq!(told, "organization.state_changed");
    let plan = "outbound_events WHERE body::text LIKE '%standard%'";
    assert!(account.count(plan).await > 0);
}

#[tokio::test]
async fn an_account_or_mode_that_is_another_is_refused() {
    let account = Account::open().await;
    let (_, customer) = account.named().await;
    account.subscribe(&customer, &[]).await;
    let report = account.imported(&[]).await;
    assert_eq!(report["account"], "acct_sandbox");
    assert_eq!(report["livemode"], false);
    let db = &account.world.service.db;
    db.execute(
        "UPDATE stripe_imports SET ended_at = NULL, phase = 'invoices',
                terms = jsonb_set(terms, '{account}', '\"acct_other\"')",
    )
    .await;
    let ran = account.import(&["--resume"]).await;
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("another account"), "{}", ran.stderr);
    db.execute("UPDATE billing_subscriptions SET livemode = true")
        .await;
    for arguments in [&["--dry-run"][..], &[]] {
        let ran = account.import(arguments).await;
        assert_eq!(ran.status, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("live mode"), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn what_was_left_out_before_is_brought_when_it_is_gone_on_with() {
    let account = Account::open().await;
    let late = account.customer(None).await;
    account.subscribe(&late, &[]).await;
    account.imported(&[]).await;
    assert_eq!(account.count("billing_subscriptions").await, 0);
    // Its page was passed, and the metadata are corrected since.
    let organization = account.world.service.organization("Late").await;
    let fields = [("metadata[organization_id]", &*organization.to_string())];
    let path = format!("/v1/customers/{late}");
    account.world.stripe.post(&path, &fields).await;
    let db = &account.world.service.db;
    let interrupted = "UPDATE stripe_imports SET ended_at = NULL, phase = 'disputes'";
    db.execute(interrupted).await;
    account.imported(&["--resume"]).await;
    assert_eq!(account.count("billing_subscriptions").await, 1);
    assert_eq!(account.drift().await, [""; 0]);

    // As if something of it had failed.
    db.execute("DELETE FROM billing_payment_methods").await;
    db.execute(&format!(
        "{interrupted}, counts = counts || '{{\"failures\": {{\"seen\": 1, \"written\": 0}}}}'"
    ))
    .await;
    let report = account.imported(&["--resume"]).await;
    assert_eq!(account.count("billing_payment_methods").await, 1);
    assert!(report["done"]["failures"].is_null(), "{report}");
}

#[tokio::test]
async fn subscriptions_and_the_products_ids_say_whose_a_customer_is() {
    let account = Account::open().await;
    let organization = account.world.service.organization("Acme").await;
    let db = &account.world.service.db;
    db.execute(&format!(
        "UPDATE organizations SET external_id = 'acme' WHERE id = '{organization}'"
    ))
    .await;
    let customer = account.customer(None).await;
    let fields = [("metadata[organization_id]", "acme")];
    account.subscribe(&customer, &fields).await;
    let report = account.imported(&["--create-organizations"]).await;
    assert_eq!(report["customers"]["byMetadata"], 1);
    let owner = "SELECT organization_id::text FROM billing_customers";
    assert_eq!(account.value(owner).await, organization.to_string());
    assert_eq!(account.drift().await, [""; 0]);

    let archived = account.world.service.organization("Old").await;
    db.execute(&format!(
        "UPDATE organizations SET archived_at = now() WHERE id = '{archived}'"
    ))
    .await;
    let other = account.customer(Some(archived)).await;
    let ran = account.import(&[]).await;
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert_eq!(reasons(&ran.json()), [("archived".to_owned(), other)]);
}
