//! Who uses a running service, and sees whether each of its parts works.

use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tokio::task::JoinSet;
use valuecanvas_billing::http_client;

use crate::support::events::{self, sign};
use crate::support::program::{program, run};
use crate::support::service::WEBHOOKS;

const PATIENCE: Duration = Duration::from_secs(40);
/// Parts that were done when the service had started: they run no more.
const DONE: [&str; 2] = ["plan_versions", "catalogue_follower"];

pub struct Caller {
    pub base: String,
    pub client: Client,
    /// Of the database, as its superuser.
    pub admin: PgConnectOptions,
    organization: String,
    key: String,
    number: Cell<u32>,
}

fn ran(mut command: Command) -> Value {
    let ran = run(&mut command);
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    ran.json()
}

impl Caller {
    /// Makes an organization and a key, in the database at `url` of the
    /// service's login.
    pub fn new(base: &str, url: &str, admin: PgConnectOptions) -> Self {
        let command = |arguments: &[&str]| {
            let mut command = program(arguments);
            command.env("DATABASE_URL", url);
            command
        };
        let new = ["organizations", "create", "--name", "One", "--json"];
        let customer = ["--stripe-customer", "cus_one"];
        let made = ran(command(&[&new[..], &customer].concat()));
        let organization = made["id"].as_str().unwrap().to_owned();
        let scopes = ["usage.write", "billing.read", "agents.execute"];
        let scopes = scopes.map(|scope| ["--scope", scope]).concat();
        let new = ["api-keys", "create", "--json", "--organization"];
        let made = ran(command(&[&new[..], &[&organization], &scopes].concat()));
        Self {
            base: base.to_owned(),
            client: http_client::direct_client().unwrap(),
            admin,
            organization,
            key: made["key"].as_str().unwrap().to_owned(),
            number: Cell::new(0),
        }
    }

    /// Many who read at once, again and again, until they are dropped: they make
    /// the pool of requests open all that it may.
    pub fn crowd(&self) -> JoinSet<()> {
        let url = format!("{}/api/billing/usage", self.base);
        let request = || self.client.get(&url).bearer_auth(&self.key);
        (0..16)
            .map(|_| request())
            .map(|request| async move {
                loop {
                    let _ = request.try_clone().unwrap().send().await;
                }
            })
            .collect()
    }

    /// Delivers until several deliveries in a row were stored.
    pub async fn until_deliveries_are_stored(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut stored = 0;
        while stored < 5 {
            stored = match self.deliver().await.1 {
                200 => stored + 1,
                _ => 0,
            };
            assert!(std::time::Instant::now() < deadline, "{stored} stored");
        }
    }

