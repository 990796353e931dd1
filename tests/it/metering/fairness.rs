//! A flood of one organization's leaves the others theirs, and counts exactly.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, SurfaceConfig};

use super::tenant::{CHECK, EVENTS, Tenant};
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::service::Options;

/// As many lanes as `serve` has.
pub fn lane_of(organization: Uuid) -> u128 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    organization.as_u128() % cores.min(4) as u128
}

/// Tenants who are counted by the same writer.
pub async fn neighbours(service: &TestService, count: usize) -> Vec<Tenant> {
    let mut all: Vec<Tenant> = Vec::new();
    let mut number = 0;
    while all.len() < count {
        number += 1;
        let tenant = Tenant::of(service, &format!("Neighbour {number}")).await;
        let lane = lane_of(tenant.organization);
        if all
            .first()
            .is_none_or(|first| lane_of(first.organization) == lane)
        {
            all.push(tenant);
        }
    }
    all
}

fn batch(name: &str, events: usize) -> Value {
    let event =
        |n: usize| json!({"id": format!("{name}-{n}"), "metric": "llm_tokens", "quantity": 1});
    (0..events).map(event).collect()
}

/// Whether totals are what the events add up to, and as many as were answered.
async fn assert_exact(service: &TestService, tenants: &[Tenant], recorded: &[u64]) {
    let wrong = "SELECT count(*) FROM usage_totals t WHERE (total, events) <>
                   (SELECT sum(quantity), count(*) FROM usage_events e
                     WHERE e.organization_id = t.organization_id AND e.metric = t.metric)";
    assert_eq!(service.db.value(wrong).await, "0");
    for (tenant, recorded) in tenants.iter().zip(recorded) {
        let sql = format!(
            "SELECT count(*) FROM usage_events WHERE organization_id = '{}'",
            tenant.organization
        );
        assert_eq!(service.db.value(&sql).await, recorded.to_string());
    }
}

