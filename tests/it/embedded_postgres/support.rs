//! Data directories, processes and queries for the tests of the embedded cluster.

use embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresError, Endpoint};
use rustix::process::{Pid, geteuid};
use sqlx::{Connection, PgConnection, Row};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use valuecanvas_billing::app::EMBEDDED;

const POLL: Duration = Duration::from_millis(10);

/// A data directory that PostgreSQL's user can enter.
pub(super) struct DataDir {
    root: TempDir,
    path: PathBuf,
}

impl DataDir {
    pub(super) fn new() -> DataDir {
        DataDir::below("")
    }

    pub(super) fn below(name: &str) -> DataDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).expect("its owner may");
        let path = root.path().join(name);
        DataDir { root, path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn start(&self) -> EmbeddedPostgres {
        match EmbeddedPostgres::start(EMBEDDED, &self.path).await {
            Ok(server) => server,
            Err(error) => panic!("{error}"),
        }
    }

    pub(super) async fn refusal(&self) -> EmbeddedPostgresError {
        EmbeddedPostgres::start(EMBEDDED, &self.path)
            .await
            .expect_err("a refusal")
    }

    pub(super) async fn running(&self) -> Option<Endpoint> {
        EmbeddedPostgres::running(EMBEDDED, &self.path)
            .await
            .expect("it can be asked for")
    }

    pub(super) fn postmaster_file(&self) -> PathBuf {
        self.path.join("postgres/postmaster.pid")
    }

    pub(super) fn postmaster(&self) -> i32 {
        let file = fs::read_to_string(self.postmaster_file()).expect("a server runs");
        let pid = file.lines().next().expect("the file has lines");
        pid.parse().expect("the first is the process id")
    }

    pub(super) fn postmaster_pid(&self) -> Pid {
        Pid::from_raw(self.postmaster()).expect("not zero")
    }

    pub(super) fn start_in_a_process(&self, behaviour: &str) -> Child {
        let module = module_path!().trim_end_matches("::support");
        let (_, module) = module.split_once("::").expect("a module");
        Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--ignored",
                "--exact",
                &format!("{module}::another_process"),
            ])
            .env("TEST_DATA_DIR", &self.path)
            .env("TEST_BEHAVIOUR", behaviour)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs")
    }

    /// Returns when another process has started the server and written to it.
    pub(super) async fn until_visited(&self) {
        loop {
            if let Some(endpoint) = self.running().await
                && let Ok(mut connection) = PgConnection::connect(&endpoint.admin_url()).await
                && sqlx::query("SELECT pid FROM visits")
                    .fetch_one(&mut connection)
                    .await
                    .is_ok()
            {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Returns when nobody takes anything here for the server that was just killed.
    pub(super) async fn until_gone(&self) {
        while self.running().await.is_some() {
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).expect("it is readable");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Where TMPDIR is deep, the socket is elsewhere.
    pub(super) fn expected_names(&self, server: &EmbeddedPostgres) -> Vec<&'static str> {
        let mut names = vec!["postgres", "postgres-etc", "postgres-log"];
        if server
            .endpoint()
            .socket_directory()
            .starts_with(self.root.path().canonicalize().expect("it can be resolved"))
        {
            names.push("postgres-run");
        }
        names
    }
}

/// Living processes that are no servers: ours, and one of the server's user.
pub(super) struct Bystanders(Vec<Child>);

impl Bystanders {
    pub(super) fn of_user(owner: &fs::Metadata) -> Bystanders {
        use std::os::unix::fs::MetadataExt;
        let sleeper = || {
            let mut command = Command::new("sleep");
            command.arg("3600").current_dir("/");
            command
        };
        let mut theirs = sleeper();
        if geteuid().is_root() {
            theirs.uid(owner.uid()).gid(owner.gid());
        }
        let spawn = |mut command: Command| command.spawn().expect("sleep runs");
        Bystanders(vec![spawn(sleeper()), spawn(theirs)])
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    pub(super) fn all_live(&mut self) {
        for child in &mut self.0 {
            assert!(
                child.try_wait().expect("it can be asked").is_none(),
                "a bystander was hit"
            );
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().expect("it still lives");
            child.wait().expect("it ended");
        }
    }
}

async fn connect(server: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect(&server.admin_url())
        .await
        .expect("the URL works")
}

pub(super) async fn execute(server: &EmbeddedPostgres, sql: &'static str) {
    let mut connection = connect(server).await;
    sqlx::query(sql)
        .execute(&mut connection)
        .await
        .expect("it is executed");
    connection.close().await.expect("it closes");
}

pub(super) async fn value(server: &EmbeddedPostgres, sql: &str) -> String {
    let mut connection = connect(server).await;
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut connection)
        .await
        .expect("there is a row");
    connection.close().await.expect("it closes");
    row.get(0)
}
