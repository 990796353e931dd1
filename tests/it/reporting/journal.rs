//! Each change of what an organization pays is one movement, and they add up.

use serde_json::{Value, json};

use super::{Books, DAY, FEBRUARY, JANUARY, MARCH, paying};
use crate::support::dice::Dice;
use crate::support::events::event;

/// Kind, before and after of the movements of a currency, oldest first.
async fn moved(books: &Books, currency: &str) -> Vec<(String, i64, i64)> {
    let page = books
        .get(&format!("/movements?limit=100&currency={currency}"))
        .await;
    let rows = page["data"].as_array().unwrap().iter().rev();
    rows.map(|row| {
        (
            row["kind"].as_str().unwrap().to_owned(),
            row["beforeAmount"].as_i64().unwrap(),
            row["afterAmount"].as_i64().unwrap(),
        )
    })
    .collect()
}

fn as_owned(rows: &[(&str, i64, i64)]) -> Vec<(String, i64, i64)> {
    rows.iter()
        .map(|(kind, before, after)| ((*kind).to_owned(), *before, *after))
        .collect()
}

#[tokio::test]
async fn a_customer_comes_grows_shrinks_goes_and_comes_back() {
    let books = Books::open().await;
    books.service.db.organization("cus_1").await;
    let one = |amount, quantity| paying("sub_1", "cus_1", amount, "month", quantity);
    let mut ended = one(9_900, 2);
    ended["status"] = json!("canceled");
    ended["ended_at"] = json!(MARCH + DAY);
    let mut again = paying("sub_2", "cus_1", 9_900, "month", 1);
    again["created"] = json!(MARCH + 2 * DAY);

    books.happens("evt_1", JANUARY + 1, one(9_900, 1)).await;
    books.happens("evt_2", JANUARY + DAY, one(9_900, 5)).await;
    // An event that changes no amount moves nothing.
    books.happens("evt_3", FEBRUARY, one(9_900, 5)).await;
    books.happens("evt_4", FEBRUARY + DAY, one(9_900, 2)).await;
    books.happens("evt_5", MARCH + DAY, ended).await;
    books.happens("evt_6", MARCH + 2 * DAY, again).await;
    assert_eq!(
        moved(&books, "usd").await,
        as_owned(&[
            ("new", 0, 9_900),
            ("expansion", 9_900, 49_500),
            ("contraction", 49_500, 19_800),
            ("churn", 19_800, 0),
            ("reactivation", 0, 9_900),
        ])
    );

    let months = books.get("/months?count=120").await;
    let month = |name: &str| -> Value {
        let mut months = months["data"].as_array().unwrap().iter();
        months.find(|month| month["month"] == name).unwrap().clone()
    };
    assert_eq!(
        month("2026-01"),
        json!({
            "month": "2026-01", "currency": "usd", "openingAmount": 0, "newAmount": 9_900,
            "reactivationAmount": 0, "expansionAmount": 39_600, "contractionAmount": 0,
            "churnAmount": 0, "closingAmount": 49_500, "openingCustomers": 0, "newCustomers": 1,
            "reactivatedCustomers": 0, "churnedCustomers": 0, "closingCustomers": 1,
            "customerChurnPercent": null, "revenueChurnPercent": null, "netRetentionPercent": null,
        })
    );
    let february = month("2026-02");
    assert_eq!(february["contractionAmount"], -29_700);
    assert_eq!(february["revenueChurnPercent"], "60.00");
    assert_eq!(february["netRetentionPercent"], "40.00");
    assert_eq!(february["customerChurnPercent"], "0.00");
    let march = month("2026-03");
    assert_eq!(march["churnAmount"], -19_800);
    assert_eq!(march["reactivationAmount"], 9_900);
    assert_eq!(march["customerChurnPercent"], "100.00");
    assert_eq!(march["closingAmount"], 9_900);
    // Months in which nothing moved are there, up to this one.
    let april = month("2026-04");
    assert_eq!(april["openingAmount"], 9_900);
    assert_eq!(april["closingAmount"], 9_900);
    assert_eq!(books.differences().await, 0);
}

