//! The planner's settings, each by the plan that it avoids. The statements are
//! those that the code runs, as they are recorded for the compile-time checks.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use valuecanvas_billing::db::{self, planner};

use crate::architecture::sources;
use crate::support::TestDatabase;

/// The recorded queries that stand in files below `folder`, with their number
/// of parameters.
fn recorded(folder: &str) -> Vec<(String, usize)> {
    let source: String = sources(folder).into_iter().map(|(_, text)| text).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let query = record["query"].as_str().unwrap().to_owned();
        if source.contains(&query) {
            let parameters = &record["describe"]["parameters"]["Left"];
            queries.push((query, parameters.as_array().unwrap().len()));
        }
    }
    queries
}

/// The plan of a prepared statement whose parameters are all null.
async fn plan(conn: &mut PgConnection, query: &str, parameters: usize) -> String {
    let nulls = vec!["NULL"; parameters].join(", ");
    let arguments = match parameters {
        0 => String::new(),
        _ => format!("({nulls})"),
    };
    run(conn, &format!("PREPARE looked_at AS {query}")).await;
    let explain = format!("EXPLAIN (COSTS OFF) EXECUTE looked_at{arguments}");
    let rows = conn
        .fetch_all(sqlx::raw_sql(AssertSqlSafe(explain)))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{query}"));
    run(conn, "DEALLOCATE looked_at").await;
    let lines = rows.iter().map(|row| row.get::<String, _>(0));
    lines.collect::<Vec<_>>().join("\n")
}

async fn run(conn: &mut PgConnection, sql: &str) {
    conn.execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .unwrap_or_else(|error| panic!("{error}\n{sql}"));
}

/// A session of the service's, with these settings.
async fn session(db: &TestDatabase, settings: &[&str]) -> PgConnection {
    let mut conn = db::connect(&db.service()).await.unwrap();
    run(&mut conn, "SET ROLE billing_worker").await;
    for setting in settings {
        run(&mut conn, setting).await;
    }
    conn
}

/// How many of the statements read one of these tables from end to end, by
/// plans that are made now and kept.
async fn read_whole(
    conn: &mut PgConnection,
    queries: &[(String, usize)],
    tables: &[&str],
) -> usize {
    let mut whole = 0;
    for (query, parameters) in queries {
        let plan = plan(conn, query, *parameters).await;
        let reads = |table: &&str| plan.contains(&format!("Seq Scan on {table}"));
        if tables.iter().any(reads) {
            whole += 1;
        }
    }
    whole
}

/// The backlog of a day without workers.
const BACKLOG: &str = "INSERT INTO webhook_events
       (bucket, stripe_event_id, event_type, livemode, event_created_at, payload, received_at)
  SELECT n % 1024, 'evt_' || n, 'charge.succeeded', false, now(), '{}', now() - n * interval '1 s'
    FROM generate_series(1, 20000) n";

#[tokio::test]
async fn a_claim_takes_the_head_of_the_queue_by_its_index() {
    let db = TestDatabase::new().await;
    db.execute(BACKLOG).await;
    db.execute("ANALYZE webhook_events").await;
    let queries = recorded("src/webhooks/store");
    // A claim, and what makes all due that waits.
    let of_queue = |query: &str| {
        query.starts_with("WITH first AS MATERIALIZED")
            || query.starts_with("WITH waiting AS MATERIALIZED")
    };
    let of_queue: Vec<_> = queries
        .iter()
        .filter(|(query, _)| of_queue(query))
        .collect();
    assert_eq!(of_queue.len(), 2, "both are recorded");
    let mut conn = session(&db, &[]).await;
    let by_index = "Index Scan using webhook_events_due_idx";
    let mut without = Vec::new();
    for settings in ["", planner::HEAD_OF_QUEUE] {
        for (query, parameters) in &of_queue {
            let mut tx = conn.begin().await.unwrap();
            run(&mut tx, "SET LOCAL plan_cache_mode = force_generic_plan").await;
            run(&mut tx, settings).await;
            let plan = plan(&mut tx, query, *parameters).await;
            tx.rollback().await.unwrap();
            match settings {
                "" => without.push(plan),
                _ => assert!(plan.contains(by_index), "{plan}"),
            }
        }
    }
    let reads_all = |plan: &String| !plan.contains(by_index);
    assert!(without.iter().any(reads_all), "{without:?}");
}

/// Statistics of before the backlog was processed make an index of what is processed look
/// empty, and its condition cheaper to ask than a key.
#[tokio::test]
async fn events_are_found_by_their_keys_whatever_was_processed_since() {
    let db = TestDatabase::new().await;
    db.execute(BACKLOG).await;
    db.execute("ANALYZE webhook_events").await;
    db.execute("UPDATE webhook_events SET processed = true, processed_at = now()")
        .await;
    let queries = recorded("src/projection");
    let queries: Vec<_> = queries
        .iter()
        .filter(|(query, _)| query.contains("UPDATE webhook_events"))
        .collect();
    assert!(!queries.is_empty());
    let mut conn = session(&db, &[]).await;
    for (query, parameters) in queries {
        let plan = plan(&mut conn, query, *parameters).await;
        assert!(plan.contains("webhook_events_pkey"), "{plan}\n{query}");
    }
}

