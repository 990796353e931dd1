//! `demo`: what it prints can be used, and nothing of it stays.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use embedded_postgres::{self, EmbeddedPostgres};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use valuecanvas_billing::app::EMBEDDED;
use valuecanvas_billing::http_client;

use crate::support::program::{program, run};

/// The deployment guide's "Useful Commands".
const MIGRATIONS: &str = "SELECT * FROM _prisma_migrations ORDER BY finished_at DESC LIMIT 10;";
const WAITING: &str = "SELECT COUNT(*) FROM webhook_events WHERE processed = false;";
const DEAD_LETTERS: &str = "SELECT COUNT(*) FROM webhook_dead_letter_queue;";
const AUDIT_LOG: &str = "SELECT * FROM billing_audit_log ORDER BY created_at DESC LIMIT 10;";
const GRACE_PERIODS: &str = "SELECT * FROM grace_periods WHERE expires_at > NOW();";

const EVENTS: &str = "SELECT COUNT(*) FROM webhook_events;";

/// A running `demo`, stopped with the test.
pub struct Demo {
    child: Child,
    /// Open as long as it runs: it ends once nobody reads what it prints.
    stdout: Lines<BufReader<ChildStdout>>,
    announced: String,
    scratch: TempDir,
    data_dir: PathBuf,
}

impl Demo {
    /// Returns when it has printed all that a newcomer needs.
    pub fn start() -> Self {
        Self::start_with(&["demo"])
    }

    fn start_with(arguments: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let data_dir = scratch.path().join("data");
        Self::run(arguments, scratch, data_dir)
    }

    /// One more in the data directory of one that ended.
    pub fn start_in(data_dir: &Path) -> Self {
        Self::run(&["demo"], tempfile::tempdir().unwrap(), data_dir.to_owned())
    }

    fn run(arguments: &[&str], scratch: TempDir, data_dir: PathBuf) -> Self {
        // Root's cluster runs as another user, who has to get there.
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o711)).unwrap();
        let log = File::create(scratch.path().join("log")).unwrap();
        let mut child = program(arguments)
            .env("DATA_DIR", &data_dir)
            .env("LISTEN_ADDR", "127.0.0.1:0")
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut demo = Self {
            child,
            stdout,
            announced: String::new(),
            scratch,
            data_dir,
        };
        while !demo.announced.contains("^C stops it") {
            let Some(line) = demo.stdout.next() else {
                panic!("it ended: {}", demo.log());
            };
            demo.announced += &format!("{}\n", line.unwrap());
        }
        demo
    }

    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// What it printed behind `label`.
    pub fn printed(&self, label: &str) -> &str {
        let mut lines = self.announced.lines().map(str::trim_start);
        let found = lines.find_map(|line| line.strip_prefix(label));
        let found = found.map(str::trim).filter(|found| !found.is_empty());
        found.unwrap_or_else(|| panic!("no {label:?}: {}", self.announced))
    }

    /// What psql prints for a query, called as the guide does.
    fn psql(&self, database_url: &str, query: &str) -> String {
        let ran = run(Command::new("sh")
            .args([
                "-c",
                "\"$0\" -XAt -v ON_ERROR_STOP=1 $DATABASE_URL -c \"$1\"",
            ])
            .arg(embedded_postgres::program("psql").expect("psql is installed"))
            .arg(query)
            .env("DATABASE_URL", database_url));
        assert_eq!(ran.status, 0, "{query}: {}", ran.stderr);
        ran.stdout.trim().to_owned()
    }

    /// Asks until there is a row, or a count that is not zero.
    async fn until_shown(&self, database_url: &str, query: &str) {
        for _ in 0..600 {
            if !matches!(&*self.psql(database_url, query), "" | "0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{query} shows nothing: {}", self.log());
    }

    fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
    }
}