#[tokio::test]
async fn what_is_paid_a_month_is_rounded_item_by_item_and_currencies_stay_apart() {
    let books = Books::open().await;
    for customer in ["cus_1", "cus_2", "cus_3"] {
        books.service.db.organization(customer).await;
    }
    // 100.06 a year is 8.338… a month; a second item beside it, and usage, which counts for
    // nothing.
    let mut yearly = paying("sub_1", "cus_1", 10_006, "year", 1);
    let mut seats = yearly["items"]["data"][0].clone();
    seats["id"] = json!("si_seats");
    seats["price"]["id"] = json!("price_seats");
    seats["price"]["lookup_key"] = json!("seats");
    seats["price"]["unit_amount"] = json!(6);
    seats["price"]["unit_amount_decimal"] = json!("6");
    let mut metered = seats.clone();
    metered["id"] = json!("si_metered");
    metered["price"]["id"] = json!("price_metered");
    metered["price"]["lookup_key"] = json!("metered");
    metered["price"]["unit_amount"] = json!(1_000_000);
    metered["price"]["recurring"]["usage_type"] = json!("metered");
    metered.as_object_mut().unwrap().remove("quantity");
    let items = yearly["items"]["data"].as_array_mut().unwrap();
    items.extend([seats, metered]);
    books.happens("evt_1", JANUARY, yearly).await;

    let mut euros = paying("sub_2", "cus_2", 1_200, "week", 1);
    euros["currency"] = json!("eur");
    euros["items"]["data"][0]["price"]["currency"] = json!("eur");
    books.happens("evt_2", JANUARY, euros).await;
    let mut late = paying("sub_3", "cus_3", 100, "month", 3);
    late["status"] = json!("past_due");
    books.happens("evt_3", JANUARY, late).await;

    let figures = books.get("").await;
    assert_eq!(
        figures["recurringRevenue"],
        json!([
            {"currency": "eur", "mrrAmount": 5_200, "discountedMrrAmount": 0, "customers": 1},
            // 834 (833.8 rounded), 1 (0.5 rounded up) and 300.
            {"currency": "usd", "mrrAmount": 1_135, "discountedMrrAmount": 0, "customers": 2},
        ])
    );
    assert_eq!(books.differences().await, 0);
}

#[tokio::test]
async fn a_discount_counts_until_it_ends_or_is_deleted() {
    let books = Books::open().await;
    books.service.db.organization("cus_1").await;
    let mut object = paying("sub_1", "cus_1", 9_900, "month", 1);
    object["discounts"] = json!(["di_1", "di_2"]);
    books.happens("evt_1", JANUARY, object.clone()).await;
    let discounted = "reporting.recurring_items WHERE discounted";
    assert_eq!(books.service.db.count(discounted).await, 1);
    let known = "INSERT INTO billing_discounts
               (organization_id, stripe_discount_id, ends_at, deleted_at, observed_at)
        SELECT s.organization_id, told.id, told.ends_at, told.deleted_at, now()
          FROM billing_subscriptions s,
               (VALUES ('di_1', now() - interval '1 day', NULL::timestamptz),
                       ('di_2', NULL, now())) AS told(id, ends_at, deleted_at)";
    books.service.db.execute(known).await;
    assert_eq!(books.service.db.count(discounted).await, 0);
    // The mirror still has them, and what is booked follows.
    books.happens("evt_2", FEBRUARY, object).await;
    let figures = books.get("").await;
    let revenue = &figures["recurringRevenue"][0];
    assert_eq!(revenue["mrrAmount"], 9_900);
    assert_eq!(revenue["discountedMrrAmount"], 0);
}

