//! What the figures say of trials, debts, usage and customers, by API, command and file.

use serde_json::{Value, json};

use super::{Books, DAY, FEBRUARY, JANUARY, paying};
use crate::support::dice::Dice;
use crate::support::events::{event, invoice};
use crate::support::program::{program, run};

impl Books {
    /// Four organizations: one pays, one is past due, one tries, one is free.
    async fn of_four() -> Self {
        let books = Self::open().await;
        for customer in ["cus_pays", "cus_late", "cus_tries", "cus_free"] {
            books.service.db.organization(customer).await;
        }
        let pays = paying("sub_pays", "cus_pays", 9_900, "month", 1);
        books.happens("evt_pays", JANUARY, pays).await;
        let mut late = paying("sub_late", "cus_late", 9_900, "month", 1);
        late["status"] = json!("past_due");
        books.happens("evt_late", JANUARY, late).await;
        let mut tries = paying("sub_tries", "cus_tries", 9_900, "month", 1);
        tries["status"] = json!("trialing");
        tries["trial_start"] = json!(JANUARY);
        tries["trial_end"] = json!(JANUARY + 20_000 * DAY);
        books.happens("evt_tries", JANUARY, tries).await;
        books
    }

    async fn owes(&self) {
        let open = invoice("in_late", "cus_late", "sub_late", "open");
        let event = event("evt_owes", "invoice.finalized", FEBRUARY, open);
        self.service.deliver(&event).await;
        self.service.settle().await;
    }
}

#[tokio::test]
async fn each_organization_stands_somewhere_once() {
    let books = Books::of_four().await;
    let figures = books.get("/standings").await;
    let count = |standing: &str| -> i64 {
        let rows = figures["data"].as_array().unwrap().iter();
        let rows = rows.filter(|row| row["standing"] == standing);
        rows.map(|row| row["organizations"].as_i64().unwrap()).sum()
    };
    for (standing, customer) in [
        ("paying", "cus_pays"),
        ("past_due", "cus_late"),
        ("trialing", "cus_tries"),
        ("free", "cus_free"),
    ] {
        assert_eq!(count(standing), 1, "{figures}");
        let page = books.get(&format!("/customers?standing={standing}")).await;
        let rows = page["data"].as_array().unwrap();
        assert_eq!(rows.len(), 1, "{standing}: {page}");
        let id = rows[0]["organizationId"].as_str().unwrap();
        let customers = format!(
            "billing_customers WHERE organization_id = '{id}' AND stripe_customer_id = '{customer}'"
        );
        assert_eq!(books.service.db.count(&customers).await, 1, "{standing}");
        let csv = books.csv(&format!("/customers?standing={standing}")).await;
        assert_eq!(csv.lines().count(), 2, "{csv}");
        assert!(csv.contains(id), "{csv}");
    }
    let paying = books.get("/customers?standing=paying").await;
    assert_eq!(
        paying["data"][0]["pays"],
        json!([{"currency": "usd", "mrrAmount": 9_900}])
    );
    for (gone, not_gone) in [("archived_at", "erased_at"), ("erased_at", "archived_at")] {
        let goes = format!(
            "UPDATE organizations SET {gone} = now(), {not_gone} = NULL WHERE id IN (
             SELECT organization_id FROM billing_customers WHERE stripe_customer_id = 'cus_free')"
        );
        books.service.db.execute(&goes).await;
        let free = books.get("/customers?standing=free").await;
        assert_eq!(free["data"], json!([]), "{gone}");
    }
}

#[tokio::test]
async fn debts_and_the_usage_that_is_at_risk_are_of_those_who_are_late() {
    let books = Books::of_four().await;
    books.owes().await;
    // Both used 150,000 calls of 100,000, and 3 half calls: only one is late.
    let used = "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
        SELECT organization_id, 'api_calls', now() - interval '1 day', now() + interval '9 days',
               150001.5
          FROM billing_customers WHERE stripe_customer_id IN ('cus_late', 'cus_pays')";
    books.service.db.execute(used).await;
    let figures = books.get("").await;
    assert_eq!(
        figures["pastDue"],
        json!([{"currency": "usd", "subscriptions": 1, "invoices": 1, "owedAmount": 9_900}])
    );
    assert_eq!(
        figures["usageAtRisk"],
        json!([{"currency": "usd", "organizations": 1, "amount": 5_000}])
    );
}

