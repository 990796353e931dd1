//! Floods: many connections that want much, Stripe's deliveries beside them, and
//! what they cost the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use super::events::{event, sign};
use super::service::WEBHOOKS;
use super::wire::Wire;

/// How many connections a flood has: `VCB_FLOOD`, else `few`.
pub fn connections(few: usize) -> usize {
    let many = std::env::var("VCB_FLOOD").ok();
    many.map_or(few, |many| many.parse().expect("VCB_FLOOD is a number"))
}

/// How many connections of a flood are being opened at a time: fewer than the
/// service has places, so that a delivery can be sent between two of its own.
const AT_ONCE: usize = 32;

/// Connections that have sent something and hold on.
pub struct Flood {
    held: Vec<TcpStream>,
}

impl Flood {
    /// Opens `count` connections at once, each of which sends `bytes` and waits.
    /// What the service refuses or cuts off is a stranger's loss.
    pub async fn of(base: &str, count: usize, bytes: impl Into<Arc<[u8]>>) -> Self {
        let address = base
            .strip_prefix("http://")
            .expect("a plain URL")
            .to_owned();
        let bytes = bytes.into();
        let connecting = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (address, bytes) = (address.clone(), bytes.clone());
            let connecting = connecting.clone();
            opening.spawn(async move {
                let turn = connecting.acquire().await;
                let mut stream = TcpStream::connect(address).await.ok()?;
                drop(turn);
                let sending = stream.write_all(&bytes);
                // Who is not read from waits no longer than this.
                let _ = tokio::time::timeout(Duration::from_secs(3), sending).await;
                Some(stream)
            });
        }
        let held = opening.join_all().await.into_iter().flatten().collect();
        Self { held }
    }

    /// How many the service has not closed.
    pub fn open(&self) -> usize {
        let mut scratch = [0; 4_096];
        let is_open = |stream: &&TcpStream| loop {
            match stream.try_read(&mut scratch) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        };
        self.held.iter().filter(is_open).count()
    }
}

/// Stripe's deliveries, one after the other, each on a connection of its own,
/// until they are told to stop.
pub struct Deliveries {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    running: JoinHandle<()>,
}

impl Deliveries {
    /// Each must be acknowledged when it is sent first.
    pub fn to(base: &str) -> Self {
        let (base, stop) = (base.to_owned(), Arc::new(AtomicBool::new(false)));
        let (told, sent) = (stop.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = sent.clone();
        let running = tokio::spawn(async move {
            for n in 0.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let reply = deliver(&base, &format!("evt_beside_{n}"), 3_000).await;
                assert_eq!(reply, 200, "delivery {n}");
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self {
            stop,
            sent,
            running,
        }
    }

    /// Stops them; how many there were, all acknowledged.
    pub async fn acknowledged(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.expect("each is acknowledged");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Delivers one signed event of about `bytes`; the status of the answer.
pub async fn deliver(base: &str, id: &str, bytes: usize) -> u16 {
    let object = json!({"id": "plan_1", "nickname": "x".repeat(bytes)});
    let body = event(id, "plan.created", 1, object).to_string();
    let head = format!(
        "POST {WEBHOOKS} HTTP/1.1\r\nhost: test\r\nstripe-signature: {}\r\ncontent-length: {}\r\n\r\n",
        sign(body.as_bytes()),
        body.len()
    );
    let mut wire = Wire::open(base).await;
    wire.send(head + &body).await;
    wire.answer().await.status
}

/// What `/proc` says of a process in MiB: `VmRSS`, or `VmHWM` for the most there
/// ever was.
pub fn memory_mib(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.expect("the kernel says it").trim_matches(':').trim();
    let kib: u64 = kib
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .expect("a number");
    kib / 1024
}

/// Lets `VmHWM` begin anew.
pub fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("the process is ours");
}
