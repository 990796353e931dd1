//! Who may read figures: operators and the owner, and no tenant.

use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::{Books, JANUARY, paying};
use crate::support::TestDatabase;

const VIEWS: [&str; 10] = [
    "recurring_items",
    "recurring_revenue",
    "unknown_taxes",
    "mrr",
    "mrr_movements",
    "mrr_months",
    "trials",
    "past_due",
    "usage_at_risk",
    "customers",
];

#[tokio::test]
async fn every_view_is_listed_here_and_requests_read_none() {
    let db = TestDatabase::new().await;
    let there = db
        .value(
            "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
              WHERE relnamespace = 'reporting'::regnamespace",
        )
        .await;
    let mut known = VIEWS;
    known.sort_unstable();
    assert_eq!(there, known.join(" "));
    let mut conn = db.pool.acquire().await.unwrap();
    for view in VIEWS {
        for (role, may) in [
            ("billing_app", false),
            ("billing_worker", true),
            ("billing_owner", true),
        ] {
            let mut tx = sqlx::Connection::begin(&mut *conn).await.unwrap();
            tx.execute(AssertSqlSafe(format!("SET LOCAL ROLE {role}")))
                .await
                .unwrap();
            let read = tx
                .execute(AssertSqlSafe(format!("SELECT * FROM reporting.{view}")))
                .await;
            assert_eq!(read.is_ok(), may, "{view} by {role}: {read:?}");
            tx.rollback().await.unwrap();
        }
    }
}

#[tokio::test]
async fn behind_the_views_an_organization_sees_its_own_rows_only() {
    let books = Books::open().await;
    let ours = books.service.db.organization("cus_1").await;
    books.service.db.organization("cus_2").await;
    for n in [1, 2] {
        let object = paying(
            &format!("sub_{n}"),
            &format!("cus_{n}"),
            100 * n,
            "month",
            1,
        );
        books.happens(&format!("evt_{n}"), JANUARY, object).await;
    }
    let mut conn = books.service.db.pool.acquire().await.unwrap();
    let mut tx = sqlx::Connection::begin(&mut *conn).await.unwrap();
    let setting = format!("SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = '{ours}'");
    tx.execute(sqlx::raw_sql(AssertSqlSafe(setting)))
        .await
        .unwrap();
    for (view, amount) in [
        ("SELECT sum(mrr_amount)::bigint FROM reporting.mrr", 100),
        (
            "SELECT sum(amount)::bigint FROM reporting.recurring_revenue",
            100,
        ),
        ("SELECT count(*) FROM reporting.mrr_movements", 0),
        ("SELECT count(*) FROM reporting.customers", 1),
    ] {
        let row = tx.fetch_one(view).await.unwrap();
        assert_eq!(row.get::<i64, _>(0), amount, "{view}");
    }
}
