//! `Idempotency-Key`, as the layer that all changes go through keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::postgres::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, RetentionConfig};
use valuecanvas_billing::maintenance::retention;
use valuecanvas_billing::server::budget::organizations::Shares;
use valuecanvas_billing::server::caller::{Caller, SERVICE_KEY};
use valuecanvas_billing::server::extract::RawBody;
use valuecanvas_billing::server::layers::checks::{Checks, Guard};
use valuecanvas_billing::server::layers::idempotency::{self, Keeper};
use valuecanvas_billing::server::layers::rate_limit::Limits;
use valuecanvas_billing::server::routes::{Access, Permission, Routes, Share, tenant};
use valuecanvas_billing::server::{self, Site};

use crate::support::TestDatabase;

/// More than any test uses but the one of it.
const MOST_KEYS: u64 = 80;

/// Requests that have an effect, which is counted.
#[derive(Clone)]
struct Effects {
    done: Arc<AtomicU32>,
    /// A request that waits takes one before it goes on.
    permits: Arc<Semaphore>,
}

#[derive(serde::Deserialize)]
struct How {
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    size: usize,
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    panic: bool,
}

async fn effect(
    State(effects): State<Effects>,
    key: Option<idempotency::Key>,
    Query(how): Query<How>,
    RawBody(body): RawBody,
) -> Response {
    if how.wait {
        effects.permits.acquire().await.unwrap().forget();
    }
    let done = effects.done.fetch_add(1, Ordering::SeqCst) + 1;
    assert!(!how.panic, "a handler that panics");
    let key = key.map(|key| key.as_str().to_owned()).unwrap_or_default();
    let status = StatusCode::from_u16(how.status.unwrap_or(201)).unwrap();
    let said = String::from_utf8_lossy(&body).into_owned() + &"x".repeat(how.size);
    let headers = [("x-done", done.to_string()), ("x-key", key)];
    (status, headers, said).into_response()
}

/// The layer before requests that are counted, on a port of its own.
struct Rig {
    db: TestDatabase,
    base: String,
    effects: Effects,
    client: reqwest::Client,
    stop: CancellationToken,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let effects = Effects {
            done: Arc::default(),
            permits: Arc::new(Semaphore::new(0)),
        };
        let stop = CancellationToken::new();
        let site = served(effects.clone(), db.service_pool());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(server::serve(listener, site, stop.clone()));
        let client = valuecanvas_billing::http_client::direct_client().unwrap();
        Self {
            db,
            base,
            effects,
            client,
            stop,
        }
    }

    fn done(&self) -> u32 {
        self.effects.done.load(Ordering::SeqCst)
    }

    fn request(&self, target: &str, key: &str, body: &str) -> reqwest::RequestBuilder {
        let request = self.client.post(format!("{}{target}", self.base));
        request.header("idempotency-key", key).body(body.to_owned())
    }

    async fn post(&self, target: &str, key: &str, body: &str) -> reqwest::Response {
        self.request(target, key, body).send().await.unwrap()
    }

    /// The status, the code of a problem or else what was done when, and
    /// whether it was an answer of before.
    async fn ask(&self, target: &str, key: &str, body: &str) -> (u16, String, bool) {
        let answer = self.post(target, key, body).await;
        let status = answer.status().as_u16();
        let replayed = answer.headers().contains_key("idempotent-replayed");
        let done = answer.headers().get("x-done").cloned();
        let text = answer.text().await.unwrap();
        let said = match done {
            Some(done) => format!("{}:{text}", done.to_str().unwrap()),
            None => serde_json::from_str::<Value>(&text).unwrap()["code"]
                .as_str()
                .unwrap()
                .to_owned(),
        };
        (status, said, replayed)
    }
}

/// Lets everybody in, as a user of the organization whose path it is, or as the product
/// whose it is.
struct Insiders;

impl Guard for Insiders {
    async fn admit(&self, _: Access, request: &mut Request) -> Result<(), Response> {
        let (organization, kind, id) = match request.uri().path() {
            "/one" => (1, "user", 7),
            "/two" => (2, "user", 7),
            "/shop" => (0, SERVICE_KEY, 8),
            _ => (0, SERVICE_KEY, 9),
        };
        request.extensions_mut().insert(Caller {
            organization_id: Uuid::from_u128(organization),
            kind,
            id: Some(Uuid::from_u128(id)),
        });
        Ok(())
    }
}

