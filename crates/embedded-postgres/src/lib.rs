//! A private PostgreSQL cluster under the data directory, for whoever has none of their own.
//!
//! It is the system's real PostgreSQL, reached over a socket that only its user and root can
//! open. Several of our processes use one cluster at once: the first starts the server, the
//! last one out stops it, and a server that outlived a killed process is adopted by the next.

mod account;
mod binaries;
mod cluster;
mod endpoint;
mod error;
mod lock;
mod readiness;
mod server;
mod settings;
mod site;

pub use endpoint::Endpoint;
pub use site::Owner;

/// A program of the newest PostgreSQL that is installed, such as `pg_dump`.
pub fn program(name: &str) -> Option<std::path::PathBuf> {
    let binaries = binaries::Binaries::newest().ok()?;
    Some(binaries.program(name))
}

pub use error::EmbeddedPostgresError;

use binaries::Binaries;
use error::Result;
use lock::FileLock;
use site::Site;
use std::path::Path;
use std::time::Duration;

/// Longer than another process takes to start and give up, or to stop.
const LOCK_PATIENCE: Duration = Duration::from_secs(300);
/// A drop blocks its thread, which may be the one that has to release the lock.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// The use of the embedded cluster. While one of these exists, in whichever process, the
/// server is left running.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    site: Site,
    binaries: Binaries,
    endpoint: Endpoint,
    /// Held shared; `None` once released.
    users: Option<FileLock>,
}

/// A look at a running server, by whoever does not use it.
#[derive(Debug, Clone)]
pub struct Watch {
    site: Site,
    binaries: Binaries,
}

impl Watch {
    /// Whether the server still runs a program that was replaced on disk. New
    /// sessions may find other libraries than it knows.
    pub fn was_replaced(&self) -> bool {
        server::was_replaced(&self.site).unwrap_or(false)
    }

    /// The version of the program on disk, as the server shows its own.
    pub fn version_on_disk(&self) -> Option<String> {
        self.binaries.version()
    }
}

impl EmbeddedPostgres {
    /// What tells whether the server is still the one on disk.
    pub fn watch(&self) -> Watch {
        Watch {
            site: self.site.clone(),
            binaries: self.binaries.clone(),
        }
    }

    /// Joins the running server, or starts it, after making the cluster and the database if
    /// need be. Safe to call from several processes at the same time.
    pub async fn start(owner: Owner, data_dir: &Path) -> Result<EmbeddedPostgres> {
        let data_dir = data_dir.to_owned();
        let site = blocking(move || Site::prepare(owner, &data_dir)).await?;
        let start_lock = FileLock::open(&site.start_lock(), site.account())?;
        start_lock.exclusive(LOCK_PATIENCE).await?;

        let making = site.clone();
        let binaries = blocking(move || cluster::ensure(&making)).await?;
        let users = FileLock::open(&site.users_lock(), site.account())?;
        users.shared(LOCK_PATIENCE).await?;
        let embedded = EmbeddedPostgres {
            endpoint: Endpoint::of(&site),
            site,
            binaries,
            users: Some(users),
        };
        match embedded.bring_up(start_lock).await {
            Ok(()) => Ok(embedded),
            // It goes on recovering, and whoever starts next finds it further on.
            Err(error @ EmbeddedPostgresError::NotReady { .. }) => {
                embedded.leave_running();
                Err(error)
            }
            Err(error) => {
                if let Err(stopping) = embedded.stop().await {
                    tracing::warn!(error = %stopping, "the failed server is still there");
                }
                Err(error)
            }
        }
    }

    /// Where the server of a data directory is reached, if it runs; nothing is started or changed.
    pub async fn running(owner: Owner, data_dir: &Path) -> Result<Option<Endpoint>> {
        let data_dir = data_dir.to_owned();
        blocking(move || {
            let Some(site) = Site::locate(owner, &data_dir)? else {
                return Ok(None);
            };
            if cluster::version(&site.cluster())?.is_none() || !server::is_alive(&site) {
                return Ok(None);
            }
            site.refuse_foreign_directory(site.socket_directory())?;
            Ok(Some(Endpoint::of(&site)))
        })
        .await
    }

    /// Starts the server again if it was killed while this process uses it.
    pub async fn ensure_running(&self) -> Result<()> {
        let start_lock = FileLock::open(&self.site.start_lock(), self.site.account())?;
        start_lock.exclusive(LOCK_PATIENCE).await?;
        self.bring_up(start_lock).await
    }

    /// Ends this use, and stops the server if it was the last one.
    pub async fn stop(mut self) -> Result<()> {
        blocking(move || self.release(LOCK_PATIENCE)).await
    }

    /// Ends this use without stopping the server, which the next start joins.
    pub fn leave_running(mut self) {
        self.users = None;
    }

    /// The owner's database as superuser.
    pub fn admin_url(&self) -> String {
        self.endpoint.admin_url()
    }

    /// Any database as any role.
    pub fn url_for(&self, user: &str, database: &str) -> String {
        self.endpoint.url_for(user, database)
    }

    /// All the cluster's addresses.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The programs that fit the server's version: psql, pg_dump, pg_restore.
    pub fn bin_dir(&self) -> &Path {
        self.binaries.directory()
    }

    /// Takes the start lock, so that it is released before an interrupted start drops `self`.
    async fn bring_up(&self, start_lock: FileLock) -> Result<()> {
        let outcome = readiness::bring_up(&self.site, &self.binaries, &self.endpoint).await;
        drop(start_lock);
        outcome
    }

    fn release(&mut self, patience: Duration) -> Result<()> {
        let Some(users) = self.users.take() else {
            return Ok(());
        };
        let start_lock = FileLock::open(&self.site.start_lock(), self.site.account())?;
        start_lock.exclusive_blocking(patience)?;
        let is_last = users.try_exclusive()?;
        let stopped = if is_last {
            server::stop(&self.site, &self.binaries)
        } else {
            Ok(())
        };
        drop(users);
        drop(start_lock);
        stopped
    }
}

/// Blocks until the server is stopped, if this was the last use; [`EmbeddedPostgres::stop`]
/// does not, and tells whether it worked.
impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        if let Err(error) = self.release(DROP_PATIENCE) {
            tracing::warn!(%error, "the embedded PostgreSQL may still run");
        }
    }
}

/// Runs what waits for files and processes away from the threads that serve requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failure) => match failure.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(EmbeddedPostgresError::Interrupted),
        },
    }
}
