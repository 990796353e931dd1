//! `PUSHGATEWAY_URL`, against Prometheus's own gateway.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::support::events::{event, invoice};
use crate::support::ports::reserved;
use crate::support::program::{Ran, program_on, run};
use crate::support::{TestDatabase, TestService};

/// A gateway on a free port, stopped with the test.
struct Gateway {
    child: Child,
    url: String,
}

impl Gateway {
    async fn start() -> Self {
        let address = reserved();
        let child = Command::new("prometheus-pushgateway")
            .arg(format!("--web.listen-address={address}"))
            .arg("--persistence.file=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-pushgateway is not installed: run scripts/setup");
        let gateway = Self {
            child,
            url: format!("http://{address}"),
        };
        for _ in 0..1_000 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return gateway;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the gateway does not listen on {address}");
    }

    /// What Prometheus would scrape of a series of ours.
    async fn value(&self, name: &str, status: &str) -> Option<f64> {
        let client = valuecanvas_billing::http_client::direct_client().unwrap();
        let scraped = client
            .get(format!("{}/metrics", self.url))
            .send()
            .await
            .unwrap();
        let text = scraped.error_for_status().unwrap().text().await.unwrap();
        let mut lines = text.lines().filter(|line| {
            line.starts_with(&format!("{name}{{"))
                && line.contains("job=\"webhook-retry\"")
                && line.contains(status)
        });
        let value = lines.next()?.rsplit_once(' ')?.1.parse().unwrap();
        assert_eq!(lines.next(), None, "one series");
        Some(value)
    }

    async fn text(&self) -> String {
        let client = valuecanvas_billing::http_client::direct_client().unwrap();
        let asked = client.get(format!("{}/metrics", self.url));
        asked.send().await.unwrap().text().await.unwrap()
    }

    async fn attempts(&self) -> (Option<f64>, Option<f64>) {
        let name = "stripe_webhook_events_total";
        (
            self.value(name, "status=\"processed\"").await,
            self.value(name, "status=\"failed\"").await,
        )
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn retry(db: &TestDatabase, url: &str) -> Ran {
    run(program_on(db, &["webhooks", "retry", "--json"]).env("PUSHGATEWAY_URL", url))
}

#[tokio::test]
async fn the_gateway_has_the_running_totals_of_all_runs() {
    let gateway = Gateway::start().await;
    let service = TestService::intake_only().await;
    service.db.organization("cus_1").await;
    let mut serial = 0;
    // A run without work, two with as much as each other, one with less.
    for (events, total) in [(0, 0.0), (2, 2.0), (2, 4.0), (1, 5.0)] {
        for _ in 0..events {
            serial += 1;
            let object = invoice(&format!("in_{serial}"), "cus_1", "sub_1", "open");
            let event = event(
                &format!("evt_{serial}"),
                "invoice.finalized",
                serial,
                object,
            );
            service.deliver(&event).await;
        }
        let ran = retry(&service.db, &gateway.url);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        assert_eq!(ran.json()["processed"], events);
        assert_eq!(gateway.attempts().await, (Some(total), Some(0.0)));
        let entries = gateway.value(
            "billing_audit_log_entries_total",
            "action=\"invoice_finalized\"",
        );
        assert_eq!(entries.await, Some(total));
    }
    let success = gateway
        .value("billing_job_last_success_timestamp_seconds", "")
        .await;
    assert!(success.is_some_and(|time| time > 1.7e9), "{success:?}");

    // What an older program took for a counter is pushed by its type no more.
    service
        .db
        .execute(
            "UPDATE billing_job_runs
                SET counters = counters || '{\"grace_periods_active_total\": 3}'",
        )
        .await;
    assert_eq!(retry(&service.db, &gateway.url).status, 0);
    let text = gateway.text().await;
    assert!(
        text.contains("# TYPE stripe_webhook_events_total counter"),
        "{text}"
    );
    assert!(!text.contains("grace_periods_active_total"), "{text}");

    // A failure counts as one, and leaves the rest.
    let mut bad = invoice("in_bad", "cus_1", "sub_1", "open");
    bad["total"] = json!(0.5);
    service
        .deliver(&event("evt_bad", "invoice.finalized", 1, bad))
        .await;
    assert_eq!(retry(&service.db, &gateway.url).status, 1);
    assert_eq!(gateway.attempts().await, (Some(5.0), Some(1.0)));
}

#[tokio::test]
async fn a_gateway_that_is_down_costs_its_metrics_and_not_the_job() {
    let service = TestService::intake_only().await;
    service.db.organization("cus_1").await;
    let object = invoice("in_1", "cus_1", "sub_1", "open");
    service
        .deliver(&event("evt_1", "invoice.finalized", 1, object))
        .await;
    let ran = retry(&service.db, "http://127.0.0.1:1");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.json()["succeeded"], 1);
    assert!(ran.stderr.contains("could not be pushed"), "{}", ran.stderr);

    // Nothing is lost: the next push has it.
    let gateway = Gateway::start().await;
    assert_eq!(retry(&service.db, &format!("{}/", gateway.url)).status, 0);
    assert_eq!(gateway.attempts().await, (Some(1.0), Some(0.0)));
}