/// The routes, behind the checks that all routes have.
fn served(effects: Effects, pool: PgPool) -> Site {
    let rules = tenant(Permission::BillingManage).share(Share::Free);
    let in_turn = tenant(Permission::BillingManage).share(Share::Changes);
    let routes = Routes::new()
        .any("/in-turn", any(effect), in_turn)
        .any("/one", any(effect), rules)
        .any("/two", any(effect), rules)
        .any("/shop", any(effect), rules)
        .any("/forum", any(effect), rules);
    let checks = Checks {
        guard: Insiders,
        limits: Limits::new(Rates {
            api_per_minute: 0,
            usage_per_minute: 0,
        }),
        shares: Shares::default(),
        keeper: Keeper::with_keys(pool, MOST_KEYS),
        pages: Arc::new(()),
    };
    server::site(routes.with_state(effects), Some(&Arc::new(checks)))
}

fn answer(status: u16, said: &str, replayed: bool) -> (u16, String, bool) {
    (status, said.to_owned(), replayed)
}

#[tokio::test]
async fn the_same_key_and_body_give_the_first_answer_again() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask("/one", "k", "a").await, answer(201, "1:a", false));
    assert_eq!(rig.ask("/one", "k", "a").await, answer(201, "1:a", true));
    let again = rig.post("/one", "k", "a").await;
    assert_eq!(again.headers()["x-key"], "k", "with the handler's headers");
    assert_eq!(rig.done(), 1);
    // A refusal is an answer, too.
    let refused = "/one?status=402";
    assert_eq!(rig.ask(refused, "r", "").await, answer(402, "2:", false));
    assert_eq!(rig.ask(refused, "r", "").await, answer(402, "2:", true));
    assert_eq!(rig.done(), 2);
}

#[tokio::test]
async fn a_key_goes_with_one_request() {
    let rig = Rig::new().await;
    assert_eq!(rig.ask("/one", "k", "a").await.0, 201);
    let reused = answer(422, "idempotency_key_reused", false);
    assert_eq!(rig.ask("/one", "k", "b").await, reused);
    assert_eq!(rig.ask("/one?status=200", "k", "a").await, reused);
    let put = rig.client.put(format!("{}/one", rig.base));
    let put = put.header("idempotency-key", "k").body("a");
    assert_eq!(put.send().await.unwrap().status(), 422);
    assert_eq!(rig.done(), 1);
    // Another organization's keys are its own.
    assert_eq!(rig.ask("/two", "k", "a").await, answer(201, "2:a", false));
}

#[tokio::test]
async fn without_a_key_and_on_reads_nothing_is_kept() {
    let rig = Rig::new().await;
    let url = format!("{}/one", rig.base);
    for n in 1..=2 {
        let answer = rig.client.post(&url).send().await.unwrap();
        assert_eq!(answer.headers()["x-done"], n.to_string());
    }
    let get = rig.client.get(&url).header("idempotency-key", "k");
    assert_eq!(get.send().await.unwrap().status(), 201);
    assert_eq!(rig.db.count("request_idempotency").await, 0);
    for bad in ["", &"x".repeat(256), "\u{e9}"] {
        let refused = answer(400, "idempotency_key_invalid", false);
        assert_eq!(rig.ask("/one", bad, "").await, refused, "{bad}");
    }
    assert_eq!(rig.done(), 3);
}

#[tokio::test]
async fn while_the_first_runs_others_are_told_to_wait() {
    let rig = Rig::new().await;
    let first = rig.request("/one?wait=true", "k", "a").send();
    let others = async {
        while rig.db.count("request_idempotency").await == 0 {
            tokio::task::yield_now().await;
        }
        for _ in 0..3 {
            let waiting = rig.post("/one?wait=true", "k", "a").await;
            assert_eq!(waiting.status(), 409);
            assert_eq!(waiting.headers()["retry-after"], "2");
            let problem: Value = waiting.json().await.unwrap();
            assert_eq!(problem["code"], "idempotency_in_flight");
        }
        rig.effects.permits.add_permits(1);
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.unwrap().status(), 201);
    let again = rig.ask("/one?wait=true", "k", "a").await;
    assert_eq!(again, answer(201, "1:a", true));
}

