//! An import that dies is gone on with.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::Account;

/// The account's customers.
fn customers() -> usize {
    std::env::var("VCB_IMPORTED").map_or(40, |number| number.parse().unwrap())
}

impl Account {
    async fn fill_with(&self, number: usize) {
        for n in 0..number {
            let customer = self.customer(None).await;
            if n % 2 == 0 {
                self.subscribe(&customer, &[]).await;
            }
        }
    }

    /// Waits until an import is in this phase.
    async fn reaches(&self, phase: &str) {
        for _ in 0..60_000 {
            let reached = format!("stripe_imports WHERE phase = '{phase}' AND ended_at IS NULL");
            if self.count(&reached).await == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the import does not reach {phase}");
    }
}

#[tokio::test]
async fn an_import_that_is_killed_is_gone_on_with_and_done_once() {
    let account = Account::open().await;
    let number = customers();
    account.fill_with(number).await;
    let arguments = ["import", "stripe", "--create-organizations", "--rate", "8"];
    let mut command = account.command(&arguments);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    account.reaches("payment_methods").await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        account.count("billing_subscriptions").await,
        number.div_ceil(2) as i64
    );
    assert_eq!(account.count("billing_payment_methods").await, 0);

    // As far as anybody can tell, it may still be at work.
    let ran = account.import(&["--resume"]).await;
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("another import is under way"),
        "{}",
        ran.stderr
    );
    let db = &account.world.service.db;
    db.execute("UPDATE billing_job_leases SET lease_expires_at = now()")
        .await;

    let began = Instant::now();
    let report = account.imported(&["--resume"]).await;
    eprintln!("{number} customers: the rest took {:?}", began.elapsed());
    assert_eq!(report["complete"], true);
    assert_eq!(report["done"]["organizations"]["written"], number);
    assert_eq!(report["done"]["payment_methods"]["written"], number);
    assert_eq!(account.count("organizations").await, number as i64 + 1);
    assert_eq!(account.drift().await, [""; 0]);
    let ran = account.import(&["--resume"]).await;
    assert_eq!(ran.status, 1);
    assert!(
        ran.stderr.contains("no import to go on with"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn one_that_stripe_ended_says_how_to_go_on() {
    let account = Account::open().await;
    account.fill_with(3).await;
    let stripe = &account.world.stripe;
    stripe
        .fault(&[("fault", "rate_limit"), ("next", "2")])
        .await;
    let report = account.imported(&["--create-organizations"]).await;
    assert_eq!(report["complete"], true);
    assert_eq!(stripe.struck().await, 2);

    // With another map, it would be another import.
    let db = &account.world.service.db;
    db.execute("UPDATE stripe_imports SET ended_at = NULL, phase = 'invoices'")
        .await;
    let map = super::findings::tempfile(&format!(
        "customer,organization\ncus_other,{}\n",
        account.world.organization
    ));
    let ran = account.import(&["--resume", "--map", &map]).await;
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    let ran = account.import(&["--resume", "--stamp"]).await;
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert_eq!(account.imported(&["--resume"]).await["complete"], true);
}
