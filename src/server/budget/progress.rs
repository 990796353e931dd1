//! How far what is in memory has come: who is slow gives way when others need it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::Line;
use crate::limits;

/// How far a body has come, or the reading of an answer.
#[derive(Default)]
pub struct Progress {
    received: AtomicUsize,
    last_ms: AtomicU64,
    complete: AtomicBool,
    given_up: AtomicBool,
    waker: AtomicWaker,
    reader: OnceLock<Reader>,
}

/// Whose client reads an answer.
struct Reader {
    line: Arc<Line>,
    /// What was written to it before.
    written: u64,
}

impl Progress {
    pub fn receives(&self, bytes: usize, now_ms: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Whether nothing is to be waited for: it is whole, or has not begun.
    pub(super) fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Ordering::Relaxed);
    }

    /// From now on the client of `line` is to read it.
    pub(super) fn is_read_by(&self, line: Arc<Line>) {
        let (written, _) = line.written();
        let _ = self.reader.set(Reader { line, written });
        self.set_complete(false);
    }

    /// Ready once others need its memory, and it is slow.
    pub fn poll_given_up(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.given_up.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    pub(super) fn is_slow(&self, began_ms: u64, now_ms: u64) -> bool {
        if self.complete.load(Ordering::Relaxed) {
            return false;
        }
        let since = |then: u64| now_ms.saturating_sub(then);
        let (moved, last_ms) = self.moved();
        let stalled = since(last_ms.max(began_ms));
        let stall = u64::try_from(limits::BODY_STALL.as_millis()).unwrap_or(u64::MAX);
        let due = since(began_ms).saturating_sub(stall) * limits::BODY_BYTES_PER_SEC / 1_000;
        stalled >= stall || moved < due
    }

    /// How many bytes went on, and when the last of them.
    fn moved(&self) -> (u64, u64) {
        match self.reader.get() {
            Some(reader) => {
                let (written, wrote_ms) = reader.line.written();
                (written.saturating_sub(reader.written), wrote_ms)
            }
            None => {
                let last_ms = self.last_ms.load(Ordering::Relaxed);
                (self.received.load(Ordering::Relaxed) as u64, last_ms)
            }
        }
    }

    /// Gives the body up, since others need its memory: its sender is stopped, or its reader
    /// disconnected.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(reader) = self.reader.get() {
            reader.line.tell_to_go();
        }
    }
}
