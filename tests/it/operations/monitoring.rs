//! Alerts and dashboards, by Prometheus itself.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::http_client;

use crate::metering::tenant::Tenant;
use crate::support::events;
use crate::support::ports::reserved;
use crate::support::serving::{Serving, serve_on};
use crate::support::{TestDatabase, TestService};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn promtool(arguments: &[&str], folder: &str) -> (bool, String) {
    let ran = Command::new("promtool")
        .args(arguments)
        .current_dir(format!("{ROOT}/{folder}"))
        .output()
        .expect("promtool is installed: run scripts/setup test");
    let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
    (ran.status.success(), said.into_owned())
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let folder = "monitoring/alerts";
    for arguments in [
        ["check", "rules", "billing.yaml"],
        ["test", "rules", "billing_test.yaml"],
        ["test", "rules", "billing_days_test.yaml"],
    ] {
        let (passed, said) = promtool(&arguments, folder);
        assert!(passed, "{said}");
    }
    let read = |name: &str| std::fs::read_to_string(format!("{ROOT}/{name}")).unwrap();
    let rules = read("monitoring/alerts/billing.yaml");
    let tests = read("monitoring/alerts/billing_test.yaml")
        + &read("monitoring/alerts/billing_days_test.yaml");
    let runbook = read("docs/runbook.md");
    for line in rules.lines() {
        let Some(alert) = line.trim().strip_prefix("- alert: ") else {
            continue;
        };
        let named = format!("alertname: {alert}\n");
        assert!(tests.matches(&named).count() >= 1, "{alert} is not tested");
        assert!(
            runbook.contains(&format!("## {alert}\n")),
            "{alert} is not in the runbook"
        );
        let fires = tests
            .split(&named)
            .skip(1)
            .any(|rest| rest.trim_start().starts_with("exp_alerts:\n"));
        assert!(fires, "{alert} never fires in its test");
    }
    for alert in runbook.lines().filter_map(|line| line.strip_prefix("## ")) {
        let rule = format!("- alert: {alert}\n");
        assert!(
            rules.contains(&rule),
            "the runbook has {alert}, which is no alert"
        );
    }
}

