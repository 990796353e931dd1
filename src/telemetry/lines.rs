//! A separate thread writes log lines: threads that log do not wait for the disk
//! or the terminal, and lines that arrive together are written together. No line
//! is lost: loggers wait while the buffer is full, and all lines are written
//! before the process ends or panics. Only when the reader of the log has stopped
//! are lines dropped, and counted: nobody waits for it twice.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics;

/// Maximum size of the buffer.
const BUFFER_BYTES: usize = 4 << 20;
/// How long the first line waits for others to be written with it.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the process, or the first line without room, waits for a
/// reader that has stopped.
const PATIENCE: Duration = Duration::from_secs(5);

/// The buffer of lines; clones share it.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    patience: Duration,
    state: Mutex<State>,
    /// A line arrived, or all were written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// The writer is writing some.
    writing: bool,
    /// The writer sleeps until a line arrives.
    idle: bool,
    /// A thread waits for the writer.
    hurry: bool,
    /// The reader has stopped: nobody waits until the writer continues.
    stuck: bool,
    /// Lines dropped since then.
    lost: u64,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        Self::patiently_to(out, PATIENCE)
    }

    fn patiently_to(out: impl Write + Send + 'static, patience: Duration) -> io::Result<Self> {
        let lines = Self(Arc::new(Shared {
            patience,
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let shared = lines.0.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(out))?;
        Ok(lines)
    }

    /// Waits until every line is written.
    pub fn flush(&self) {
        let mut state = self.0.state();
        state.hurry = true;
        self.0.changed.notify_all();
        let pending = |state: &mut State| state.writing || !state.waiting.is_empty();
        let patience = self.0.patience;
        let waited = self.0.changed.wait_timeout_while(state, patience, pending);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hurry = false;
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        if state.is_full() && !state.stuck {
            state.hurry = true;
            self.0.changed.notify_all();
            let patience = self.0.patience;
            let full = |state: &mut State| state.is_full() && !state.stuck;
            let waited = self.0.changed.wait_timeout_while(state, patience, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.stuck = state.is_full();
        }
        if state.is_full() {
            state.lost += 1;
            metrics::log::line_lost();
            return Ok(line.len());
        }
        state.waiting.extend_from_slice(line);
        if state.idle {
            state.idle = false;
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.waiting.len() >= BUFFER_BYTES
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() {
                state.idle = true;
                state = self.wait(state);
            }
            state.idle = false;
            let gathered = self
                .changed
                .wait_timeout_while(state, GATHER, |state| !state.hurry);
            let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.waiting, &mut batch);
            state.writing = true;
            drop(state);
            // There is nowhere to report that the log cannot be written.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            let mut state = self.state();
            state.writing = false;
            state.stuck = false;
            let lost = std::mem::take(&mut state.lost);
            if lost > 0 {
                state.waiting.extend_from_slice(&notice_of(lost));
            }
            if state.waiting.is_empty() {
                state.hurry = false;
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}

/// The line that stands in the log where others are missing.
fn notice_of(lost: u64) -> Vec<u8> {
    let line = serde_json::json!({
        "timestamp": jiff::Timestamp::now(),
        "level": "ERROR",
        "message": "log lines were dropped because the reader of the log had stopped",
        "lines": lost,
    });
    format!("{line}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slowly read pipe.
    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(1));
            let some = bytes.len().min(256 << 10);
            self.0.lock().unwrap().extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks until it is read.
    #[derive(Clone, Default)]
    struct Stopped(Arc<(Mutex<Option<Vec<u8>>>, Condvar)>);

    impl Stopped {
        fn read(&self) {
            *self.0.0.lock().unwrap() = Some(Vec::new());
            self.0.1.notify_all();
        }
    }

    impl Write for Stopped {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let written = self.0.0.lock().unwrap();
            let mut written = self.0.1.wait_while(written, |read| read.is_none()).unwrap();
            written.as_mut().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_twice_for_a_reader_that_has_stopped() {
        let out = Stopped::default();
        let mut lines = Lines::patiently_to(out.clone(), Duration::from_millis(50)).unwrap();
        let line = [b"x".repeat(1_023), b"\n".to_vec()].concat();
        // Twice as many as the buffer and the writer take.
        let all = 4 * BUFFER_BYTES / line.len();
        for _ in 0..all {
            lines.write_all(&line).unwrap();
        }
        out.read();
        while lines.0.state().lost > 0 {
            std::thread::yield_now();
        }
        lines.write_all(b"after\n").unwrap();
        while !lines.0.state().waiting.is_empty() || lines.0.state().writing {
            std::thread::yield_now();
        }
        let written = String::from_utf8(out.0.0.lock().unwrap().clone().unwrap()).unwrap();
        let kept = written.lines().filter(|line| line.starts_with('x')).count();
        let notices: Vec<serde_json::Value> = written
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        assert_eq!(notices.len(), 1, "{notices:?}");
        assert!(kept < all);
        assert_eq!(notices[0]["lines"].as_u64().unwrap() as usize, all - kept);
        assert!(written.ends_with("after\n"));
    }

    #[test]
    fn no_line_is_lost_or_torn_when_there_are_more_than_the_buffer_takes() {
        let out = Slow::default();
        let lines = Lines::to(out.clone()).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let mut lines = lines.clone();
                std::thread::spawn(move || {
                    for n in 0..20_000 {
                        let line = format!("{thread} {n} {}\n", "x".repeat(100));
                        lines.write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        lines.flush();
        let written = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        for thread in 0..4 {
            let of: Vec<&str> = written
                .lines()
                .filter(|line| line.starts_with(&format!("{thread} ")))
                .collect();
            let whole =
                |(n, line): (usize, &&str)| **line == format!("{thread} {n} {}", "x".repeat(100));
            assert_eq!(of.len(), 20_000);
            assert!(of.iter().enumerate().all(whole), "thread {thread}");
        }
    }
}
