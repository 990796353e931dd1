//! An alert on its way from the database to whoever is on duty: measured by the
//! service, raised by Debian's Prometheus by our rules, sent by Debian's Alertmanager.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::monitoring::Prometheus;
use crate::subscriptions::world::{VISA, World};
use crate::support::ports::reserved;

/// Killed with the test.
struct Alertmanager {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Alertmanager {
    /// Sends what is critical to `pager` at once, and nothing else to anybody.
    fn paging(pager: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("alertmanager.yml");
        let routes = format!(
            "route:\n  receiver: nobody\n  routes:\n  - matchers: ['severity=\"critical\"']\n    \
             receiver: pager\n    group_wait: 0s\n    group_interval: 1s\n\
             receivers:\n- name: nobody\n- name: pager\n  webhook_configs: [{{url: '{pager}'}}]\n"
        );
        std::fs::write(&config, routes).unwrap();
        let address = reserved().to_string();
        let start = |program: &str| {
            Command::new(program)
                .arg(format!("--config.file={}", config.display()))
                .arg(format!(
                    "--storage.path={}",
                    folder.path().join("data").display()
                ))
                .arg(format!("--web.listen-address={address}"))
                // It is alone.
                .arg("--cluster.listen-address=")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        };
        let child = start("prometheus-alertmanager")
            .or_else(|_| start("alertmanager"))
            .expect("prometheus-alertmanager is installed: run scripts/setup test");
        Self {
            child,
            address,
            _folder: folder,
        }
    }
}

/// Takes what the Alertmanager sends.
async fn pager() -> (String, mpsc::UnboundedReceiver<Value>) {
    let (page, pages) = mpsc::unbounded_channel();
    let taken = axum::routing::post(async move |axum::Json(body): axum::Json<Value>| {
        let _ = page.send(body);
    });
    let router = axum::Router::new().route("/page", taken);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/page", listener.local_addr().unwrap());
    let site = valuecanvas_billing::server::bare(router);
    let stop = CancellationToken::new();
    tokio::spawn(valuecanvas_billing::server::serve(listener, site, stop));
    (url, pages)
}

#[tokio::test]
async fn what_is_critical_reaches_whoever_is_on_duty() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let (url, mut pages) = pager().await;
    let manager = Alertmanager::paging(&url);
    let alerting = format!(
        "alerting: {{alertmanagers: [{{static_configs: [{{targets: [\"{}\"]}}]}}]}}",
        manager.address
    );
    let _prometheus = Prometheus::configured(&world.service, &alerting);
    world
        .service
        .db
        .execute("UPDATE billing_stripe_requests SET state = 'failed', abandoned_at = now()")
        .await;
    // Rules are evaluated every half a minute. A service that has just begun may have
    // other alerts as well.
    let paged = async {
        loop {
            let page = pages.recv().await.unwrap();
            let mut alerts = page["alerts"].as_array().unwrap().iter();
            let wanted = |alert: &&Value| alert["labels"]["alertname"] == "StripeRequestsAbandoned";
            if let Some(alert) = alerts.find(wanted) {
                return alert.clone();
            }
        }
    };
    let alert = tokio::time::timeout(Duration::from_secs(150), paged).await;
    let alert = alert.expect("the alert arrives");
    assert_eq!(alert["labels"]["severity"], "critical");
    assert_eq!(alert["status"], "firing");
    let said = alert["annotations"]["description"].as_str().unwrap();
    assert!(said.contains("subscriptions reconcile"), "{said}");
}
