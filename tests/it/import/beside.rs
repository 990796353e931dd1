//! Events arrive while an account is imported.

use serde_json::json;

use super::Account;
use crate::subscriptions::world::text;
use crate::support::events::event;

#[tokio::test]
async fn an_answer_never_comes_over_what_a_newer_event_has_told() {
    let account = Account::open().await;
    let (organization, customer) = account.named().await;
    let mut subscription = account.subscribe(&customer, &[]).await;
    let invoice = &account.world.stripe.invoices(&customer).await[0];
    // What Stripe tells is newer than what it answers, as when its page waits here.
    let later = jiff::Timestamp::now().as_second() + 3_600;
    subscription["status"] = json!("past_due");
    let service = &account.world.service;
    let updated = "customer.subscription.updated";
    service
        .deliver(&event("evt_past_due", updated, later, subscription))
        .await;
    let mut renamed = account
        .world
        .stripe
        .get(&format!("/v1/customers/{customer}"), &[])
        .await;
    renamed["delinquent"] = json!(true);
    let updated = "customer.updated";
    service
        .deliver(&event("evt_delinquent", updated, later, renamed))
        .await;
    service.settle().await;

    let ran = account.import(&[]).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let told = format!(
        "SELECT concat_ws(' ', s.status, c.delinquent) FROM billing_subscriptions s
           JOIN billing_customers c USING (organization_id, stripe_customer_id)
          WHERE s.organization_id = '{organization}'"
    );
    // The event that waited for its customer is due again once that is known.
    for _ in 0..500 {
        service.settle().await;
        if account.value(&told).await == "past_due t" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(account.value(&told).await, "past_due t");
    // What no event has told of is there.
    let paid = format!(
        "billing_invoices WHERE stripe_invoice_id = '{}' AND status = 'paid'",
        text(invoice, "id")
    );
    assert_eq!(account.count(&paid).await, 1);
}

#[tokio::test]
async fn webhooks_that_arrive_meanwhile_and_an_import_come_to_one_state() {
    let account = Account::open().await;
    account.world.deliver_again().await;
    let mut customers = Vec::new();
    for _ in 0..8 {
        customers.push(account.named().await.1);
    }
    for customer in &customers[..4] {
        account.subscribe(customer, &[]).await;
    }
    let importing = account.import(&[]);
    let shopping = async {
        for customer in &customers[2..] {
            account.subscribe(customer, &[]).await;
        }
    };
    let (ran, ()) = tokio::join!(importing, shopping);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    account.world.settle().await;
    account.world.settled_in_the_background().await;
    let drift = account.drift().await;
    // Two of them pay twice, as they chose.
    let others = drift
        .iter()
        .filter(|one| !one.contains("two_subscriptions"));
    assert_eq!((drift.len(), others.count()), (2, 0), "{drift:#?}");
}
