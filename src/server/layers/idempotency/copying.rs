//! Requests that are forwarded: their answers are passed on as they come, and
//! copied on the way; what they need to be kept for is held as long as they
//! last.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures_util::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::copies::Copy;
use super::store::{self, Answer, Lease};
use super::{Keeper, LEASE_SECS, settle};
use crate::server::layers::checks::Next;
use crate::server::problem::Problem;
use crate::server::routes::Idempotency;

const RENEW_EVERY: Duration = Duration::from_secs(20);

/// Marks an answer that an upstream is still sending. A response's extension.
#[derive(Debug, Clone, Copy)]
pub struct Streamed;

/// Carries the request out, for as long as its upstream takes: the limits of
/// time are the gateway's own.
pub async fn run(keeper: Keeper, lease: Lease, request: Request, next: Next) -> Response {
    let renewing = AbortOnDropHandle::new(tokio::spawn(
        keep_renewed(keeper.pool.clone(), lease.clone()).in_current_span(),
    ));
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = answering.await.unwrap_or_else(|_| {
        tracing::error!("a request handler panicked");
        Problem::internal().into_response()
    });
    let streamed = response.extensions().get::<Streamed>().is_some();
    if streamed && !response.status().is_server_error() {
        return copy(keeper, lease, renewing, response);
    }
    let (response, outcome) = settle(&keeper, &lease, Idempotency::Copied, response).await;
    warn_of(outcome);
    response
}

fn warn_of(outcome: Result<(), sqlx::Error>) {
    if let Err(error) = outcome {
        // The lease ends by itself, and the request can be sent again.
        tracing::warn!(%error, "the answer to an idempotency key could not be kept");
    }
}

/// Renews a lease until it is dropped, or another has it.
async fn keep_renewed(pool: PgPool, lease: Lease) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match store::renew(&pool, &lease, LEASE_SECS).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(%error, "the lease of an idempotency key was not renewed"),
        }
    }
}

type Chunk = Result<Bytes, axum::Error>;

/// Passes an answer on as it comes. Once it has ended it is kept; a client that
/// has gone away does not stop that.
fn copy(
    keeper: Keeper,
    lease: Lease,
    renewing: AbortOnDropHandle<()>,
    response: Response,
) -> Response {
    let (mut parts, body) = response.into_parts();
    // A client that counts would see the end before the answer is kept.
    parts.headers.remove(header::CONTENT_LENGTH);
    let mut answer = Answer::of(&parts, None);
    let (client, passed_on) = mpsc::channel::<Chunk>(1);
    let copying = async move {
        let _renewing = renewing;
        // The client sees the end when the answer is kept: asked again at
        // once, it is there.
        let copy = keeper.copies.begin(lease.share_of);
        match pass(body, &client, copy).await {
            Ok(mut copied) => {
                answer.body = copied.as_mut().map(Copy::take);
                warn_of(keeper.keep(&lease, answer).await);
            }
            Err(error) => {
                warn_of(store::release(&keeper.pool, &lease).await);
                let _ = client.send(Err(error)).await;
            }
        }
    };
    tokio::spawn(copying.in_current_span());
    let chunks = futures_util::stream::unfold(passed_on, |mut chunks| async move {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    Response::from_parts(parts, Body::from_stream(chunks))
}

/// Hands the chunks to `client`; their copy, where there is room for it.
async fn pass(
    body: Body,
    client: &mpsc::Sender<Chunk>,
    copy: Copy,
) -> Result<Option<Copy>, axum::Error> {
    let mut copied = Some(copy);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        copied = copied.and_then(|copy| copy.and(&chunk));
        let gone = client.is_closed() || client.send(Ok(chunk)).await.is_err();
        if gone && copied.is_none() {
            // Nobody wants the rest.
            break;
        }
    }
    Ok(copied)
}
