//! Kill -9 under load: no limit is passed, nothing acknowledged is lost, and
//! the totals are what the events add up to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Permission;

use super::tenant::{CHECK, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::serving::Serving;

/// `VCB_SERVICE_KILLS` for a longer run.
fn kills() -> usize {
    let given = std::env::var("VCB_SERVICE_KILLS").ok();
    given.map_or(6, |text| {
        text.parse().expect("VCB_SERVICE_KILLS is a number")
    })
}

/// Asks again and again, with ids of its own, and counts what was acknowledged.
struct Consumer {
    client: reqwest::Client,
    key: String,
    bases: Arc<std::sync::Mutex<Vec<String>>>,
    admitted: Arc<AtomicUsize>,
    recorded: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Consumer {
    async fn run(self, number: usize) {
        let mut sent = 0;
        while !self.done.load(Ordering::Relaxed) {
            sent += 1;
            let id = format!("{number}-{sent}");
            let check = json!({"metric": "user_units", "quantity": 1, "consume": true, "id": format!("c{id}")});
            // Asked until there is an answer: with one id it counts once.
            if self.until_answered(CHECK, &check, number + sent).await == 200 {
                self.admitted.fetch_add(1, Ordering::Relaxed);
            }
            let event = json!({"id": format!("e{id}"), "metric": "llm_tokens", "quantity": "0.5"});
            if self.until_answered(EVENTS, &event, number + sent).await == 200 {
                self.recorded.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn until_answered(&self, path: &str, body: &serde_json::Value, turn: usize) -> u16 {
        for attempt in 0.. {
            let base = {
                let bases = self.bases.lock().unwrap();
                bases[(turn + attempt) % bases.len()].clone()
            };
            let request = self
                .client
                .post(format!("{base}{path}"))
                .bearer_auth(&self.key)
                .json(body);
            match request.send().await {
                Ok(answer) if answer.status() != 503 => return answer.status().as_u16(),
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        unreachable!("it asks until there is an answer")
    }
}

#[tokio::test]
async fn killed_replicas_admit_no_more_and_lose_nothing() {
    let plans = include_str!("../../../config/plans.toml")
        .replacen(
            "[metrics]",
            "[metrics]\nuser_units = { aggregation = \"sum\" }",
            1,
        )
        .replace(
            "[plans.quotas]",
            "[plans.quotas]\nuser_units = { quota = 300, over_limit = \"hard\" }",
        );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), plans).unwrap();
    let service = TestService::with(crate::support::service::Options {
        plans_file: Some(file.path().to_owned()),
        workers: 0,
        ..Default::default()
    })
    .await;
    let organization: Uuid = service.organization("Killed").await;
    service
        .db
        .execute(&format!(
            "INSERT INTO usage_quotas (organization_id, metric, plan_tier, quota, over_limit)
             VALUES ('{organization}', 'user_units', 'free', 300, 'hard')"
        ))
        .await;
    let tenant = Tenant {
        organization,
        key: service.api_key(organization, &Permission::ALL).await,
    };
    let start = || {
        let mut command = crate::support::serving::serve_on(&service.db);
        Serving::start(command.env("PLANS_FILE", file.path()))
    };
    let mut replicas = [start(), start()];
    let bases = Arc::new(std::sync::Mutex::new(
        replicas
            .iter()
            .map(|replica| replica.base.clone())
            .collect::<Vec<_>>(),
    ));
    let (admitted, recorded) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let consumers: Vec<_> = (0..24)
        .map(|number| {
            let consumer = Consumer {
                client: service.client.clone(),
                key: tenant.key.clone(),
                bases: bases.clone(),
                admitted: admitted.clone(),
                recorded: recorded.clone(),
                done: done.clone(),
            };
            tokio::spawn(consumer.run(number))
        })
        .collect();
    for kill in 0..kills() {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let victim = kill % 2;
        replicas[victim].signal(Signal::KILL);
        replicas[victim] = start();
        bases.lock().unwrap()[victim] = replicas[victim].base.clone();
    }
    done.store(true, Ordering::Relaxed);
    for consumer in consumers {
        consumer.await.unwrap();
    }
    let (admitted, recorded) = (
        admitted.load(Ordering::Relaxed),
        recorded.load(Ordering::Relaxed),
    );
    assert!(recorded > 0 && admitted > 0);
    // Each acknowledged id is there once, and nothing else was counted.
    let counted = |metric: &str| {
        let sql = format!("usage_events WHERE metric = '{metric}'");
        let service = &service;
        async move { usize::try_from(service.db.count(&sql).await).unwrap() }
    };
    assert_eq!(counted("llm_tokens").await, recorded);
    assert_eq!(counted("user_units").await, admitted);
    assert!(admitted <= 300);
    let torn = "SELECT count(*) FROM usage_totals t
                 WHERE ROW(total, events) <> (SELECT sum(quantity), count(*) FROM usage_events e
                                               WHERE e.organization_id = t.organization_id
                                                 AND e.metric = t.metric
                                                 AND e.period_start = t.period_start)";
    assert_eq!(service.db.value(torn).await, "0");
}
