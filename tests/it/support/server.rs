//! A PostgreSQL of a test's own, to be configured, replaced and cut off.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use embedded_postgres::EmbeddedPostgres;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use valuecanvas_billing::app::EMBEDDED;
use valuecanvas_billing::migrations;

pub struct OwnServer {
    pub embedded: EmbeddedPostgres,
    directory: TempDir,
}

impl OwnServer {
    /// Migrated, with the service's login.
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(directory: TempDir) -> Self {
        // The server's user must get through.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let embedded = EmbeddedPostgres::start(EMBEDDED, &directory.path().join("data")).await;
        let server = Self {
            embedded: embedded.expect("PostgreSQL starts"),
            directory,
        };
        let mut owner = server.admin().await;
        migrations::up(&mut owner, |_| {}).await.unwrap();
        owner
            .execute(
                "CREATE ROLE billing_service LOGIN NOINHERIT;
                 GRANT billing_app, billing_worker TO billing_service",
            )
            .await
            .unwrap();
        server
    }

    pub fn url(&self, user: &str) -> String {
        self.embedded.url_for(user, EMBEDDED.database)
    }

    pub async fn admin(&self) -> PgConnection {
        let options: PgConnectOptions = self.url("postgres").parse().unwrap();
        options.connect().await.expect("the server answers")
    }

    pub async fn execute(&self, sql: &str) {
        let mut admin = self.admin().await;
        admin
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// The one value of a query, as text; empty where it is null.
    pub async fn value(&self, sql: &str) -> String {
        let sql = format!("SELECT coalesce(({sql})::text, '')");
        sqlx::query_scalar(AssertSqlSafe(sql.clone()))
            .fetch_one(&mut self.admin().await)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Says anew who may log in, and how.
    pub async fn allow(&self, lines: &str) {
        fs::write(self.data("postgres-etc/pg_hba.conf"), lines).unwrap();
        self.execute("SELECT pg_reload_conf()").await;
    }

    /// A file of the data directory.
    pub fn data(&self, name: &str) -> PathBuf {
        self.directory.path().join("data").join(name)
    }

    pub fn socket_directory(&self) -> &Path {
        self.embedded.endpoint().socket_directory()
    }

    /// One of the server's programs, as the server's user.
    pub fn command(&self, program: &str) -> Command {
        as_owner_of(
            Command::new(self.embedded.bin_dir().join(program)),
            self.socket_directory(),
        )
    }

    /// A standby of it, which follows, on a socket of its own.
    pub async fn standby(&self) -> Standby {
        self.allow("local all all trust\nlocal replication all trust\n")
            .await;
        let standby = Standby {
            directory: tempfile::tempdir().unwrap(),
            bin: self.embedded.bin_dir().to_owned(),
        };
        let owner = fs::metadata(self.socket_directory()).unwrap();
        std::os::unix::fs::chown(
            standby.directory.path(),
            Some(owner.uid()),
            Some(owner.gid()),
        )
        .unwrap();
        let mut copying = self.command("pg_basebackup");
        copying
            .args(["-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h"])
            .arg(self.socket_directory())
            .arg("-D")
            .arg(standby.cluster());
        succeed(&mut copying);
        standby.control(&["start", "-w", "-l", "log", "-o"], true);
        standby
    }
}

/// A second server that follows the first until it is promoted.
pub struct Standby {
    directory: TempDir,
    bin: PathBuf,
}

impl Standby {
    fn cluster(&self) -> PathBuf {
        self.directory.path().join("cluster")
    }

    pub fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes it the primary; it takes writes afterwards.
    pub fn promote(&self) {
        self.control(&["promote", "-w"], false);
    }

    fn control(&self, arguments: &[&str], starts: bool) {
        let mut command = as_owner_of(
            Command::new(self.bin.join("pg_ctl")),
            self.socket_directory(),
        );
        command.current_dir(self.directory.path()).args(arguments);
        if starts {
            command.arg(format!(
                "-c listen_addresses='' -c unix_socket_directories='{}' -c port=5432 \
                 -c max_connections=200 -c max_locks_per_transaction=128",
                self.directory.path().display()
            ));
        }
        succeed(command.arg("-D").arg(self.cluster()));
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let mut command = as_owner_of(
            Command::new(self.bin.join("pg_ctl")),
            self.socket_directory(),
        );
        let stopping = command.args(["stop", "-w", "-m", "immediate", "-D"]);
        let _ = stopping.arg(self.cluster()).output();
    }
}

fn as_owner_of(mut command: Command, path: &Path) -> Command {
    let owner = fs::metadata(path).unwrap();
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.stdin(Stdio::null());
    command
}

fn succeed(command: &mut Command) {
    let status = command
        .stdout(Stdio::null())
        .status()
        .expect("the program starts");
    assert!(status.success(), "{command:?}");
}

async fn pass_on(
    client: &mut TcpStream,
    server: &mut UnixStream,
    losing: &Mutex<Option<&'static str>>,
) -> std::io::Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut sent = Vec::new();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                let bytes = &from_client[..read];
                server.write_all(bytes).await?;
                sent.extend_from_slice(bytes);
                let has = |text: &str| sent.windows(text.len()).any(|part| part == text.as_bytes());
                let commits = bytes.windows(7).any(|part| part == b"COMMIT\0");
                if commits && losing.lock().unwrap().take_if(|text| has(text)).is_some() {
                    let answered = server.read(&mut from_server).await?;
                    assert!(answered > 0, "the server answered");
                    return Ok(());
                }
            }
            read = server.read(&mut from_server) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                client.write_all(&from_server[..read]).await?;
            }
        }
    }
}