#[tokio::test]
async fn a_trial_pays_nothing_and_is_new_when_it_ends() {
    let books = Books::open().await;
    books.service.db.organization("cus_1").await;
    let mut trial = paying("sub_1", "cus_1", 9_900, "month", 1);
    trial["trial_start"] = json!(JANUARY);
    trial["trial_end"] = json!(FEBRUARY + DAY);
    let mut trying = trial.clone();
    trying["status"] = json!("trialing");
    books.happens("evt_1", JANUARY, trying).await;
    let figures = books.get("").await;
    assert_eq!(figures["recurringRevenue"], json!([]));
    assert_eq!(figures["trials"]["running"], 1);
    books.happens("evt_2", FEBRUARY + DAY + 5, trial).await;
    let page = books.get("/movements").await;
    assert_eq!(page["data"][0]["kind"], "new");
    assert_eq!(page["data"][0]["occurredAt"], "2026-02-02T00:00:00Z");
    assert_eq!(page["data"][0]["stripeEventId"], "evt_2");
}

#[tokio::test]
async fn an_event_that_comes_late_moves_nothing() {
    let books = Books::open().await;
    books.service.db.organization("cus_1").await;
    let one = |quantity| paying("sub_1", "cus_1", 100, "month", quantity);
    books.happens("evt_2", FEBRUARY, one(2)).await;
    books.happens("evt_1", JANUARY, one(1)).await;
    assert_eq!(moved(&books, "usd").await, as_owned(&[("new", 0, 200)]));
}

#[tokio::test]
async fn any_history_adds_up_and_booking_twice_or_at_once_books_once() {
    let books = Books::open().await;
    let mut dice = Dice::new(33);
    for customer in 1..=4 {
        books
            .service
            .db
            .organization(&format!("cus_{customer}"))
            .await;
    }
    for n in 0..60 {
        let customer = 1 + dice.below(4);
        let (amount, quantity) = (dice.pick(&[0, 100, 250, 990]), dice.pick(&[0, 1, 2]));
        let interval = dice.pick(&["month", "year"]);
        let id = format!("sub_{customer}_{}", dice.below(2));
        let mut object = paying(&id, &format!("cus_{customer}"), amount, interval, quantity);
        object["status"] = json!(dice.pick(&["active", "active", "past_due", "unpaid", "paused"]));
        let kind = "customer.subscription.updated";
        let event = event(&format!("evt_{n}"), kind, JANUARY + n * DAY, object);
        books.service.deliver(&event).await;
        if dice.below(3) == 0 {
            books.service.settle().await;
            tokio::join!(books.book(), books.book(), books.book());
        }
    }
    books.service.settle().await;
    books.book().await;
    books.book().await;
    assert_eq!(books.differences().await, 0);
    let db = &books.service.db;
    let broken = "(SELECT before_amount <> coalesce(lag(after_amount) OVER chain, 0)
                       OR sequence <> coalesce(lag(sequence) OVER chain, 0) + 1
                       OR occurred_at < lag(occurred_at) OVER chain AS broken
                     FROM billing_revenue_movements
                   WINDOW chain AS (PARTITION BY organization_id, currency ORDER BY sequence)) m
                  WHERE broken";
    assert_eq!(
        db.count(broken).await,
        0,
        "each movement goes on where the last one ended"
    );
    assert!(db.count("billing_revenue_movements").await > 10);
    let apart = "(SELECT month, currency, kind, movements, amount FROM reporting.mrr_movements
                  EXCEPT
                  SELECT date_trunc('month', occurred_at, 'UTC'), currency, kind, count(*),
                         sum(after_amount - before_amount)
                    FROM billing_revenue_movements GROUP BY 1, 2, 3) apart";
    assert_eq!(
        db.count(apart).await,
        0,
        "each month has what its movements come to"
    );
    let closing = db
        .value("SELECT closing_amount::text FROM reporting.mrr_months ORDER BY month DESC LIMIT 1")
        .await;
    let booked = db
        .value("SELECT coalesce(sum(amount), 0)::text FROM billing_revenue_balances")
        .await;
    assert_eq!(closing, booked);
}