impl Drop for Demo {
    /// Killed, it would leave its database running.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

/// What `status` prints.
fn status(data_dir: &Path, output: &str) -> String {
    let status = run(program(&["status", "--output", output]).env("DATA_DIR", data_dir));
    assert_eq!(status.status, 0, "{}", status.stderr);
    status.stdout
}

/// A variable, once a shell has read what `status` printed.
fn evaluated(data_dir: &Path, variable: &str) -> String {
    let shell = run(Command::new("sh")
        .args(["-c", &format!("eval \"$0\"; printf %s \"${variable}\"")])
        .arg(status(data_dir, "env"))
        .env_remove(variable));
    shell.stdout
}

async fn log_in(demo: &Demo, address: &str) -> Value {
    let login = demo.printed("Login  ");
    let (email, password) = login.split_once(" / ").expect("an address and a password");
    let answer = http_client::direct_client()
        .unwrap()
        .post(format!("{address}/api/auth/login"))
        .json(&json!({"email": email, "password": password}))
        .send()
        .await
        .unwrap_or_else(|error| panic!("{error:?}: {}", demo.log()));
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// The answer to whoever asks for their usage with this token or key.
async fn usage_status(address: &str, bearer: &str) -> u16 {
    let usage = http_client::direct_client()
        .unwrap()
        .get(format!("{address}/api/billing/usage"))
        .bearer_auth(bearer);
    usage.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn what_the_demo_prints_works_and_nothing_of_it_stays() {
    let mut demo = Demo::start();
    let address = demo.printed("API  ").to_owned();
    let database = evaluated(&demo.data_dir(), "DATABASE_URL");
    assert_eq!(demo.printed("Database  "), database);

    let token = log_in(&demo, &address).await;
    let token = token["token"].as_str().expect("a token");
    for bearer in [token, demo.printed("API key  ")] {
        assert_eq!(usage_status(&address, bearer).await, 200, "{bearer}");
    }

    for query in [MIGRATIONS, EVENTS, AUDIT_LOG, DEAD_LETTERS] {
        demo.until_shown(&database, query).await;
    }
    let waiting = demo.psql(&database, WAITING);
    assert!(waiting.parse::<u64>().is_ok(), "a count: {waiting:?}");
    // Whether anybody has one by now is a matter of chance.
    demo.psql(&database, GRACE_PERIODS);

    let data_dir = demo.data_dir();
    let endpoint = EmbeddedPostgres::running(EMBEDDED, &data_dir)
        .await
        .unwrap();
    let postmaster = endpoint.expect("it runs").cluster().join("postmaster.pid");
    assert!(postmaster.exists());
    demo.terminate();
    let ended = demo.child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", demo.log());
    assert!(!postmaster.exists(), "{}", demo.log());
    assert!(
        EmbeddedPostgres::running(EMBEDDED, &data_dir)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn its_operator_has_a_password_of_one_run_and_is_disabled_by_serve() {
    let operator = |demo: &Demo| {
        let report: Value = serde_json::from_str(&status(&demo.data_dir(), "json")).unwrap();
        let password = report["demo"]["operatorPassword"].as_str().unwrap();
        json!({"email": report["demo"]["operator"], "password": password})
    };
    let log_in = async |address: &str, login: &Value| {
        let url = format!("{address}/api/auth/login");
        let client = http_client::direct_client().unwrap();
        let answer = client.post(url).json(login).send().await.unwrap();
        answer.status().as_u16()
    };
    let mut first = Demo::start();
    let data_dir = first.data_dir();
    let before = operator(&first);
    assert_eq!(log_in(first.printed("API  "), &before).await, 200);
    first.terminate();
    first.child.wait().unwrap();
    let mut second = Demo::start_in(&data_dir);
    let now = operator(&second);
    assert_eq!(log_in(second.printed("API  "), &before).await, 401);
    assert_eq!(log_in(second.printed("API  "), &now).await, 200);
    second.terminate();
    second.child.wait().unwrap();

    let mut serve = program(&["serve"])
        .env("DATA_DIR", &data_dir)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let disabled = || {
        let listed = program(&["users", "list", "--json"])
            .env("DATA_DIR", &data_dir)
            .output()
            .unwrap();
        let users: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        let users = users.as_array().cloned().unwrap_or_default();
        users.iter().any(|user| {
            user["email"] == "demo-operator@example.com" && !user["disabledAt"].is_null()
        })
    };
    let mut seen = false;
    for _ in 0..120 {
        seen = disabled();
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let pid = Pid::from_child(&serve);
    kill_process(pid, Signal::TERM).unwrap();
    serve.wait().unwrap();
    assert!(seen, "serve disables it");
}

#[test]
fn status_shows_how_to_use_a_running_demo() {
    let mut demo = Demo::start();
    let data_dir = demo.data_dir();
    let address = demo.printed("API  ").to_owned();
    let console = format!("{address}/console");
    let signing_in = demo.printed("Console  ").to_owned();
    let signing_in = signing_in
        .strip_prefix(&format!("{console} (demo-operator@example.com / "))
        .unwrap();
    let operator_password = signing_in.strip_suffix(')').unwrap();
    let (login, key) = (demo.printed("Login  "), demo.printed("API key  "));
    let (email, password) = login.split_once(" / ").unwrap();

    let pretty = status(&data_dir, "pretty");
    for shown in [&*address, login, key, demo.printed("Database  ")] {
        assert!(pretty.contains(shown), "{shown}: {pretty}");
    }
    let report: Value = serde_json::from_str(&status(&data_dir, "json")).unwrap();
    for (field, value) in [
        ("console", &*console),
        ("operator", "demo-operator@example.com"),
        ("operatorPassword", operator_password),
        ("url", &*address),
        ("email", email),
        ("password", password),
        ("apiKey", key),
    ] {
        assert_eq!(report["demo"][field], value, "{report}");
    }
    for (variable, value) in [
        ("BILLING_URL", &*address),
        ("BILLING_EMAIL", email),
        ("BILLING_PASSWORD", password),
        ("BILLING_API_KEY", key),
    ] {
        assert_eq!(evaluated(&data_dir, variable), value);
    }
    demo.terminate();
    demo.child.wait().unwrap();
    let report: Value = serde_json::from_str(&status(&data_dir, "json")).unwrap();
    assert_eq!(report["demo"], Value::Null);
}

/// The messages of log lines at `level`.
fn logged(demo: &Demo, level: &str) -> Vec<String> {
    let log = demo.log();
    let entries = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let of_level = entries.filter(|entry: &Value| entry["level"] == level);
    of_level
        .map(|entry| entry["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[tokio::test]
async fn the_terminal_is_quiet_unless_asked_otherwise() {
    let mut quiet = Demo::start();
    let database = evaluated(&quiet.data_dir(), "DATABASE_URL");
    quiet.until_shown(&database, EVENTS).await;
    // A line about what happens comes by itself.
    let mut said = quiet.stdout.by_ref().map(Result::unwrap);
    let line = said.find(|line| line.contains("subscription change"));
    let line = line.expect("it goes on");
    assert!(line.contains("dead letter"), "{line}");
    assert_eq!(logged(&quiet, "INFO"), Vec::<String>::new());

    let verbose = Demo::start_with(&["demo", "--verbose"]);
    assert!(logged(&verbose, "INFO").contains(&"Listening".to_owned()));
}

#[test]
fn a_malformed_number_is_one_line_that_names_it() {
    let scratch = tempfile::tempdir().unwrap();
    for (variable, value) in [
        ("WEBHOOK_MAX_RETRIES", "twenty"),
        ("WEBHOOK_MAX_RETRIES", "-1"),
        ("WEBHOOK_MAX_RETRIES", "1001"),
        ("WORKER_CONCURRENCY", "1.5"),
    ] {
        let mut demo = program(&["demo"]);
        demo.env("DATA_DIR", scratch.path()).env(variable, value);
        let ran = run(&mut demo);
        let expected = format!("error: {variable}: ");
        assert_eq!(ran.status, 2, "{variable}={value}: {}", ran.stderr);
        assert!(ran.stderr.starts_with(&expected), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert_eq!(ran.stdout, "", "{variable}={value}");
    }
    let touched = fs::read_dir(&scratch).unwrap().count();
    assert_eq!(touched, 0, "nothing is touched");
}
