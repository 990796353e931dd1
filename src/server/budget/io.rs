//! A connection's bytes on their way in and out, seen from its budget.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::Growth;
use super::line::{Doing, Line};
use crate::limits;

/// A connection's stream: reads little at a time, counts heads, and ends when
/// its client reads nothing.
pub struct Stream {
    inner: Take<TcpStream>,
    line: Arc<Line>,
    /// What there is of the head that is not complete.
    head: usize,
    /// The connection's turn, and the bytes that were read and written in it.
    turn: u32,
    moved: usize,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    pub fn new(inner: TcpStream, line: Arc<Line>) -> Self {
        Self {
            inner: inner.take(limits::READ as u64),
            line,
            head: 0,
            turn: 0,
            moved: 0,
            stalled: None,
        }
    }

    /// Whether a head may grow by what is read next.
    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.head < limits::HEAD_FREE || self.line.doing() != Doing::Head {
            return Poll::Ready(Ok(()));
        }
        let length = self.head + limits::READ;
        match self.line.budget.head_grows(&self.line, length) {
            Growth::Now => Poll::Ready(Ok(())),
            Growth::Soon => {
                // Behind those who were told to go, who were woken before.
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Growth::Never => Poll::Ready(Err(ErrorKind::OutOfMemory.into())),
        }
    }

    fn count(&mut self, read: usize) {
        match self.line.doing() {
            Doing::Idle if read > 0 => {
                self.line.turns_to(Doing::Head);
                self.head = read;
            }
            Doing::Head => self.head += read,
            _ => self.head = 0,
        }
    }

    /// Whether the connection may go on in this turn. However fast its client is, the
    /// others are not kept waiting for all of it.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let turn = self.line.turn();
        if self.turn != turn {
            self.turn = turn;
            self.moved = 0;
        }
        if self.moved < limits::MOVED_IN_TURN {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn wrote(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.stalled = None;
            let bytes = written.as_ref().map_or(0, |bytes| *bytes);
            self.moved += bytes;
            self.line.wrote(bytes);
            return Poll::Ready(written);
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(limits::ANSWER_STALL)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_turn(context));
        ready!(this.poll_room(context))?;
        let before = buffer.filled().len();
        this.inner.set_limit(limits::READ as u64);
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        this.moved += read;
        this.count(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(context));
        let written = Pin::new(self.inner.get_mut()).poll_write(context, bytes);
        self.wrote(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(context));
        let written = Pin::new(self.inner.get_mut()).poll_write_vectored(context, slices);
        self.wrote(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.get_mut()).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner.get_mut()).poll_shutdown(context)
    }
}
