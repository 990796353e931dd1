//! `serve` on its embedded PostgreSQL, both of which can be killed.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use embedded_postgres::EmbeddedPostgres;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use valuecanvas_billing::app::EMBEDDED;

use crate::support::events::SECRET;
use crate::support::ports::reserved;
use crate::support::program;
use crate::webhooks::workbench::PASS_TIME;

pub struct Rig {
    pub base: String,
    address: String,
    directory: TempDir,
    service: Option<Child>,
}

impl Rig {
    /// In a directory below `place`, else where temporary files are.
    pub async fn start(place: Option<&Path>) -> Self {
        let directory = match place {
            Some(place) => TempDir::new_in(place).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        // The server's user must get through.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        // One that every service of this rig has.
        let port = reserved();
        let mut rig = Self {
            base: format!("http://{port}"),
            address: port.to_string(),
            directory,
            service: None,
        };
        rig.spawn_service();
        rig.until_ready().await;
        rig
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::program(arguments);
        command
            .env("DATA_DIR", self.data_dir())
            .env("LISTEN_ADDR", &self.address)
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("WEBHOOK_MAX_RETRIES", "1")
            .env("WORKER_CONCURRENCY", "2")
            .env("RUST_LOG", "warn");
        command
    }

    /// Runs a command that must succeed.
    pub fn program(&self, arguments: &[&str]) {
        let ran = program::run(&mut self.command(arguments));
        assert_eq!(ran.status, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }

    pub fn spawn_service(&mut self) {
        let log = self.directory.path().join("service.log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.command(&["serve"]);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.service = Some(child.expect("the service starts"));
    }

    async fn until_ready(&mut self) {
        let client = valuecanvas_billing::http_client::http_client().unwrap();
        loop {
            let answer = client.get(format!("{}/readyz", self.base)).send().await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            if let Some(status) = self.service.as_mut().unwrap().try_wait().unwrap() {
                panic!("the service ended: {status}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("service.log")).unwrap_or_default()
    }

    pub fn kill_service(&mut self) {
        let mut service = self.service.take().expect("a service runs");
        assert_eq!(service.try_wait().unwrap(), None, "{}", self.log());
        service.kill().unwrap();
        service.wait().unwrap();
    }

    pub fn kill_postgres(&self) {
        kill_process(self.postmaster().expect("PostgreSQL runs"), Signal::KILL).unwrap();
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.parse().ok()?)
    }

    /// The service's database, as superuser.
    pub async fn connect(&self) -> Inbox {
        loop {
            if let Ok(Some(endpoint)) = EmbeddedPostgres::running(EMBEDDED, &self.data_dir()).await
                && let Ok(connection) = PgConnection::connect(&endpoint.admin_url()).await
            {
                return Inbox(tokio::sync::Mutex::new(connection));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the service as an operator does, and PostgreSQL with it.
    pub fn stop(mut self) {
        let mut service = self.service.take().expect("a service runs");
        let pid = Pid::from_child(&service);
        kill_process(pid, Signal::TERM).unwrap();
        assert!(service.wait().unwrap().success(), "{}", self.log());
        assert_eq!(self.postmaster(), None);
    }
}

/// What a test that failed leaves.
impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut service) = self.service.take() {
            let _ = service.kill();
            let _ = service.wait();
        }
        if let Some(postmaster) = self.postmaster() {
            let _ = kill_process(postmaster, Signal::QUIT);
        }
    }
}

pub struct Inbox(tokio::sync::Mutex<PgConnection>);

impl Inbox {
    /// Returns when the running service has processed everything. The leases
    /// of those that were killed end, and retries are due.
    pub async fn settle(&self) {
        for _ in 0..60 {
            let mut connection = self.0.lock().await;
            connection.execute(PASS_TIME).await.unwrap();
            drop(connection);
            let left = "SELECT stripe_event_id FROM webhook_events WHERE NOT processed";
            for _ in 0..20 {
                if self.ids(left).await.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        panic!("events stay unprocessed");
    }

    /// The rows of a query of one text each, which must differ.
    pub async fn ids(&self, query: &str) -> BTreeSet<String> {
        let mut connection = self.0.lock().await;
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_all(&mut *connection)
            .await
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        let ids: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(ids.len(), rows.len(), "{query}: a row is there twice");
        ids
    }

    pub async fn close(self) {
        self.0.into_inner().close().await.unwrap();
    }
}