/// The names in backticks of a row's first cell, labels left out; `…_rest`
/// shares the beginning of the name before it.
fn documented_metrics() -> Vec<String> {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let (table, _) = page
        .split_once("\n## ")
        .expect("a table before the sections");
    let cells = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    cells
        .flat_map(|cell| cell.split('`').step_by(2))
        .map(|name| name.split('{').next().unwrap().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn each_metric_is_documented_and_each_documented_one_is_measured() {
    let source: String = std::fs::read_dir(format!("{ROOT}/src/telemetry/metrics"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let measured: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.strip_prefix("const ")?.split_once(": &str = \""))
        .filter_map(|(_, value)| value.strip_suffix("\";"))
        .collect();
    assert!(measured.len() > 40, "{measured:?}");
    let documented = documented_metrics();
    for name in &measured {
        let known = documented.iter().any(|said| match said.strip_prefix('…') {
            Some(end) => name.ends_with(end),
            None => name == said,
        });
        assert!(known, "docs/metrics.md lacks {name}");
    }
    for said in &documented {
        let known = match said.strip_prefix('…') {
            Some(end) => measured.iter().any(|name| name.ends_with(end)),
            None => measured.contains(said.as_str()),
        };
        assert!(known, "docs/metrics.md has {said}, which nothing measures");
    }
}

/// What begins with the first one: a route or a call has many durations.
const WITH_THE_FIRST: [&str; 1] = ["stripe_api_duration_seconds"];

/// A rate or an alert sees the first one only of a series that was there before.
#[tokio::test]
async fn a_fresh_service_has_a_series_of_every_documented_metric() {
    let db = TestDatabase::new().await;
    // The program itself: in this process other tests have counted, too.
    let serving = Serving::on(&db);
    let client = http_client::direct_client().unwrap();
    let get = |path: &str| client.get(format!("{}{path}", serving.base)).send();
    assert_eq!(get("/healthz").await.unwrap().status(), 200);
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    let names: BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let has = |said: &str| {
        let histogram = format!("{said}_count");
        match said.strip_prefix('…') {
            Some(end) => {
                let histogram = format!("{end}_count");
                names
                    .iter()
                    .any(|n| n.ends_with(end) || n.ends_with(&histogram))
            }
            None => names.contains(said) || names.contains(&*histogram),
        }
    };
    let lacking: Vec<String> = documented_metrics()
        .into_iter()
        .filter(|name| !has(name) && !WITH_THE_FIRST.contains(&&**name))
        .collect();
    assert_eq!(lacking, Vec::<String>::new());

    // Each metric of the catalogue with each outcome that the page names.
    let page = std::fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let row = page
        .lines()
        .find(|line| line.contains("`quota_decisions_total{"))
        .unwrap();
    let outcomes: Vec<&str> = row
        .split('`')
        .skip(3)
        .step_by(2)
        .filter(|name| *name != "grace_max")
        .collect();
    assert_eq!(outcomes.len(), 9, "{outcomes:?}");
    let catalogue = Catalogue::load(None).unwrap();
    assert!(catalogue.metrics().len() > 1);
    for metric in catalogue.metrics().keys() {
        for outcome in &outcomes {
            let series =
                format!("quota_decisions_total{{outcome=\"{outcome}\",metric=\"{metric}\"}} 0");
            assert!(metrics.lines().any(|line| line == series), "{series}");
        }
        let series = format!("grace_periods_active{{metric=\"{metric}\"}} 0");
        assert!(metrics.lines().any(|line| line == series), "{series}");
    }
    assert_eq!(serving.terminated().await.status, 0);
}

/// The parts in the table of docs/metrics.md, and the period of each in seconds.
fn documented_parts() -> BTreeSet<(String, String)> {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/metrics.md")).unwrap();
    let (_, section) = page.split_once("## Background parts\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let period = match cells[2] {
            "" => "0",
            period => period.strip_suffix(" s").expect("a period in seconds"),
        };
        let names = cells[1].split('`').skip(1).step_by(2);
        names
            .map(|name| (name.to_owned(), period.to_owned()))
            .collect::<Vec<_>>()
    })
    .collect()
}

#[tokio::test]
async fn each_background_part_is_documented_with_its_period() {
    let db = TestDatabase::new().await;
    let scrapes = reserved();
    let mut command = serve_on(&db);
    command
        .env("METRICS_ADDR", scrapes.to_string())
        .env("AUTH_JWKS_URL", "http://127.0.0.1:1/")
        .env("AUTH_ISSUER", "https://id.example.com/")
        .env("AUTH_AUDIENCE", "billing")
        .env("SMTP_URL", "smtp://127.0.0.1:1")
        .env("MAIL_FROM", "billing@acme.example")
        .env("APPLICATION_WEBHOOK_URL", "http://127.0.0.1:1/")
        .env(
            "APPLICATION_WEBHOOK_SECRET",
            "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        );
    let serving = Serving::start(&mut command);
    let client = http_client::direct_client().unwrap();
    let scrape = client.get(format!("http://{scrapes}/metrics")).send();
    let metrics = scrape.await.unwrap().text().await.unwrap();
    let running: BTreeSet<(String, String)> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("background_part_period_seconds{part=\""))
        .map(|rest| rest.split_once("\"} ").unwrap())
        .map(|(part, period)| (part.to_owned(), period.to_owned()))
        .collect();
    assert_eq!(running, documented_parts());
    // Those with a period have run, or will.
    for (part, period) in &running {
        let series = format!("background_part_runs_total{{part=\"{part}\",result=\"failed\"}} ");
        let counted = metrics.lines().any(|line| line.starts_with(&series));
        assert_eq!(counted, period != "0", "{part}");
    }
    assert_eq!(serving.terminated().await.status, 0);
}

/// Debian's Prometheus, which scrapes one service.
pub struct Prometheus {
    child: Child,
    base: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn of(service: &TestService) -> Self {
        Self::configured(service, "")
    }

    /// With `more` in its configuration.
    pub fn configured(service: &TestService, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = reserved();
        let config = folder.path().join("prometheus.yml");
        let target = service.base.strip_prefix("http://").unwrap();
        let alerts = format!("{ROOT}/monitoring/alerts/billing.yaml");
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s}}\nrule_files: [\"{alerts}\"]\n\
                 scrape_configs: [{{job_name: billing, static_configs: [{{targets: [\"{target}\"]}}]}}]\n\
                 {more}\n"
            ),
        )
        .unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed: run scripts/setup test");
        Self {
            child,
            base: format!("http://{address}"),
            _folder: folder,
        }
    }

    async fn query(&self, client: &reqwest::Client, expression: &str) -> Value {
        let url = format!("{}/api/v1/query", self.base);
        let answer = client.get(url).query(&[("query", expression)]).send().await;
        match answer {
            // While it starts it answers in words.
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The expressions of a dashboard, with their panels.
fn expressions(dashboard: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(format!("{ROOT}/monitoring/dashboards/{dashboard}.json"));
    let dashboard: Value = serde_json::from_str(&text.unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets
            .into_iter()
            .map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned()))
    };
    panels.iter().flat_map(of_panel).collect()
}

