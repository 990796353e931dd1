//! Reading a request's body: bounded in size, in time, and in what all of them
//! may take.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use futures_util::StreamExt as _;

use super::budget::{Address, Class, Doing, Line, Payer, Permit, Shortage};
use super::layers::entry::Peer;
use crate::limits;
use crate::server::caller::Caller;
use crate::server::problem::Problem;

/// The largest body that is read.
pub const MAX_BYTES: usize = 1024 * 1024;
/// How long a body may take to arrive.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    TooSlow,
    /// The connection ended before the body did.
    Incomplete,
    /// There is no memory for it.
    Short(Shortage),
}

/// Reads a body of at most [`MAX_BYTES`], which is put down to its caller.
pub async fn read(parts: &Parts, body: Body) -> Result<Bytes, BodyError> {
    let caller = Caller::in_extensions(&parts.extensions);
    let class = match caller {
        Some(_) => Class::Api,
        None => Class::Anonymous,
    };
    let credential = caller.map(|caller| (caller.kind, caller.id));
    read_as(class, credential, parts, body).await
}

/// Reads a delivery of Stripe's, which has a share of its own.
pub async fn read_delivery(parts: &Parts, body: Body) -> Result<Bytes, BodyError> {
    read_as(Class::Intake, None, parts, body).await
}

type Credential = (&'static str, Option<uuid::Uuid>);

async fn read_as(
    class: Class,
    credential: Option<Credential>,
    parts: &Parts,
    body: Body,
) -> Result<Bytes, BodyError> {
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BYTES as u64) {
        return Err(BodyError::TooLarge);
    }
    let line = parts.extensions.get::<Peer>().map(|peer| &*peer.0);
    let payer = || match (credential, line) {
        (Some((kind, id)), _) => Payer::Credential(kind, id),
        (None, Some(line)) => {
            let proxies = line.budget.proxies();
            Payer::Address(Address::of_request(line.peer, &parts.headers, proxies))
        }
        (None, None) => Payer::Address(Address::Shared),
    };
    let reading = Reading {
        class,
        line,
        payer: &payer,
        declared: declared.and_then(|length| usize::try_from(length).ok()),
        permit: None,
        kept: Vec::new(),
    };
    let mut reading = pin!(reading.collect(body.into_data_stream()));
    // Most bodies are there already.
    let at_once = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
    if let Poll::Ready(read) = at_once {
        return read;
    }
    if let Some(line) = line {
        let delivery = class == Class::Intake;
        line.turns_to(if delivery {
            Doing::Delivery
        } else {
            Doing::Body
        });
    }
    let read = tokio::time::timeout(DEADLINE, reading).await;
    if let Some(line) = line {
        line.answers();
    }
    read.unwrap_or(Err(BodyError::TooSlow))
}

struct Reading<'a> {
    class: Class,
    /// `None` without a connection, as in tests of handlers.
    line: Option<&'a Line>,
    payer: &'a (dyn Fn() -> Payer + Sync),
    declared: Option<usize>,
    permit: Option<Permit>,
    kept: Vec<u8>,
}

impl Reading<'_> {
    /// Stops at the limit, however much follows.
    async fn collect(mut self, mut stream: BodyDataStream) -> Result<Bytes, BodyError> {
        let first = match stream.next().await {
            None => return Ok(Bytes::new()),
            Some(chunk) => chunk.map_err(|_| BodyError::Incomplete)?,
        };
        // Most bodies come in one piece, which is kept as it is.
        if self.declared == Some(first.len()) {
            return Ok(first);
        }
        let mut next = Some(first);
        while let Some(chunk) = next {
            self.add(&chunk).await?;
            drop(chunk);
            next = self.next_of(&mut stream).await?;
        }
        Ok(match self.permit {
            Some(permit) => permit.keep(self.kept),
            None => Bytes::from(self.kept),
        })
    }

    async fn add(&mut self, chunk: &Bytes) -> Result<(), BodyError> {
        let length = self.kept.len() + chunk.len();
        if length > MAX_BYTES {
            return Err(BodyError::TooLarge);
        }
        if length > self.kept.capacity() {
            let room = self.room_for(length);
            self.pay(room).await?;
            self.kept.reserve_exact(room - self.kept.len());
        }
        self.kept.extend_from_slice(chunk);
        if let (Some(permit), Some(line)) = (&self.permit, self.line) {
            permit.progress.receives(chunk.len(), line.budget.now_ms());
        }
        Ok(())
    }

    /// All of a body that says how long it is; of others a little more.
    fn room_for(&self, length: usize) -> usize {
        match self.declared {
            Some(declared) if declared >= length => declared,
            _ if length <= limits::BODY_FREE => limits::BODY_FREE,
            _ => length.next_multiple_of(limits::BODY_STEP).min(MAX_BYTES),
        }
    }

    async fn pay(&mut self, room: usize) -> Result<(), BodyError> {
        let Some(line) = self.line.filter(|_| room > limits::BODY_FREE) else {
            return Ok(());
        };
        if let Some(permit) = &mut self.permit {
            return permit.grow(room).await.map_err(BodyError::Short);
        }
        let taking = line.budget.take(self.class, (self.payer)(), room);
        self.permit = Some(taking.await.map_err(BodyError::Short)?);
        Ok(())
    }

    /// The next piece, unless others need the memory of a body that is slow.
    async fn next_of(&self, stream: &mut BodyDataStream) -> Result<Option<Bytes>, BodyError> {
        let progress = self.permit.as_ref().map(|permit| permit.progress.clone());
        let next = poll_fn(|context| {
            let given_up = progress.as_ref();
            if given_up.is_some_and(|progress| progress.poll_given_up(context).is_ready()) {
                return Poll::Ready(Some(Err(BodyError::TooSlow)));
            }
            let next = stream.poll_next_unpin(context);
            next.map(|next| next.map(|chunk| chunk.map_err(|_| BodyError::Incomplete)))
        });
        next.await.transpose()
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "a body has at most 1 MiB; send less at a time",
            ),
            BodyError::TooSlow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "the body took too long to arrive; send it again",
            ),
            BodyError::Incomplete => Self::new(
                StatusCode::BAD_REQUEST,
                "body_incomplete",
                "the body ended before its time; send it again",
            ),
            BodyError::Short(Shortage::Own) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_bytes",
                "you send too much at a time; wait, and send fewer or smaller requests at once",
            )
            .retry_after(limits::RETRY_AFTER_SECS),
            BodyError::Short(Shortage::All) => Self::unavailable(
                "too_many_bytes",
                "too many large requests are in flight; send it again",
            )
            .retry_after(limits::RETRY_AFTER_SECS),
        }
    }
}