#[tokio::test]
async fn anothers_checks_are_answered_while_a_flood_of_batches_waits() {
    let service = TestService::intake_only().await;
    let tenants = neighbours(&service, 2).await;
    let (flooding, other) = (&tenants[0], &tenants[1]);
    let answered = AtomicUsize::new(0);
    const BATCHES: usize = 60;
    let flood = (0..BATCHES).map(|number| {
        let answered = &answered;
        let body = batch(&format!("b{number}"), 1_000);
        let service = &service;
        async move {
            let answer = flooding.post(service, EVENTS, &body).await;
            answered.fetch_add(1, Ordering::Relaxed);
            answer
        }
    });
    let checks = async {
        // The flood is under way.
        while answered.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..15 {
            let answer = other.consume(&service, "api_calls", 1).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        answered.load(Ordering::Relaxed)
    };
    let (answers, by_then) = tokio::join!(join_all(flood), checks);
    assert!(by_then < BATCHES, "the flood was over first");
    let mut recorded = 0;
    for answer in answers {
        match answer.problem() {
            (200, _) => recorded += answer.body["recorded"].as_u64().unwrap(),
            (429, "too_many_usage_events") => assert_eq!(answer.header("retry-after"), "1"),
            _ => panic!("{answer:?}"),
        }
    }
    assert_exact(&service, &tenants, &[recorded, 15]).await;
}

/// Events and batches of several organizations at once, sent again until they
/// are answered, and some of them once more.
#[tokio::test]
async fn totals_are_exact_whoever_floods() {
    let service = TestService::intake_only().await;
    let tenants = neighbours(&service, 4).await;
    let recorded: Vec<AtomicUsize> = tenants.iter().map(|_| AtomicUsize::new(0)).collect();
    let mut dice = Dice::new(19);
    let mut sent = Vec::new();
    for number in 0..160 {
        let who = dice.pick(&[0, 0, 0, 1, 2, 3]);
        let events = dice.pick(&[1, 3, 16, 17, 200, 700]);
        let sends = 1 + usize::from(dice.one_in(4));
        for _ in 0..sends {
            sent.push((who, batch(&format!("e{number}"), events)));
        }
    }
    dice.shuffle(&mut sent);
    join_all(sent.iter().map(|(who, body)| {
        let (service, tenant, recorded) = (&service, &tenants[*who], &recorded[*who]);
        async move {
            loop {
                let answer = tenant.post(service, EVENTS, body).await;
                match answer.status {
                    429 | 503 => tokio::task::yield_now().await,
                    _ => {
                        let body = answer.ok();
                        let count = usize::try_from(body["recorded"].as_u64().unwrap());
                        recorded.fetch_add(count.unwrap(), Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    }))
    .await;
    let recorded: Vec<u64> = recorded
        .iter()
        .map(|count| count.load(Ordering::Relaxed) as u64)
        .collect();
    assert!(recorded.iter().all(|count| *count > 0));
    assert_exact(&service, &tenants, &recorded).await;
}

async fn with_rate(usage_per_minute: u32) -> TestService {
    let rates = Rates {
        api_per_minute: 0,
        usage_per_minute,
    };
    TestService::with(Options {
        workers: 0,
        surface: SurfaceConfig {
            rates,
            ..SurfaceConfig::default()
        },
        ..Options::default()
    })
    .await
}

fn left(answer: &super::tenant::Answer) -> u32 {
    let said = answer.header("ratelimit");
    let left = said
        .split("r=")
        .nth(1)
        .and_then(|rest| rest.split(';').next());
    left.unwrap_or_default().parse().unwrap()
}

#[tokio::test]
async fn a_batch_takes_as_many_of_the_limit_as_it_has_events() {
    let service = with_rate(100).await;
    let tenant = Tenant::of(&service, "Metered").await;
    let first = tenant.post(&service, EVENTS, &batch("a", 60)).await;
    assert_eq!((first.status, left(&first)), (200, 40));
    let refused = tenant.post(&service, EVENTS, &batch("b", 60)).await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    let secs: u32 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&secs), "{secs}");
    assert_eq!(left(&refused), 0);
    assert_eq!(tenant.total(&service, "llm_tokens").await, "60");
    // Nothing of it was taken but the request itself; what is large counts for
    // several: 5 KiB of metadata.
    let event = json!({"id": "large", "metric": "llm_tokens", "quantity": 1,
                       "metadata": {"note": "x".repeat(5 * 1024)}});
    let large = tenant.post(&service, EVENTS, &event).await;
    assert_eq!(large.status, 200, "{large:?}");
    assert!((32..=36).contains(&left(&large)), "{large:?}");
    // CloudEvents are events as well.
    let clouds: Value = (0..60)
        .map(|n| {
            json!({"specversion": "1.0", "id": n.to_string(), "source": "/test",
                   "type": "llm_tokens", "data": {"quantity": 1}})
        })
        .collect();
    let kind = "application/cloudevents-batch+json";
    let refused = tenant.post_raw(&service, EVENTS, kind, clouds.to_string());
    assert_eq!(refused.await.problem(), (429, "rate_limited"));
    // Checks have one each.
    let before = tenant.consume(&service, "api_calls", 1).await;
    let after = tenant.consume(&service, "api_calls", 1).await;
    assert!(left(&before) - left(&after) <= 1);
}

#[tokio::test]
async fn a_batch_larger_than_the_limit_is_taken_by_a_full_bucket() {
    let service = with_rate(100).await;
    let tenant = Tenant::of(&service, "Large").await;
    let answer = tenant.post(&service, EVENTS, &batch("a", 1_000)).await;
    assert_eq!((answer.status, left(&answer)), (200, 0));
    assert_eq!(tenant.total(&service, "llm_tokens").await, "1000");
    let more = tenant.post(&service, EVENTS, &batch("b", 1)).await;
    assert_eq!(more.problem(), (429, "rate_limited"));
}

#[tokio::test]
async fn a_refused_batch_is_no_answer_to_its_idempotency_key() {
    let service = with_rate(600).await;
    let tenant = Tenant::of(&service, "Keyed").await;
    tenant.post(&service, EVENTS, &batch("a", 595)).await.ok();
    let body = batch("b", 16);
    let send = async || {
        let request = service.post(EVENTS).bearer_auth(&tenant.key).json(&body);
        let request = request.header("idempotency-key", "one");
        super::tenant::Answer::of(request.send().await.unwrap()).await
    };
    let refused = send().await;
    assert_eq!(refused.problem(), (429, "rate_limited"));
    let secs: u64 = refused.header("retry-after").parse().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(secs)).await;
    assert_eq!(send().await.ok()["recorded"], 16);
}

/// Requests that wait in the database hold connections that all share: those
/// of one organization never all of them.
#[tokio::test]
async fn one_organizations_waiting_requests_leave_connections_to_others() {
    let service = TestService::intake_only().await;
    let (stuck, other) = (
        Tenant::of(&service, "Stuck").await,
        Tenant::of(&service, "Other").await,
    );
    let mut holder = PgConnection::connect_with(&service.db.options("postgres"))
        .await
        .unwrap();
    let mut claimed = holder.begin().await.unwrap();
    sqlx::query(
        "INSERT INTO request_idempotency
           (organization_id, idempotency_key, fingerprint, lease_id, lease_expires_at, expires_at)
         VALUES ($1, 'held', sha256(''), gen_random_uuid(), now(), now() + interval '1 day')",
    )
    .bind(stuck.organization)
    .execute(&mut *claimed)
    .await
    .unwrap();
    let answered = AtomicUsize::new(0);
    let body = json!({"metric": "api_calls", "quantity": 1, "consume": true});
    let waiting = (0..24).map(|_| {
        let request = service.post(CHECK).bearer_auth(&stuck.key).json(&body);
        let request = request.header("idempotency-key", "held");
        let answered = &answered;
        async move {
            let status = request.send().await.unwrap().status().as_u16();
            answered.fetch_add(1, Ordering::Relaxed);
            status
        }
    });
    let reads = async {
        let waits = "pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%request_idempotency%'";
        while service.db.count(waits).await < 5 {
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            other.get(&service, "/api/billing/usage").await.ok();
        }
        let by_then = answered.load(Ordering::Relaxed);
        claimed.rollback().await.unwrap();
        by_then
    };
    let (statuses, by_then) = tokio::join!(join_all(waiting), reads);
    assert_eq!(by_then, 0, "the others were answered first");
    for status in statuses {
        assert!([200, 409, 429].contains(&status), "{status}");
    }
    assert_eq!(stuck.total(&service, "api_calls").await, "1");
}

/// What the database refuses of one organization is refused by itself.
#[tokio::test]
async fn what_cannot_be_counted_spoils_nobody_elses() {
    let service = TestService::intake_only().await;
    let tenants = neighbours(&service, 2).await;
    let (spoiling, other) = (&tenants[0], &tenants[1]);
    service
        .db
        .execute(
            "CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
             BEGIN RAISE EXCEPTION 'poison' USING ERRCODE = '22003'; END $$;
             CREATE TRIGGER poison BEFORE INSERT ON usage_events FOR EACH ROW
               WHEN (NEW.event_id LIKE 'poison%') EXECUTE FUNCTION refuse_poison()",
        )
        .await;
    const POISON: usize = 240;
    let answered = AtomicUsize::new(0);
    let flood = (0..POISON).map(|number| {
        let name = if number % 8 == 0 { "good" } else { "poison" };
        let body = json!({"id": format!("{name}-{number}"), "metric": "llm_tokens", "quantity": 1});
        let (service, answered) = (&service, &answered);
        async move {
            let answer = spoiling.post(service, EVENTS, &body).await;
            answered.fetch_add(1, Ordering::Relaxed);
            (number % 8 == 0, answer)
        }
    });
    let checks = async {
        for _ in 0..3 {
            let answer = other.consume(&service, "api_calls", 1).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        answered.load(Ordering::Relaxed)
    };
    let (answers, by_then) = tokio::join!(join_all(flood), checks);
    assert!(by_then < POISON, "the flood was over first");
    for (good, answer) in answers {
        let expected = if good {
            (200, "")
        } else {
            (503, "usage_unavailable")
        };
        assert_eq!(answer.problem(), expected);
    }
    assert_exact(&service, &tenants, &[POISON as u64 / 8, 3]).await;
}
