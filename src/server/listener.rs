//! The server: connections, and how they end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Site;
use super::budget::{Budget, Doing, Place, Stream, network};
use super::layers::entry::Entry;
use crate::limits;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open requests may take once the service stops.
const DRAIN: Duration = Duration::from_secs(10);
/// To whoever there is no place for.
static FULL: LazyLock<String> = LazyLock::new(|| {
    let problem = serde_json::json!({
        "type": "urn:valuecanvas-billing:problem:too_many_connections",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "every connection there may be is being answered; send it again",
        "code": "too_many_connections",
    });
    let body = problem.to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
         content-length: {length}\r\nretry-after: 1\r\nconnection: close\r\n\r\n{body}"
    )
});

/// Whether a listener that answers this accepts nothing any more.
fn is_final(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP].contains(&errno)
    })
}

/// Serves `site` to as many as there are descriptors for, as [`serve_within`].
pub async fn serve(listener: TcpListener, site: Site, stop: CancellationToken) {
    serve_within(Budget::of_service(0), listener, site, stop).await;
}

/// Serves `site` within `budget` until `stop`, then lets open requests end.
pub async fn serve_within(
    budget: Arc<Budget>,
    listener: TcpListener,
    site: Site,
    stop: CancellationToken,
) {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(limits::HEAD);
    let graceful = GracefulShutdown::new();
    let mut accepted = 0_u64;
    let turns = budget.clone();
    let passes = AbortOnDropHandle::new(tokio::spawn(async move { turns.turns.go_round().await }));
    loop {
        let (stream, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => match budget.admit(address) {
                    Some(place) => (stream, place),
                    None => {
                        turn_away(&stream);
                        continue;
                    }
                },
                Err(error) if is_final(&error) => {
                    tracing::error!(%error, "the listener is gone");
                    break;
                }
                Err(error) => {
                    // Out of file descriptors, say: others must close first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        keep_little_unsent(&stream);
        tokio::spawn(keep(&builder, graceful.watcher(), &site, stream, place));
        accepted += 1;
        // What it has sent is read before another may take its place, and a flood of new
        // connections waits for those that are there.
        if budget.is_full() || accepted.is_multiple_of(limits::ACCEPTED_IN_TURN) {
            tokio::task::yield_now().await;
        }
    }
    drop(listener);
    if !stop.is_cancelled() {
        // Whoever runs this is to know at once.
        return;
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some requests were still open and are cut off");
    }
    drop(passes);
}

/// Answers the requests of one connection, until it ends or must go.
fn keep(
    builder: &Builder,
    watcher: Watcher,
    site: &Site,
    stream: TcpStream,
    place: Place,
) -> impl Future<Output = ()> + Send + use<> {
    let line = place.0.clone();
    let service = TowerToHyperService::new(Entry::new(site.clone(), line.clone()));
    let io = TokioIo::new(Stream::new(stream, line.clone()));
    let connection = watcher.watch(builder.serve_connection(io, service));
    async move {
        let _place = place;
        let mut connection = pin!(Some(connection));
        let seat = line.budget.turns.seat(network(line.peer.ip()));
        let ended = poll_fn(|context| {
            if line.poll_told(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            // What has begun may hold what others wait for.
            let has_begun = line.doing() == Doing::Answering;
            seat.poll(context, has_begun, |context| {
                line.takes_turn();
                let Some(serving) = connection.as_mut().as_pin_mut() else {
                    return Poll::Ready(Ok(()));
                };
                let ended = ready!(serving.poll(context));
                // Closing takes its time as well: what was not read is thrown away.
                connection.set(None);
                Poll::Ready(ended)
            })
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// However large the system's buffers are, no connection fills them in one turn with
/// what its client does not read.
fn keep_little_unsent(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(limits::UNSENT);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// Says so and closes, whatever the client makes of it.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(FULL.as_bytes());
}
