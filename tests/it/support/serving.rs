//! `serve` as a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::TestDatabase;
use super::events::SECRET;
use super::program::{Ran, program_on};

/// A running `serve`, killed with the test.
pub struct Serving {
    child: Child,
    pub base: String,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts it on `db`, with [`SECRET`] and a free port.
    pub fn on(db: &TestDatabase) -> Self {
        Self::start(&mut serve_on(db))
    }

    /// Starts a command that [`serve_on`] made.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let base = loop {
            let line = match lines.next() {
                Some(line) => line.unwrap(),
                None => panic!("it ended: {said}"),
            };
            said += &format!("{line}\n");
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            if entry["message"] == "Listening" {
                break format!("http://{}", entry["address"].as_str().unwrap());
            }
        };
        let log = Arc::new(Mutex::new(said));
        let kept = log.clone();
        let reading = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *kept.lock().unwrap() += &format!("{line}\n");
            }
        });
        Self {
            child,
            base,
            log,
            reading: Some(reading),
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// How many bytes it has logged so far.
    pub fn logged(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// How it ended, if it did.
    pub fn ended_with(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }

    /// Waits for its end. What it logged is in `stderr`.
    pub async fn ended(mut self) -> Ran {
        for _ in 0..4_000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                let _ = self.reading.take().unwrap().join();
                return Ran {
                    status: status.code().unwrap_or(-1),
                    stdout: String::new(),
                    stderr: self.log(),
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it does not end: {}", self.log());
    }

    /// SIGTERM, and its end.
    pub async fn terminated(self) -> Ran {
        self.signal(Signal::TERM);
        self.ended().await
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `serve` on `db`, not started yet.
pub fn serve_on(db: &TestDatabase) -> Command {
    let mut command = program_on(db, &["serve"]);
    command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STRIPE_WEBHOOK_SECRET", SECRET)
        .env("LOG_FORMAT", "json");
    command
}

/// The same, by a shell that sets limits first: `ulimit -n 300`.
pub fn serve_under(limits: &str, db: &TestDatabase) -> Command {
    let serve = serve_on(db);
    under(limits, serve.get_program(), &serve)
}

/// `serve`, by `program` and by a shell that does something first.
pub fn under(limits: &str, program: &OsStr, serve: &Command) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg(format!("{limits}; exec \"$0\" \"$@\""))
        .arg(program)
        .args(serve.get_args())
        .env_clear()
        .envs(
            serve
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(serve.get_current_dir().expect("it has one"))
        .stdin(Stdio::null());
    command
}

/// The entries of a log in JSON that have this message.
pub fn entries(log: &str, message: &str) -> Vec<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| entry["message"] == message)
        .collect()
}
