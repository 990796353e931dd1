//! `plans list` and `plans sync`.

use serde_json::Value;

use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::program::{Ran, program, program_with_stripe, run, run_beside};

async fn sync(stripe: &Stripe, plans: Option<&str>, arguments: &[&str]) -> Ran {
    let arguments = [&["plans", "sync", "--json"], arguments].concat();
    let mut command = program(&arguments);
    command
        .env("STRIPE_SECRET_KEY", "sk_test_secret")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
        .env("STRIPE_API_BASE", stripe.sandbox.url());
    if let Some(plans) = plans {
        command.env("PLANS_FILE", plans);
    }
    run_beside(command).await
}

/// How many steps of each action a run reports.
fn actions(ran: &Ran) -> [usize; 3] {
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let Value::Array(steps) = ran.json() else {
        panic!("{}", ran.stdout)
    };
    ["create", "replace", "unchanged"]
        .map(|action| steps.iter().filter(|step| step["action"] == action).count())
}

/// Five meters with their products, two plans' products, two base prices, and nine for
/// overage.
const ALL: usize = 23;

#[tokio::test]
async fn what_is_missing_is_made_once() {
    let stripe = Stripe::start().await;
    let dry = sync(&stripe, None, &["--dry-run"]).await;
    assert_eq!(actions(&dry), [ALL, 0, 0]);
    assert!(stripe.client().products().await.unwrap().is_empty());
    let first = sync(&stripe, None, &[]).await;
    assert_eq!(actions(&first), [ALL, 0, 0]);
    let second = sync(&stripe, None, &[]).await;
    assert_eq!(actions(&second), [0, 0, ALL]);
    let keys = [
        "valuecanvas_standard_monthly",
        "valuecanvas_standard_monthly_llm_tokens",
    ];
    let prices = stripe.client().prices(&keys).await.unwrap();
    let base = prices
        .iter()
        .find(|price| price.lookup_key.as_deref() == Some(keys[0]));
    assert_eq!(base.unwrap().unit_amount, Some(9_900));
    let tokens = prices
        .iter()
        .find(|price| price.lookup_key.as_deref() == Some(keys[1]));
    let tiers = tokens.unwrap().tiers.clone().unwrap();
    assert_eq!(tiers[0].up_to, Some(1_000_000));
    assert_eq!(tiers[1].unit_amount_decimal.as_deref(), Some("0.001"));
}

#[tokio::test]
async fn a_price_that_changed_is_replaced_and_its_key_moves() {
    let stripe = Stripe::start().await;
    actions(&sync(&stripe, None, &[]).await);
    let text = std::fs::read_to_string("config/plans.toml").unwrap();
    let text = text
        .replacen("amount = 9_900", "amount = 10_900", 1)
        .replacen("\"0.10\"", "\"0.12\"", 1);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let plans = file.path().to_str();
    assert_eq!(actions(&sync(&stripe, plans, &[]).await), [0, 2, ALL - 2]);
    let key = ["valuecanvas_standard_monthly"];
    let prices = stripe.client().prices(&key).await.unwrap();
    let amounts: Vec<Option<i64>> = prices.iter().map(|price| price.unit_amount).collect();
    assert_eq!(amounts, [Some(10_900)]);
    assert_eq!(actions(&sync(&stripe, plans, &[]).await), [0, 0, ALL]);
}

#[tokio::test]
async fn a_sync_that_was_cut_off_is_taken_up() {
    let stripe = Stripe::start().await;
    // As often as a call is repeated.
    let gone = [
        ("fault", "drop"),
        ("method", "POST"),
        ("path", "/v1/prices"),
        ("every", "1"),
        ("next", "4"),
    ];
    stripe.fault(&gone).await;
    let ran = sync(&stripe, None, &[]).await;
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    // The meters, their products and the first plan's were made before its price failed.
    assert_eq!(actions(&sync(&stripe, None, &[]).await), [ALL - 11, 0, 11]);
}