/// An address that stays while what is behind it changes.
pub struct Proxy {
    pub port: u16,
    target: Arc<Mutex<PathBuf>>,
    generation: watch::Sender<u64>,
    /// What a session has sent whose next commit's answer is lost.
    loses: Arc<Mutex<Option<&'static str>>>,
}

impl Proxy {
    /// Leads to the server with this socket directory.
    pub async fn to(socket_directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(Mutex::new(socket_directory.to_owned()));
        let (generation, _) = watch::channel(0);
        let loses = Arc::new(Mutex::new(None));
        let (to, cut, losing) = (target.clone(), generation.clone(), loses.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let socket = to.lock().unwrap().join(".s.PGSQL.5432");
                let (mut cut, losing) = (cut.subscribe(), losing.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = UnixStream::connect(socket).await else {
                        return;
                    };
                    tokio::select! {
                        _ = pass_on(&mut client, &mut server, &losing) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            target,
            generation,
            loses,
        }
    }

    /// The next commit of a session that has sent `statement` takes effect, and the
    /// session breaks instead of saying so.
    pub fn lose_commit(&self, statement: &'static str) {
        *self.loses.lock().unwrap() = Some(statement);
    }

    /// Whether there was such a commit.
    pub fn has_lost_commit(&self) -> bool {
        self.loses.lock().unwrap().is_none()
    }

    /// New connections lead elsewhere; those that are open go on.
    pub fn lead_to(&self, socket_directory: &Path) {
        *self.target.lock().unwrap() = socket_directory.to_owned();
    }

    /// Breaks what is open.
    pub fn cut(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    pub fn url(&self, user: &str) -> String {
        format!(
            "postgresql://{user}@127.0.0.1:{}/{}?sslmode=disable",
            self.port, EMBEDDED.database
        )
    }
}

/// Debian's PgBouncer before a server.
pub struct PgBouncer {
    child: Child,
    port: u16,
    _directory: TempDir,
}

impl PgBouncer {
    /// None: it is not installed.
    pub async fn before(socket_directory: &Path, pool_mode: &str, more: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .map(Path::new)
            .find(|program| program.exists())?;
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let port = super::ports::reserved().port();
        let users = directory.path().join("users");
        fs::write(&users, "\"billing_service\" \"\"\n\"postgres\" \"\"\n").unwrap();
        let settings = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port=5432\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\n\
             pool_mode = {pool_mode}\ndefault_pool_size = 60\nmax_client_conn = 200\n{more}\n",
            socket_directory.display(),
            users.display()
        );
        fs::write(&settings, text).unwrap();
        let child = as_owner_of(Command::new(program), socket_directory)
            .arg("-q")
            .arg(&settings)
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer starts");
        let pooler = Self {
            child,
            port,
            _directory: directory,
        };
        for _ in 0..500 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
            {
                return Some(pooler);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("pgbouncer does not listen");
    }

    pub fn url(&self, user: &str, database: &str) -> String {
        let port = self.port;
        format!("postgresql://{user}@127.0.0.1:{port}/{database}?sslmode=disable")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
