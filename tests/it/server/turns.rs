//! Connections take turns: one address keeps no other waiting for long, and a client
//! that does not read takes little.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use valuecanvas_billing::server::budget::Budget;
use valuecanvas_billing::server::{bare, serve_within};

use crate::support::wire::Wire;

/// Serves `router` on a thread of its own, as the program does, until it is dropped.
struct Listening {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Listening {
    fn to(router: Router) -> Self {
        let (tell, told) = std::sync::mpsc::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let mut building = tokio::runtime::Builder::new_current_thread();
            let runtime = building.enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send(listener.local_addr().unwrap()).unwrap();
                serve_within(Budget::new(256, 0), listener, bare(router), stopped).await;
            });
        });
        Self {
            address: told.recv().unwrap(),
            stop,
        }
    }

    /// From another address than this test's own, where this host has one.
    async fn stranger(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        let _ = socket.bind("127.0.0.2:0".parse().unwrap());
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        socket.connect(self.address).await.unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Counted in what the others were answered meanwhile: the clock has no say.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_crowd_that_pipelines_is_answered_little_before_another() {
    let answered = Arc::new(AtomicUsize::new(0));
    let (working, asked) = (answered.clone(), answered.clone());
    let work = async move || {
        std::thread::sleep(Duration::from_micros(200));
        working.fetch_add(1, Ordering::Relaxed);
    };
    let ask = async move || asked.load(Ordering::Relaxed).to_string();
    let router = Router::new().route("/work", get(work));
    let listening = Listening::to(router.route("/ask", get(ask)));
    let requests = "GET /work HTTP/1.1\r\nhost: test\r\n\r\n".repeat(150);
    let mut crowd = Vec::new();
    for _ in 0..60 {
        let mut stream = listening.stranger().await;
        stream.write_all(requests.as_bytes()).await.unwrap();
        crowd.push(stream);
    }
    until(|| answered.load(Ordering::Relaxed) > 100).await;
    for _ in 0..4 {
        let before = answered.load(Ordering::Relaxed);
        let mut wire = Wire::open(&format!("http://{}", listening.address)).await;
        wire.send("GET /ask HTTP/1.1\r\nhost: test\r\n\r\n").await;
        let seen: usize = wire.answer().await.body.parse().unwrap();
        // One turn of each in the crowd is 960.
        assert!(seen - before < 400, "{} came first", seen - before);
    }
    let all = 60 * 150;
    assert!(answered.load(Ordering::Relaxed) < all, "the crowd is done");
    drop(crowd);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_answer_that_nobody_reads_is_not_made() {
    const PIECE: usize = 16 * 1024;
    let made = Arc::new(AtomicUsize::new(0));
    let making = made.clone();
    let answer = async move || {
        let pieces = std::iter::from_fn(move || {
            let before = making.fetch_add(PIECE, Ordering::Relaxed);
            let piece = Bytes::from_static(&[b'x'; PIECE]);
            (before < 16 * 1024 * 1024).then_some(Ok::<_, Infallible>(piece))
        });
        Body::from_stream(futures_util::stream::iter(pieces))
    };
    let listening = Listening::to(Router::new().route("/", get(answer)));
    let mut stream = listening.stranger().await;
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    stream.write_all(request).await.unwrap();
    until(|| made.load(Ordering::Relaxed) > 0).await;
    let mut before = 0;
    while before != made.load(Ordering::Relaxed) {
        before = made.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(before < 1024 * 1024, "{before} bytes were made");
}
