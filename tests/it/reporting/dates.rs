//! A movement has the time at which revenue changed, and the event that changed it.

use serde_json::{Value, json};

use super::{Books, DAY, FEBRUARY, JANUARY, MARCH, paying};
use crate::support::program::run_on;

/// A subscription of `amount` a month, begun in January.
fn monthly(id: &str, amount: i64) -> Value {
    paying(id, "cus_1", amount, "month", 1)
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

impl Books {
    async fn of_one() -> Self {
        let books = Self::open().await;
        books.service.db.organization("cus_1").await;
        books
    }
}

#[tokio::test]
async fn a_first_payment_that_comes_later_is_when_a_customer_is_new() {
    let books = Books::of_one().await;
    let waits = with(monthly("sub_1", 9_900), "status", json!("incomplete"));
    books.happens("evt_1", JANUARY + 30 * DAY, waits).await;
    books
        .happens("evt_2", FEBRUARY + DAY, monthly("sub_1", 9_900))
        .await;
    assert_eq!(
        books.dated().await,
        [json!(["new", "2026-02-02T00:00:00Z", "evt_2", 0, 9_900])]
    );
}

#[tokio::test]
async fn a_trial_that_was_never_seen_ends_where_the_event_says() {
    let books = Books::of_one().await;
    let object = with(
        monthly("sub_1", 9_900),
        "trial_end",
        json!(FEBRUARY + 3 * DAY),
    );
    let mut event = crate::support::events::event(
        "evt_1",
        "customer.subscription.updated",
        FEBRUARY + 3 * DAY + 40,
        object,
    );
    event["data"]["previous_attributes"] = json!({"status": "trialing"});
    books.service.deliver(&event).await;
    books.service.settle().await;
    books.book().await;
    assert_eq!(
        books.dated().await,
        [json!(["new", "2026-02-04T00:00:00Z", "evt_1", 0, 9_900])]
    );
}

#[tokio::test]
async fn a_free_subscription_is_new_when_it_is_paid_for() {
    let books = Books::of_one().await;
    books.happens("evt_1", JANUARY, monthly("sub_1", 0)).await;
    books
        .happens("evt_2", MARCH + DAY, monthly("sub_1", 9_900))
        .await;
    assert_eq!(
        books.dated().await,
        [json!(["new", "2026-03-02T00:00:00Z", "evt_2", 0, 9_900])]
    );
}

#[tokio::test]
async fn an_event_that_moved_nothing_dates_no_movement() {
    let books = Books::of_one().await;
    books.comes("evt_1", JANUARY, monthly("sub_1", 9_900)).await;
    books.happens("evt_2", JANUARY, monthly("sub_2", 100)).await;
    // Both come before the next booking: the other subscription's, and a later one of its own.
    books
        .comes("evt_3", FEBRUARY, monthly("sub_1", 19_800))
        .await;
    let named = |id, amount| with(monthly(id, amount), "metadata", json!({"any": "thing"}));
    books
        .comes("evt_4", FEBRUARY + 5 * DAY, named("sub_1", 19_800))
        .await;
    books
        .happens("evt_5", MARCH + DAY, named("sub_2", 100))
        .await;
    assert_eq!(
        books.dated().await[1..],
        [json!([
            "expansion",
            "2026-02-01T00:00:00Z",
            "evt_3",
            10_000,
            19_900
        ])]
    );
}

#[tokio::test]
async fn what_changes_twice_between_two_bookings_is_two_movements() {
    let books = Books::of_one().await;
    books.comes("evt_1", JANUARY, monthly("sub_1", 9_900)).await;
    // In either order of delivery.
    books.comes("evt_3", MARCH, monthly("sub_1", 4_900)).await;
    books
        .happens("evt_2", FEBRUARY, monthly("sub_1", 19_800))
        .await;
    let expected = [
        json!(["new", "2026-01-01T00:00:00Z", "evt_1", 0, 9_900]),
        json!(["expansion", "2026-02-01T00:00:00Z", "evt_2", 9_900, 19_800]),
        json!([
            "contraction",
            "2026-03-01T00:00:00Z",
            "evt_3",
            19_800,
            4_900
        ]),
    ];
    assert_eq!(books.dated().await, expected);

    // A journal that says otherwise is written anew.
    let db = &books.service.db;
    db.execute("UPDATE billing_revenue_movements SET occurred_at = '2026-01-05T00:00:00Z'")
        .await;
    db.execute("UPDATE billing_revenue_months SET amount = amount + 1")
        .await;
    let rebuilt = run_on(db, &["figures", "rebuild", "--yes", "--json"]).await;
    assert_eq!(rebuilt.status, 0, "{}", rebuilt.stderr);
    let printed: Value = serde_json::from_str(&rebuilt.stdout).unwrap();
    assert_eq!(printed, json!({"movements": 3}));
    assert_eq!(books.dated().await, expected);
    let apart = "(SELECT month, currency, kind, movements, amount FROM billing_revenue_months
                  EXCEPT
                  SELECT date_trunc('month', occurred_at, 'UTC'), currency, kind, count(*),
                         sum(after_amount - before_amount)
                    FROM billing_revenue_movements GROUP BY 1, 2, 3) apart";
    assert_eq!(db.count(apart).await, 0);
    let without_a_word = run_on(db, &["figures", "rebuild"]).await;
    assert_eq!(without_a_word.status, 2);
}