#[tokio::test]
async fn a_claim_locks_no_more_than_it_takes() {
    let db = TestDatabase::new().await;
    db.execute(BACKLOG).await;
    db.execute("ANALYZE webhook_events").await;
    let queries = recorded("src/webhooks/store");
    let claim = queries
        .iter()
        .find(|(query, _)| query.contains("SET lease_id = $1"));
    let (claim, _) = claim.expect("claims are recorded");
    // A nested loop runs a sub-select again for each row.
    let loops = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";
    for settings in ["", loops] {
        let mut conn = session(&db, &[]).await;
        let mut tx = conn.begin().await.unwrap();
        run(&mut tx, settings).await;
        run(&mut tx, &format!("PREPARE claim AS {claim}")).await;
        let lease = "EXECUTE claim(gen_random_uuid(), 10, 60, NULL, 1000000000)";
        let taken = tx
            .fetch_all(sqlx::raw_sql(AssertSqlSafe(lease.to_owned())))
            .await
            .unwrap();
        assert_eq!(taken.len(), 10);
        // Whoever else comes finds all others.
        let mut other = session(&db, &[]).await;
        let mut beside = other.begin().await.unwrap();
        let left = "SELECT FROM webhook_events FOR UPDATE SKIP LOCKED";
        let left = beside
            .fetch_all(sqlx::raw_sql(AssertSqlSafe(left.to_owned())))
            .await
            .unwrap();
        assert_eq!(left.len(), 20_000 - 10, "{settings}");
        beside.rollback().await.unwrap();
        tx.rollback().await.unwrap();
    }
}

/// An organization's first use.
const FIRST_USE: &str = "INSERT INTO usage_totals
       (organization_id, metric, period_start, period_end, total, reserved, events, last_at,
        last_event_id, alerted, updated_at)
  SELECT id, 'llm_tokens', now(), now() + interval '1 day', 1, 0, 1, now(), 'a', 0, now()
    FROM organizations;
  INSERT INTO usage_events
       (organization_id, event_id, metric, quantity, occurred_at, recorded_at, period_start, metadata)
  SELECT id, 'a', 'llm_tokens', 1, now(), now(), now(), '{}' FROM organizations";

#[tokio::test]
async fn the_ledger_reads_no_table_whole_by_plans_made_while_it_was_small() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    db.execute(FIRST_USE).await;
    db.execute("ANALYZE").await;
    let queries = recorded("src/metering/ledger/store");
    assert!(queries.len() > 20, "{}", queries.len());
    let tables = ["usage_totals", "usage_events"];
    let mut planned = session(&db, &[planner::PLAN_ONCE]).await;
    assert!(read_whole(&mut planned, &queries, &tables).await > 0);
    let mut by_key = session(&db, &[planner::PLAN_ONCE, planner::JOIN_BY_KEY]).await;
    assert_eq!(read_whole(&mut by_key, &queries, &tables).await, 0);
}

#[tokio::test]
async fn credentials_are_found_by_plans_made_while_there_were_few() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    db.execute("ANALYZE").await;
    let mut queries = recorded("src/tenancy/auth");
    queries.retain(|(query, _)| query.contains("_hash = ANY($1)") && query.starts_with("SELECT"));
    assert_eq!(
        queries.len(),
        6,
        "sessions and keys of each kind, and codes"
    );
    let tables = [
        "organizations",
        "api_keys",
        "user_sessions",
        "users",
        "operator_api_keys",
        "portal_sessions",
    ];
    let mut planned = session(&db, &[planner::PLAN_ONCE]).await;
    assert!(read_whole(&mut planned, &queries, &tables).await > 0);
    let mut by_key = session(&db, &[planner::PLAN_ONCE, planner::JOIN_BY_KEY]).await;
    assert_eq!(read_whole(&mut by_key, &queries, &tables).await, 0);
}

#[tokio::test]
async fn previews_are_made_by_plans_made_while_there_was_little() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    db.execute(FIRST_USE).await;
    db.execute("ANALYZE").await;
    let the = |folder, part: &str| {
        let mut queries = recorded(folder);
        queries.retain(|(query, _)| query.contains(part));
        assert_eq!(queries.len(), 1, "{part}");
        queries.remove(0)
    };
    let queries = [
        the("src/subscriptions", r#"AS "customer_discounted!""#),
        the("src/projection", "AS k(organization_id, subscription_id)"),
        the(
            "src/metering/reports",
            "A subscription that ends as scheduled",
        ),
    ];
    let tables = [
        "organizations",
        "usage_totals",
        "usage_quotas",
        "billing_subscriptions",
        "billing_customers",
        "billing_applied_events",
    ];
    let mut planned = session(&db, &[planner::PLAN_ONCE]).await;
    assert!(read_whole(&mut planned, &queries, &tables).await > 0);
    let mut by_key = session(&db, &[planner::PLAN_ONCE, planner::JOIN_BY_KEY]).await;
    assert_eq!(read_whole(&mut by_key, &queries, &tables).await, 0);
}

/// Row-level security asks for the organization of each row: as an expression,
/// not as a call, which took longer than many of the rows.
#[tokio::test]
async fn policies_call_no_function_for_each_row() {
    let db = TestDatabase::new().await;
    let mut conn = session(&db, &[]).await;
    let plan = plan(&mut conn, "SELECT * FROM usage_events", 0).await;
    assert!(plan.contains("current_setting"), "{plan}");
    assert!(!plan.contains("get_current_org_id"), "{plan}");
}