#[tokio::test]
async fn of_many_at_once_one_is_carried_out() {
    let rig = Rig::new().await;
    let requests = (0..32).map(|_| rig.ask("/one", "k", "a"));
    for (status, said, _) in futures_util::future::join_all(requests).await {
        let carried_out = status == 201 && said == "1:a";
        let told_to_wait = status == 409 && said == "idempotency_in_flight";
        assert!(carried_out || told_to_wait, "{status} {said}");
    }
    assert_eq!(rig.done(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_stops_nothing_half_way() {
    let rig = Rig::new().await;
    let request = rig.request("/one?wait=true", "k", "a");
    let request = tokio::spawn(request.send());
    while rig.db.count("request_idempotency").await == 0 {
        tokio::task::yield_now().await;
    }
    request.abort();
    let _ = request.await;
    rig.effects.permits.add_permits(1);
    while rig.db.count("request_idempotency WHERE status = 201").await == 0 {
        tokio::task::yield_now().await;
    }
    let again = rig.ask("/one?wait=true", "k", "a").await;
    assert_eq!(again, answer(201, "1:a", true));
}

#[tokio::test]
async fn a_service_that_died_leaves_the_key_for_another_to_take() {
    let rig = Rig::new().await;
    // What a death in flight leaves behind: a claim without an answer.
    assert_eq!(rig.ask("/one?status=500", "k", "a").await.0, 500);
    let leave = |lease: &str| {
        format!("UPDATE request_idempotency SET lease_expires_at = now() + interval '{lease}'")
    };
    rig.db.execute(&leave("1 hour")).await;
    let in_flight = answer(409, "idempotency_in_flight", false);
    assert_eq!(rig.ask("/one?status=500", "k", "a").await, in_flight);
    rig.db.execute(&leave("-1 second")).await;
    let reused = answer(422, "idempotency_key_reused", false);
    assert_eq!(rig.ask("/one", "k", "b").await, reused, "still its request");
    assert_eq!(rig.ask("/one?status=500", "k", "a").await.0, 500);
    assert_eq!(rig.done(), 2);
}

#[tokio::test]
async fn who_lost_the_lease_does_not_answer_for_who_has_it() {
    let rig = Rig::new().await;
    let first = rig.request("/one?wait=true", "k", "a").send();
    let takeover = async {
        while rig.db.count("request_idempotency").await == 0 {
            tokio::task::yield_now().await;
        }
        rig.db
            .execute("UPDATE request_idempotency SET lease_id = gen_random_uuid()")
            .await;
        rig.effects.permits.add_permits(1);
    };
    let (first, ()) = tokio::join!(first, takeover);
    assert_eq!(first.unwrap().status(), 201);
    assert_eq!(
        rig.db
            .count("request_idempotency WHERE status IS NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn a_failure_of_ours_settles_nothing() {
    let rig = Rig::new().await;
    for (n, target) in ["/one?status=500", "/one?status=503", "/one?panic=true"]
        .into_iter()
        .enumerate()
    {
        let key = format!("k{n}");
        for attempt in 1..=2 {
            let status = rig.post(target, &key, "a").await.status();
            assert!(status.is_server_error(), "{target}: {status}");
            assert_eq!(rig.done(), n as u32 * 2 + attempt, "it was tried again");
        }
    }
}

#[tokio::test]
async fn an_answer_too_large_to_keep_is_passed_on_and_not_made_again() {
    let rig = Rig::new().await;
    let target = "/one?size=3000000";
    let (status, said, _) = rig.ask(target, "k", "a").await;
    assert_eq!((status, said.len()), (201, 3_000_003));
    let again = answer(409, "idempotency_answer_not_kept", false);
    assert_eq!(rig.ask(target, "k", "a").await, again);
    assert_eq!(rig.done(), 1);
}

#[tokio::test]
async fn answers_are_kept_up_to_as_much_as_fits_a_day() {
    let rig = Rig::new().await;
    let body = "x".repeat(1_000_000);
    for n in 0..68 {
        let key = format!("k{n}");
        assert_eq!(rig.ask("/one", &key, &body).await.0, 201);
    }
    let kept = "SELECT sum(octet_length(body))::text FROM request_idempotency";
    let kept: usize = rig.db.value(kept).await.parse().unwrap();
    assert!((60_000_000..=64 * 1024 * 1024).contains(&kept), "{kept}");
    assert_eq!(rig.done(), 68);
    let again = answer(409, "idempotency_answer_not_kept", false);
    assert_eq!(rig.ask("/one", "k67", &body).await, again);
    assert_eq!(rig.done(), 68);
}

#[tokio::test]
async fn of_callers_without_an_organization_each_has_its_own_keys() {
    let rig = Rig::new().await;
    let longest = "k".repeat(255);
    for key in ["k", &longest] {
        let shop = rig.ask("/shop", key, "a").await;
        assert_eq!((shop.0, shop.2), (201, false));
        let forum = rig.ask("/forum", key, "b").await;
        assert_eq!((forum.0, forum.2), (201, false), "another's key");
        let again = answer(201, &shop.1, true);
        assert_eq!(rig.ask("/shop", key, "a").await, again);
    }
    assert_eq!(rig.done(), 4);
    let reused = answer(422, "idempotency_key_reused", false);
    assert_eq!(rig.ask("/shop", "k", "b").await, reused);
}

#[tokio::test]
async fn what_one_product_has_kept_leaves_room_for_another() {
    let rig = Rig::new().await;
    let body = "x".repeat(1_000_000);
    for n in 0..68 {
        let key = format!("k{n}");
        assert_eq!(rig.ask("/shop", &key, &body).await.0, 201);
    }
    let not_kept = answer(409, "idempotency_answer_not_kept", false);
    assert_eq!(rig.ask("/shop", "k67", &body).await, not_kept);
    let other = answer(201, "69:a", false);
    assert_eq!(rig.ask("/forum", "k", "a").await, other);
    assert_eq!(rig.ask("/forum", "k", "a").await, answer(201, "69:a", true));
}

#[tokio::test]
async fn no_more_keys_are_kept_than_fit_a_day() {
    let rig = Rig::new().await;
    let mut keys = 0;
    while rig.ask("/one", &format!("k{keys}"), "a").await.0 == 201 {
        keys += 1;
    }
    assert_eq!(keys, MOST_KEYS);
    let more = rig.ask("/one", "more", "a").await;
    assert_eq!(more, answer(429, "too_many_idempotency_keys", false));
    let kept = "SELECT count(*)::text FROM request_idempotency";
    assert_eq!(rig.db.value(kept).await, MOST_KEYS.to_string());
    assert_eq!(rig.ask("/one", "k0", "a").await, answer(201, "1:a", true));
    assert_eq!(rig.ask("/one?size=0", "k0", "b").await.0, 422);
    assert_eq!(rig.ask("/two", "more", "a").await.0, 201, "another's");
    assert_eq!(u64::from(rig.done()), MOST_KEYS + 1);
}

/// An organization has two changes under way, read or not.
#[tokio::test]
async fn who_hangs_up_keeps_its_turn_until_what_it_asked_for_is_done() {
    let rig = Rig::new().await;
    let mut asking = tokio::task::JoinSet::new();
    for key in ["a", "b"] {
        asking.spawn(rig.request("/in-turn?wait=true", key, "").send());
    }
    while rig.db.count("request_idempotency").await < 2 {
        tokio::task::yield_now().await;
    }
    asking.shutdown().await;
    for n in 0..3 {
        let third = rig.ask("/in-turn", &format!("c{n}"), "").await;
        assert_eq!(third, answer(429, "too_many_requests", false));
    }
    rig.effects.permits.add_permits(2);
    while rig.done() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.ask("/in-turn", "d", "").await.0, 201);
}

#[tokio::test]
async fn keys_are_kept_for_a_day() {
    let rig = Rig::new().await;
    for key in ["old", "new"] {
        assert_eq!(rig.ask("/one", key, "a").await.0, 201);
    }
    rig.db
        .execute("UPDATE request_idempotency SET expires_at = now() WHERE idempotency_key = 'old'")
        .await;
    // Forgotten, though not purged yet.
    assert_eq!(rig.ask("/one", "old", "b").await, answer(201, "3:b", false));
    rig.db
        .execute("UPDATE request_idempotency SET expires_at = now() WHERE idempotency_key = 'old'")
        .await;
    let kept = RetentionConfig::default();
    let ran = retention::run(&rig.db.service_pool(), &kept, Timestamp::now(), |_, _| {}).await;
    assert_eq!(ran.unwrap().total, 1);
    let kept = "request_idempotency WHERE idempotency_key = 'new' AND expires_at > now() + interval '23 hours'";
    assert_eq!(rig.db.count(kept).await, 1);
    assert_eq!(rig.ask("/one", "new", "a").await, answer(201, "2:a", true));
}

#[tokio::test]
async fn no_request_is_carried_out_whose_key_cannot_be_kept() {
    let rig = Rig::new().await;
    rig.db.execute("DROP TABLE request_idempotency").await;
    assert_eq!(
        rig.ask("/one", "k", "a").await,
        answer(500, "internal", false)
    );
    assert_eq!(rig.done(), 0);
}
