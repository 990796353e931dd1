//! The server: connections, and how they end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Site;
use super::budget::{Budget, Place, Stream};
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
        tokio::spawn(keep(&builder, graceful.watcher(), &site, stream, place));
        if budget.is_full() {
            // What it has sent is read before another may take its place.
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
        let mut connection = pin!(connection);
        let ended = poll_fn(|context| {
            if line.poll_told(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            connection.as_mut().poll(context)
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

/// Says so and closes, whatever the client makes of it.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(FULL.as_bytes());
}
