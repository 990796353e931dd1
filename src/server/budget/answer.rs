//! Responses on their way out. Their bytes in memory count against the budget until they
//! are written, however slowly a client reads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::line::Line;
use super::shares::{Class, Payer, Permit, Shortage};
use crate::limits;

/// Takes memory for an answer that is made already, until its last byte is written. What
/// is streamed is in memory by pieces only, and waits for its client.
pub async fn charge(
    line: &Arc<Line>,
    payer: Payer,
    response: Response,
) -> Result<Response, Shortage> {
    let length = response.body().size_hint().exact();
    let length = length.and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length > limits::ANSWER_FREE) else {
        return Ok(response);
    };
    let (_, own) = Class::Answers.limits();
    let permit = line.budget.take(Class::Answers, payer, length.min(own));
    let permit = permit.await?;
    permit.is_read_by(line.clone());
    let permit = Arc::new(permit);
    Ok(response.map(|body| Body::new(Charged { body, permit })))
}

/// A body whose bytes hold the memory that was taken for it.
struct Charged {
    body: Body,
    permit: Arc<Permit>,
}

impl HttpBody for Charged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let permit = &self.permit;
        let held = |frame: Frame<Bytes>| frame.map_data(|bytes| Permit::hold(permit, bytes));
        Poll::Ready(frame.map(|frame| frame.map(held)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer: once it is out, its connection rests. It is handed out in
/// pieces, no further than its client reads: hyper would queue up to the size of a head.
pub struct Answer {
    body: Body,
    line: Arc<Line>,
    /// What is left of a chunk.
    rest: Bytes,
    /// `None` for a small response, which is not counted.
    unwritten: Option<Arc<Unwritten>>,
}

impl Answer {
    pub fn new(body: Body, line: Arc<Line>) -> Self {
        let length = body.size_hint().exact();
        let is_small = length.is_some_and(|length| length <= limits::ANSWER_FREE as u64);
        Self {
            body,
            line,
            rest: Bytes::new(),
            unwritten: (!is_small).then(Arc::default),
        }
    }

    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        unwritten: &Arc<Unwritten>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        ready!(unwritten.poll_room(context));
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(chunk))) => self.rest = chunk,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(limits::ANSWER_PIECE);
        let piece = unwritten.count(self.rest.split_to(length));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.line.rests();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.unwritten.clone() {
            Some(unwritten) => self.poll_piece(context, &unwritten),
            None => Pin::new(&mut self.body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(of_body.lower() + rest);
        hint
    }
}

/// What was handed out and is not written yet.
#[derive(Default)]
struct Unwritten {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Unwritten {
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let has_room = || self.bytes.load(Ordering::Acquire) < limits::UNWRITTEN;
        if has_room() {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // It may have been written between.
        if has_room() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Piece {
            bytes,
            unwritten: self.clone(),
        })
    }
}

struct Piece {
    bytes: Bytes,
    unwritten: Arc<Unwritten>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let length = self.bytes.len();
        self.unwritten.bytes.fetch_sub(length, Ordering::Release);
        self.unwritten.waker.wake();
    }
}
