//! What attackers do with sockets, and as many of them as there are to be.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::RequestBuilder;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::world::World;

pub type Act = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// One way to attack. `run` goes on until it is dropped.
#[derive(Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    /// What it would break.
    pub promise: &'static str,
    /// Deliveries and checks that are answered 503 are sent again: the database
    /// itself goes away.
    pub sent_again: bool,
    /// What it needs to be there first.
    pub before: Option<fn(Arc<World>) -> Act>,
    pub run: fn(Arc<World>) -> Act,
}

impl Attack {
    pub const fn new(
        name: &'static str,
        promise: &'static str,
        run: fn(Arc<World>) -> Act,
    ) -> Self {
        Self {
            name,
            promise,
            sent_again: false,
            before: None,
            run,
        }
    }
}

/// Between one act of an attacker and its next.
const PAUSE: Duration = Duration::from_millis(3);

/// `count` attackers, each of whom acts again and again. An act is told a number
/// that no other has.
pub async fn crowd<A, F>(world: &Arc<World>, count: usize, act: A)
where
    A: Fn(Arc<World>, usize) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut attackers = JoinSet::new();
    for attacker in 0..count.max(1) {
        let (world, act) = (world.clone(), act.clone());
        attackers.spawn(async move {
            for round in 0.. {
                act(world.clone(), round * 1_000_000 + attacker).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
    attackers.join_all().await;
}

/// Well-formed requests; their answers are read to the end.
pub async fn requests<R>(world: &Arc<World>, count: usize, request: R)
where
    R: Fn(&World, usize) -> RequestBuilder + Clone + Send + Sync + 'static,
{
    crowd(world, count, move |world, number| {
        let request = request.clone();
        async move {
            if let Ok(answer) = request(&world, number).send().await {
                let _ = answer.bytes().await;
            }
        }
    })
    .await;
}

/// From one of the attackers' addresses, which are not the control's, where this
/// host has several.
pub async fn connect(world: &World) -> io::Result<TcpStream> {
    socket(world)?.connect(world.address).await
}

fn socket(world: &World) -> io::Result<TcpSocket> {
    world.hit();
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let _ = socket.bind(world.attackers_address());
    Ok(socket)
}

/// A connection whose client has room for next to nothing.
pub async fn connect_narrow(world: &World) -> io::Result<TcpStream> {
    let socket = socket(world)?;
    socket.set_recv_buffer_size(4 * 1024)?;
    socket.connect(world.address).await
}

/// Connections that send `bytes`, and wait until they are closed.
pub async fn sends_and_waits(world: &Arc<World>, count: usize, bytes: Vec<u8>) {
    let bytes: Arc<[u8]> = bytes.into();
    crowd(world, count, move |world, _| {
        let bytes = bytes.clone();
        async move {
            if let Ok(mut stream) = connect(&world).await {
                let _ = stream.write_all(&bytes).await;
                drain(&mut stream).await;
            }
        }
    })
    .await;
}

/// Connections that send `start`, and then `more` once in a while, for as long as
/// they are let.
pub async fn drips(world: &Arc<World>, count: usize, start: String, more: &'static str) {
    let start: Arc<str> = start.into();
    crowd(world, count, move |world, _| {
        let start = start.clone();
        async move {
            let Ok(mut stream) = connect(&world).await else {
                return;
            };
            let mut going = stream.write_all(start.as_bytes()).await;
            while going.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                world.hit();
                going = stream.write_all(more.as_bytes()).await;
            }
        }
    })
    .await;
}

/// Reads until the service closes.
pub async fn drain(stream: &mut TcpStream) {
    let mut scratch = vec![0; 16 * 1024];
    while stream.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
}

/// A connection is reset rather than closed.
pub fn reset(stream: TcpStream) {
    let _ = stream.set_zero_linger();
}

/// A request's head, for a body of `length` bytes.
pub fn head(method: &str, path: &str, headers: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: billing\r\n{headers}content-length: {length}\r\n\r\n"
    )
}

/// A request whose body is `length` bytes of nothing, of which the last are not
/// sent.
pub fn unfinished(path: &str, headers: &str, length: usize) -> Vec<u8> {
    let mut bytes = head("POST", path, headers, length).into_bytes();
    bytes.resize(bytes.len() + length - 1_000, b'x');
    bytes
}

pub const JSON: &str = "content-type: application/json\r\n";
pub const MIB: usize = 1024 * 1024;