#[tokio::test]
async fn the_catalogue_is_listed() {
    let ran = run(&mut program(&["plans", "list", "--json"]));
    let plans = ran.json();
    assert_eq!(plans[1]["tier"], "standard");
    assert_eq!(plans[1]["amount"], 9_900);
    assert_eq!(plans[1]["quotas"]["llm_tokens"]["overageRate"], "0.00001");
    assert_eq!(plans[2]["quotas"]["user_seats"]["quota"], Value::Null);
    let ran = run(&mut program(&["plans", "list"]));
    assert!(
        ran.stdout.contains("$99.00 a month") || ran.stdout.contains("99.00"),
        "{}",
        ran.stdout
    );
    let ran = run(&mut program(&["plans", "sync"]));
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("STRIPE_SECRET_KEY"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_period_of_quotas_is_listed_and_a_mistake_in_it_is_named() {
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("plans.toml");
    let shipped = std::fs::read_to_string("config/plans.toml").unwrap();
    let (price, name) = ("price = { amount = 9_900", "name = \"Standard\"\n");
    let yearly = "{ amount = 99_000, currency = \"usd\", interval = \"year\", lookup_key = \"y\" }";
    let line = shipped
        .lines()
        .find(|line| line.starts_with(price))
        .unwrap();
    let monthly = line.strip_prefix("price = ").unwrap();
    let both = shipped.replace(line, &format!("prices = [{monthly}, {yearly}]"));
    let list = |text: &str, more: &[&str]| {
        std::fs::write(&path, text).unwrap();
        let mut command = program(&[&["plans", "list"], more].concat());
        run(command.env("PLANS_FILE", &path))
    };
    let plans = list(&both, &["--json"]).json();
    assert_eq!(plans[1]["allowancePeriod"], "month");
    assert!(list(&both, &[]).stdout.contains("100000 a month"));
    let billing = both.replace(name, &format!("{name}allowance_period = \"billing\"\n"));
    assert_eq!(
        list(&billing, &["--json"]).json()[1]["allowancePeriod"],
        "billing"
    );
    assert!(list(&billing, &[]).stdout.contains("100000 a period"));
    let wrong = both.replace(name, &format!("{name}allowance_period = \"quarter\"\n"));
    let ran = list(&wrong, &[]);
    let at = wrong
        .lines()
        .position(|line| line.contains("quarter"))
        .unwrap()
        + 1;
    let problem = format!(
        "plans.toml, line {at}: the allowance_period of \"standard\" is \"quarter\"; \
         expected \"month\" or \"billing\""
    );
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains(&problem), "{}", ran.stderr);
}

#[tokio::test]
async fn sync_refuses_a_file_without_plans_that_organizations_have() {
    let (db, stripe) = (TestDatabase::new().await, Stripe::start().await);
    db.organization("cus_1").await;
    let sync = || {
        let command = program_with_stripe(&db, &stripe.sandbox.url(), &["plans", "sync", "--json"]);
        run_beside(command)
    };
    db.execute("UPDATE organizations SET plan_tier = 'bronze', name = 'Acme'")
        .await;
    let refused = sync().await;
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    let told = "PLANS_FILE lacks plans that organizations have: bronze: 1 organization: Acme (";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);
    assert!(stripe.client().products().await.unwrap().is_empty());

    db.execute("UPDATE organizations SET plan_tier = 'free'")
        .await;
    assert_eq!(actions(&sync().await), [ALL, 0, 0]);
    assert_eq!(db.count("billing_prices").await, 11);
    assert_eq!(db.count("plan_versions").await, 3);
    // Who cannot be asked cannot remember what is made, either.
    db.execute("ALTER TABLE organizations RENAME TO elsewhere")
        .await;
    let refused = sync().await;
    assert_eq!(refused.status, 1, "{}", refused.stderr);
}
