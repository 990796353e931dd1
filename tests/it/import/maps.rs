//! The file that says who is who.

use super::Account;
use super::findings::tempfile;

#[tokio::test]
async fn a_map_that_is_wrong_anywhere_does_nothing() {
    let account = Account::open().await;
    let (organization, customer) = account.named().await;
    let ours = organization.to_string();
    let many = format!("customer,organization\n{}", {
        let lines = (0..50_000).map(|n| format!("cus_{n},{ours}\n"));
        lines.collect::<String>() + "cus_49999,acme\n"
    });
    let cases = [
        (
            "customer,organization,plan\n".to_owned(),
            "line 1: unknown column",
        ),
        (
            format!("customer\n{customer}\n"),
            "line 1: a column is missing",
        ),
        (
            format!("customer,organization\n{customer},{ours}\n\n{customer},{ours}\n"),
            "line 4: ",
        ),
        (
            format!("customer,organization\n{customer},{ours}\ncus_x,nobody\n"),
            "line 3: there is no organization \"nobody\"",
        ),
        (
            format!("customer,organization\n{customer},{ours}\n{ours},{customer}\n"),
            "line 3: ",
        ),
        (many, "line 50002: cus_49999 is on line 50001 already"),
    ];
    for (text, said) in cases {
        let ran = account.import(&["--map", &tempfile(&text)]).await;
        assert_eq!(ran.status, 2, "{said}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let ran = account.import(&["--map", "/nowhere.csv"]).await;
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert_eq!(account.count("billing_customers").await, 0);
    assert_eq!(account.count("stripe_imports").await, 0);
}

#[tokio::test]
async fn a_map_names_organizations_by_the_products_ids() {
    let account = Account::open().await;
    let customer = account.customer(None).await;
    account.subscribe(&customer, &[]).await;
    let db = &account.world.service.db;
    db.execute("UPDATE organizations SET external_id = 'north, wind'")
        .await;
    let map = format!("organization,customer\n\"north, wind\",{customer}\n");
    let report = account.imported(&["--map", &tempfile(&map)]).await;
    assert_eq!(report["customers"]["byFile"], 1);
    assert_eq!(account.world.plan().await.0, "standard");
    assert_eq!(account.drift().await, [""; 0]);

    // Whom another organization has by now is not moved.
    let other = account.world.service.organization("Other").await;
    let map = format!("customer,organization\n{customer},{other}\n");
    let ran = account.import(&["--map", &tempfile(&map)]).await;
    assert_eq!(ran.status, 1);
    assert_eq!(super::reasons(&ran.json())[0].0, "linked_elsewhere");
}