/// The metrics that an expression names.
fn names(expression: &str) -> BTreeSet<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            [
                "stripe_", "webhook_", "grace_", "billing_", "quota_", "usage_",
            ]
            .iter()
            .any(|prefix| word.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

/// Makes everything happen once that a panel shows.
async fn traffic(service: &TestService) {
    let tenant = Tenant::of(service, "Watched").await;
    tenant.set_quota(service, "api_calls", "1", None).await;
    for _ in 0..3 {
        tenant.consume(service, "api_calls", 1).await.ok();
    }
    service
        .db
        .execute("UPDATE grace_periods SET started_at = now() - interval '2 days', expires_at = now() - interval '1 day'")
        .await;
    assert_eq!(tenant.consume(service, "api_calls", 1).await.status, 402);
    let body = serde_json::json!({"id": "a", "metric": "llm_tokens", "quantity": 1});
    tenant
        .post(service, crate::metering::tenant::EVENTS, &body)
        .await
        .ok();
    service
        .db
        .execute(&format!(
            "INSERT INTO billing_customers (stripe_customer_id, organization_id) VALUES ('cus_watched', '{}')",
            tenant.organization
        ))
        .await;
    let subscription = events::subscription("sub_w", "cus_watched", "active", "standard");
    service
        .deliver(&events::event(
            "evt_w",
            "customer.subscription.created",
            1_700_000_000,
            subscription,
        ))
        .await;
    service.settle().await;
}

#[tokio::test]
async fn every_panel_shows_what_the_service_measures() {
    let service = TestService::start().await;
    traffic(&service).await;
    let metrics = service
        .get("/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&checked.stderr).into_owned();
    // CONTRACT names a gauge by a counter's suffix.
    let others: Vec<&str> = complaints
        .lines()
        .filter(|line| !line.starts_with("grace_periods_active_total "))
        .collect();
    assert_eq!(others, Vec::<&str>::new());

    let prometheus = Prometheus::of(&service);
    let scraped = "scrape_samples_scraped > 0 and count_over_time(up[1m]) > 3";
    for attempt in 0.. {
        let found = prometheus.query(&service.client, scraped).await;
        if found["data"]["result"]
            .as_array()
            .is_some_and(|found| !found.is_empty())
        {
            break;
        }
        assert!(attempt < 300, "prometheus does not scrape: {found}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for dashboard in ["webhook-processing", "grace-periods", "audit-log"] {
        let shown = expressions(dashboard);
        assert!(shown.len() >= 4);
        for (panel, expression) in shown {
            let answer = prometheus.query(&service.client, &expression).await;
            assert_eq!(
                answer["status"], "success",
                "{panel}: {expression}: {answer}"
            );
            for name in names(&expression) {
                let found = metrics.lines().any(|line| {
                    line.starts_with(&name) || line.starts_with(&format!("# TYPE {name} "))
                });
                assert!(found, "{panel}: {name} is not in /metrics");
            }
        }
    }
    // Those whose series cannot be missing show a number.
    for expression in [
        "max(webhook_dead_letter_queue_size)",
        "max(grace_periods_active_total)",
        "max(billing_audit_log_bytes)",
        "sum(billing_audit_log_entries_total{action=\"quota_set\"}) or vector(0)",
    ] {
        let answer = prometheus.query(&service.client, expression).await;
        assert_eq!(
            answer["data"]["result"].as_array().map(Vec::len),
            Some(1),
            "{expression}"
        );
    }
}

#[test]
fn the_guides_panels_are_there() {
    for (dashboard, panels) in [
        (
            "webhook-processing",
            &[
                "Events received per minute",
                "Processing success rate",
                "Retry attempts",
                "Dead letter queue size",
            ][..],
        ),
        (
            "grace-periods",
            &[
                "Active grace periods by metric",
                "Expiration rate",
                "Conversion rate (grace → upgrade)",
            ],
        ),
        (
            "audit-log",
            &["Actions per minute", "Actions by type", "Storage growth"],
        ),
    ] {
        let shown = expressions(dashboard);
        for panel in panels {
            assert!(
                shown.iter().any(|(title, _)| title == panel),
                "{dashboard}: {panel}"
            );
        }
    }
}
