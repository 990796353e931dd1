//! Customers become organizations, and are told.

use super::{Account, reasons};
use crate::subscriptions::world::text;

#[tokio::test]
async fn customers_become_organizations_and_only_stamps_change_stripe() {
    let account = Account::open().await;
    let stripe = &account.world.stripe;
    let customers = [
        vec![("name", "Acme"), ("email", "pay@acme.example")],
        vec![
            ("email", "b@b.example"),
            ("metadata[organization_id]", "globex"),
        ],
        vec![],
    ];
    let mut ids = Vec::new();
    for fields in customers {
        ids.push(text(&stripe.post("/v1/customers", &fields).await, "id"));
    }
    let before = stripe.list("/v1/customers", &[]).await;

    let report = account.imported(&["--create-organizations"]).await;
    assert_eq!(report["customers"]["new"], 3);
    let made = account
        .value(
            "SELECT string_agg(concat_ws('|', name, email, external_id), E'\\n' ORDER BY name)
               FROM organizations WHERE name <> 'Northwind'",
        )
        .await;
    let expected = format!(
        "Acme|pay@acme.example\nb@b.example|b@b.example|globex\n{}",
        ids[2]
    );
    assert_eq!(made, expected);
    assert_eq!(stripe.list("/v1/customers", &[]).await, before);
    assert_eq!(account.drift().await, [""; 0]);

    let report = account.imported(&["--stamp"]).await;
    assert_eq!(report["done"]["stamps"]["written"], 2);
    for customer in stripe.list("/v1/customers", &[]).await {
        let id = text(&customer, "id");
        let owner = format!(
            "SELECT organization_id::text FROM billing_customers WHERE stripe_customer_id = '{id}'"
        );
        let expected = match id == ids[1] {
            true => "globex".to_owned(),
            false => account.value(&owner).await,
        };
        assert_eq!(text(&customer["metadata"], "organization_id"), expected);
    }
    let stamped = "billing_audit_log WHERE action = 'customer_stamped'";
    assert_eq!(account.count(stamped).await, 2);

    // Again, with all that may be asked for, nothing is done.
    let entries = account.count("billing_audit_log").await;
    let report = account
        .imported(&["--create-organizations", "--stamp"])
        .await;
    assert_eq!(reasons(&report), []);
    assert_eq!(report["done"]["organizations"]["written"], 0);
    assert_eq!(account.count("billing_audit_log").await, entries);
    let verified = account.run(&["audit", "verify"]).await;
    assert_eq!(verified.status, 0, "{}{}", verified.stdout, verified.stderr);
}