    /// The status of an answer, and its body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let request = self.client.get(format!("{}{path}", self.base));
        let answer = request.bearer_auth(&self.key).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap())
    }

    /// Why it is not ready, on 503.
    pub async fn readiness(&self) -> (u16, String) {
        self.get("/readyz").await
    }

    /// Waits until readiness is as wanted; what it last said.
    pub async fn until_readiness(&self, wanted: u16) -> String {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.readiness().await;
            if status == wanted {
                return body;
            }
            assert!(std::time::Instant::now() < deadline, "{status} {body}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Delivers an event; its id, and the status of the answer.
    pub async fn deliver(&self) -> (String, u16) {
        self.number.set(self.number.get() + 1);
        let id = format!("evt_{}_{}", self.number.get(), std::process::id());
        let created = 1_760_000_000 + i64::from(self.number.get());
        let subscription = events::subscription("sub_one", "cus_one", "active", "standard");
        let event = events::event(&id, "customer.subscription.updated", created, subscription);
        let body = event.to_string();
        let request = self.client.post(format!("{}{WEBHOOKS}", self.base));
        let signed = request.header("stripe-signature", sign(body.as_bytes()));
        let answer = signed.body(body).send().await.unwrap();
        (id, answer.status().as_u16())
    }

    /// Counts one use.
    pub async fn consume(&self) -> (u16, String) {
        let url = format!("{}/api/billing/usage/check", self.base);
        let body = json!({"metric": "api_calls", "quantity": 1, "consume": true});
        let request = self.client.post(url).bearer_auth(&self.key).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn connect(&self) -> PgConnection {
        self.admin.connect().await.unwrap()
    }

    pub async fn execute(&self, sql: &str) {
        let mut conn = self.connect().await;
        let done = conn.execute(AssertSqlSafe(sql.to_owned())).await;
        done.unwrap_or_else(|e| panic!("{sql}: {e}"));
        conn.close().await.unwrap();
    }

    pub async fn count(&self, table_and_condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {table_and_condition}");
        let mut conn = self.connect().await;
        let counted = sqlx::query_scalar(AssertSqlSafe(sql));
        let counted = counted.fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        counted
    }

    pub async fn until_none(&self, table_and_condition: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.count(table_and_condition).await > 0 {
            let waited = std::time::Instant::now() < deadline;
            assert!(waited, "still there: {table_and_condition}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Intake, processing, usage, reading, probes and metrics, each at the first
    /// try.
    pub async fn requests_work(&self) {
        let (id, delivered) = self.deliver().await;
        assert_eq!(delivered, 200, "a delivery");
        let (consumed, body) = self.consume().await;
        assert_eq!(consumed, 200, "a use: {body}");
        for path in ["/api/billing/usage", "/api/billing/invoices", "/readyz"] {
            let (status, body) = self.get(path).await;
            assert_eq!(status, 200, "{path}: {body}");
        }
        let (status, metrics) = self.get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("\nbilling_database_connections{pool=\"api\""));
        self.until_none(&format!(
            "(SELECT 1) one WHERE NOT EXISTS (SELECT FROM webhook_events
              WHERE stripe_event_id = '{id}' AND processed)"
        ))
        .await;
    }

    /// Requests, and what happens without any: sweepers and sender.
    pub async fn every_part_works(&self, sends_alerts: bool) {
        self.requests_work().await;
        let organization = &self.organization;
        self.execute(&format!(
            "INSERT INTO grace_periods (organization_id, metric, period_start, period_end, quota,
                                        usage_at_start, started_at, expires_at)
             VALUES ('{organization}', 'api_calls', now() - interval '2 days', now() + interval '1 day',
                     1, 1, now() - interval '2 hours', now() - interval '1 hour');
             INSERT INTO usage_reservations (organization_id, id, metric, period_start, quantity,
                                             reserved_at, expires_at)
             VALUES ('{organization}', gen_random_uuid(), 'api_calls', now() - interval '2 days', 1,
                     now() - interval '2 hours', now() - interval '1 hour');
             INSERT INTO usage_alerts (organization_id, metric, period_start, threshold, id, period_end,
                                       usage, quota, raised_at, next_attempt_at)
             VALUES ('{organization}', 'api_calls', now() - interval '2 days', 80, gen_random_uuid(),
                     now() + interval '1 day', 80, 100, now(), now())"
        ))
        .await;
        if sends_alerts {
            self.until_none("usage_alerts WHERE delivered_at IS NULL")
                .await;
        }
        self.until_none("usage_reservations WHERE expires_at < now()")
            .await;
        self.until_none("grace_periods WHERE ended_at IS NULL")
            .await;
    }

    /// A forwarded call, by the agent that is built in.
    async fn execute_agent(&self) {
        let url = format!("{}/api/agents/execute", self.base);
        let body = json!({"agentId": "echo", "input": {}});
        let request = self.client.post(url).bearer_auth(&self.key).json(&body);
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        assert_eq!(status, 200, "{}", answer.text().await.unwrap());
    }

    /// A delivery that is refused.
    async fn deliver_forged(&self) {
        let request = self.client.post(format!("{}{WEBHOOKS}", self.base));
        let forged = format!(
            "t={},v1={}",
            jiff::Timestamp::now().as_second(),
            "0".repeat(64)
        );
        let signed = request.header("stripe-signature", forged);
        let answer = signed.body("{}").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 400);
    }

    /// Waits until each part with a period of at most `longest` seconds has run since
    /// now, and none fails; forwarded calls, refused deliveries and what other replicas
    /// notify are seen to.
    pub async fn every_part_runs_again(&self, longest: f64) {
        self.execute_agent().await;
        self.until_none(
            "(SELECT 1) one WHERE NOT EXISTS (SELECT FROM pg_stat_activity
              WHERE datname = current_database() AND query LIKE 'LISTEN%')",
        )
        .await;
        let since = jiff::Timestamp::now().as_second() as f64;
        let deadline = std::time::Instant::now() + PATIENCE + Duration::from_secs_f64(longest);
        loop {
            // Their part runs only if there are some.
            self.deliver_forged().await;
            let (_, metrics) = self.get("/metrics").await;
            let of_parts = |name: &str| -> Vec<(String, f64)> {
                let prefix = format!("background_part_{name}{{part=\"");
                let lines = metrics.lines();
                let series =
                    lines.filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "));
                series
                    .map(|(part, value)| (part.to_owned(), value.parse().unwrap()))
                    .collect()
            };
            let periods = of_parts("period_seconds");
            let is_awaited = |part: &str| {
                let period = periods.iter().find(|(name, _)| name == part);
                period.is_some_and(|(_, period)| *period <= longest) && !DONE.contains(&part)
            };
            let runs = of_parts("last_run_timestamp_seconds");
            assert!(runs.len() >= 12, "{runs:?}");
            let late = runs.into_iter();
            let late = late.filter(|(part, at)| is_awaited(part) && *at <= since);
            let failing = of_parts("failing").into_iter();
            let failing = failing.filter(|(_, is_failing)| *is_failing > 0.0);
            let wrong: Vec<(String, f64)> = late.chain(failing).collect();
            if wrong.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{wrong:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}
