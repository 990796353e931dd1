//! Answers that nobody reads: what they take of memory has a limit, and others get theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use valuecanvas_billing::config::Rates;
use valuecanvas_billing::limits;
use valuecanvas_billing::server;
use valuecanvas_billing::server::budget::organizations::Shares;
use valuecanvas_billing::server::budget::{Budget, Class};
use valuecanvas_billing::server::caller::Caller;
use valuecanvas_billing::server::layers::checks::{Checks, Guard};
use valuecanvas_billing::server::layers::idempotency::Keeper;
use valuecanvas_billing::server::layers::rate_limit::Limits;
use valuecanvas_billing::server::routes::{Access, Permission, Routes, Share, tenant};

use crate::support::TestDatabase;
use crate::support::wire::Wire;

const LARGE: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;
const CONNECTIONS: usize = 40;

/// How many bytes of answers there are, wherever they are.
type Live = Arc<AtomicUsize>;

struct Counted {
    bytes: Vec<u8>,
    live: Live,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

fn counted(live: &Live, length: usize) -> Bytes {
    live.fetch_add(length, Ordering::SeqCst);
    let (bytes, live) = (vec![b'x'; length], live.clone());
    Bytes::from_owner(Counted { bytes, live })
}

async fn large(State(live): State<Live>) -> Response {
    Response::new(Body::from(counted(&live, LARGE)))
}

async fn streamed(State(live): State<Live>) -> Response {
    let chunks = (0..LARGE / CHUNK).map(move |_| Ok::<_, axum::Error>(counted(&live, CHUNK)));
    Response::new(Body::from_stream(futures_util::stream::iter(chunks)))
}

/// Lets everybody in, as a user of the organization that they say.
struct Anybody;

impl Guard for Anybody {
    async fn admit(&self, _: Access, request: &mut Request) -> Result<(), Response> {
        let named = request.headers()["x-of"].to_str().unwrap();
        let organization_id = Uuid::from_u128(named.parse().unwrap());
        request.extensions_mut().insert(Caller {
            organization_id,
            kind: "user",
            id: Some(organization_id),
        });
        Ok(())
    }
}

struct Rig {
    base: String,
    budget: Arc<Budget>,
    live: Live,
    stop: CancellationToken,
    _db: TestDatabase,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    async fn new() -> Self {
        let db = TestDatabase::new().await;
        let live = Live::default();
        let rules = tenant(Permission::BillingRead).share(Share::Free);
        let routes =
            Routes::new()
                .any("/large", get(large), rules)
                .any("/streamed", get(streamed), rules);
        let checks = Checks {
            guard: Anybody,
            limits: Limits::new(Rates {
                api_per_minute: 0,
                usage_per_minute: 0,
            }),
            shares: Shares::default(),
            keeper: Keeper::new(db.service_pool()),
            pages: Arc::new(()),
        };
        let site = server::site(routes.with_state(live.clone()), Some(&Arc::new(checks)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (budget, stop) = (Budget::new(1_000, 0), CancellationToken::new());
        tokio::spawn(server::serve_within(
            budget.clone(),
            listener,
            site,
            stop.clone(),
        ));
        Self {
            base,
            budget,
            live,
            stop,
            _db: db,
        }
    }

    /// Asks, and waits until an answer begins, or the connection ends.
    async fn asks_and_reads_nothing(&self, path: &str, organization: usize) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let address = self.base.trim_start_matches("http://").parse().unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = request(path, organization);
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = stream.peek(&mut [0]).await;
        stream
    }

    async fn crowd(&self, path: &str, organization: impl Fn(usize) -> usize) -> Vec<TcpStream> {
        let asking = (0..CONNECTIONS).map(|n| self.asks_and_reads_nothing(path, organization(n)));
        futures_util::future::join_all(asking).await
    }

    fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }
}

fn request(path: &str, organization: usize) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-of: {organization}\r\n\r\n")
}

#[tokio::test]
async fn answers_that_one_organization_does_not_read_take_its_share() {
    let rig = Rig::new().await;
    let unread = rig.crowd("/large", |_| 1).await;
    let own = limits::ANSWERS_OF_ORGANIZATION;
    assert!(rig.live() <= own, "{} MiB", rig.live() / LARGE);
    assert!(rig.budget.taken(Class::Answers) <= own);
    let mut wire = Wire::open(&rig.base).await;
    for _ in 0..20 {
        wire.send(request("/large", 2)).await;
        let reply = wire.answer().await;
        assert_eq!((reply.status, reply.body.len()), (200, LARGE));
    }
    drop(unread);
    while rig.live() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.budget.taken(Class::Answers), 0);
}

#[tokio::test]
async fn answers_that_many_organizations_do_not_read_give_way_to_who_reads() {
    let rig = Rig::new().await;
    let unread = rig.crowd("/large", |n| 10 + n).await;
    assert!(rig.live() <= limits::ANSWERS, "{} MiB", rig.live() / LARGE);
    let mut wire = Wire::open(&rig.base).await;
    wire.send(request("/large", 2)).await;
    let reply = wire.answer().await;
    assert_eq!((reply.status, reply.body.len()), (200, LARGE));
    drop(unread);
}

#[tokio::test]
async fn what_is_streamed_is_made_as_it_is_read() {
    let rig = Rig::new().await;
    let unread = rig.crowd("/streamed", |_| 1).await;
    let most = CONNECTIONS * (limits::UNWRITTEN + CHUNK);
    assert!(rig.live() <= most, "{} KiB", rig.live() / 1024);
    drop(unread);
}