#[tokio::test]
async fn a_trial_is_converted_once_it_paid() {
    let books = Books::open().await;
    let ended = |id: &str, status: &str| {
        let mut trial = paying(
            &format!("sub_{id}"),
            &format!("cus_{id}"),
            9_900,
            "month",
            1,
        );
        trial["status"] = json!(status);
        trial["trial_start"] = json!(JANUARY);
        trial["trial_end"] = json!(jiff::Timestamp::now().as_second() - 60);
        trial
    };
    for (id, status) in [("a", "active"), ("b", "active"), ("c", "canceled")] {
        books.service.db.organization(&format!("cus_{id}")).await;
        books
            .happens(&format!("evt_{id}"), FEBRUARY, ended(id, status))
            .await;
    }
    let paid = invoice("in_a", "cus_a", "sub_a", "paid");
    let paid = event("evt_paid", "invoice.paid", FEBRUARY + 1, paid);
    books.service.deliver(&paid).await;
    books.service.settle().await;
    let figures = books.get("").await;
    let months = figures["trials"]["months"].as_array().unwrap();
    let sum = |field: &str| -> i64 { months.iter().map(|row| row[field].as_i64().unwrap()).sum() };
    let found = ["ended", "converted", "unpaid", "lost"].map(sum);
    assert_eq!(found, [3, 1, 1, 1], "{figures}");
    assert_eq!(months[0]["conversionPercent"], "33.33", "{figures}");
}

#[tokio::test]
async fn files_and_commands_have_the_same_numbers_as_the_api() {
    let books = Books::of_four().await;
    let months = books.get("/months?count=120").await;
    let rows = months["data"].as_array().unwrap();
    let csv = books.csv("/months?count=120").await;
    assert_eq!(csv.lines().count(), rows.len() + 1);
    assert!(csv.starts_with("month,currency,openingAmount,"), "{csv}");
    assert!(
        csv.contains("\r\n2026-01,usd,0,19800,0,0,0,0,19800,0,2,0,0,2,,,\r\n"),
        "{csv}"
    );
    let movements = books.csv("/movements?kind=new").await;
    assert_eq!(movements.lines().count(), 3, "{movements}");
    let none = books.csv("/movements?kind=churn").await;
    assert_eq!(none.lines().count(), 1, "{none}");

    let ran = |arguments: &[&str]| {
        let mut command = program(arguments);
        command.env("DATABASE_URL", books.service.db.url("billing_service"));
        run(&mut command)
    };
    let shown = ran(&["figures", "months", "--count", "120", "--json"]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown, months["data"]);
    let file = ran(&["figures", "months", "--count", "120", "--csv"]);
    assert_eq!(file.stdout.trim_end(), csv.replace("\r\n", "\n").trim_end());
    let shown = ran(&["figures", "show"]);
    assert!(
        shown
            .stdout
            .starts_with("198.00 USD a month from 2 customers\n1 trial running"),
        "{}",
        shown.stdout
    );
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused() {
    let books = Books::open().await;
    for path in [
        "/months?count=0",
        "/months?count=121",
        "/months?count=x",
        "/movements?kind=growth",
        "/movements?from=yesterday",
        "/customers",
        "/customers?standing=rich",
        "/customers?standing=free&cursor=made-up",
    ] {
        let response = books
            .service
            .get(&format!("/api/operator/figures{path}"))
            .bearer_auth(&books.operator)
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn each_list_has_whom_the_view_has() {
    let books = Books::open().await;
    let mut dice = Dice::new(41);
    for n in 0..24 {
        books.service.db.organization(&format!("cus_{n}")).await;
        for k in 0..dice.below(3) {
            let (id, customer) = (format!("sub_{n}_{k}"), format!("cus_{n}"));
            let mut object = paying(&id, &customer, dice.pick(&[0, 9_900]), "month", 1);
            let status = dice.pick(&["active", "past_due", "unpaid", "trialing", "canceled"]);
            object["status"] = json!(status);
            let kind = "customer.subscription.updated";
            let event = event(&format!("evt_{n}_{k}"), kind, JANUARY, object);
            books.service.deliver(&event).await;
        }
    }
    books.service.settle().await;
    books.book().await;
    let db = &books.service.db;
    db.execute(
        "UPDATE organizations SET archived_at = now() WHERE id IN (
           SELECT organization_id FROM billing_customers
            WHERE stripe_customer_id IN ('cus_3', 'cus_7', 'cus_11', 'cus_15'))",
    )
    .await;
    for standing in ["paying", "past_due", "trialing", "free"] {
        let all = db
            .value(&format!(
                "SELECT coalesce(string_agg(organization_id::text, ' ' ORDER BY organization_id), '')
                   FROM reporting.customers WHERE standing = '{standing}'"
            ))
            .await;
        assert!(!all.is_empty(), "{standing}: choose another seed");
        let mut listed = Vec::new();
        let mut more = String::new();
        loop {
            let path = format!("/customers?standing={standing}&limit=2{more}");
            let page = books.get(&path).await;
            for row in page["data"].as_array().unwrap() {
                assert_eq!(row["standing"], standing);
                listed.push(row["organizationId"].as_str().unwrap().to_owned());
            }
            match page["nextCursor"].as_str() {
                Some(cursor) => more = format!("&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(listed.join(" "), all, "{standing}");
    }
}
