//! Advisory locks that the kernel releases when their process dies, however it dies.
//!
//! Who uses the cluster holds `users.lock` shared. Who decides whether to start or stop
//! the server holds `start.lock` exclusively, and only then asks for `users.lock`, so
//! the last one out and the first one in never decide at the same time.

use super::account::Account;
use super::error::{EmbeddedPostgresError, IoContext, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(10);

/// An open lock file, unlocked when dropped.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// Opens the lock file without locking it; the cluster's owner can open it later too.
    pub(super) fn open(path: &Path, account: Option<Account>) -> Result<FileLock> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .when("open", path)?;
        if let Some(account) = account {
            account.give(path)?;
        }
        Ok(FileLock {
            file,
            path: path.to_owned(),
        })
    }

    /// True when nobody else holds the lock in any way.
    pub(super) fn try_exclusive(&self) -> Result<bool> {
        self.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits without blocking the thread, so that an interrupted start ends at once.
    pub(super) async fn exclusive(&self, patience: Duration) -> Result<()> {
        self.wait_for(FlockOperation::NonBlockingLockExclusive, patience)
            .await
    }

    /// As [`FileLock::exclusive`], with others who hold the lock in the same way.
    pub(super) async fn shared(&self, patience: Duration) -> Result<()> {
        self.wait_for(FlockOperation::NonBlockingLockShared, patience)
            .await
    }

    async fn wait_for(&self, operation: FlockOperation, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.try_lock(operation)? {
            if Instant::now() > deadline {
                return Err(self.busy(patience));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) fn exclusive_blocking(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.try_exclusive()? {
            if Instant::now() > deadline {
                return Err(self.busy(patience));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<bool> {
        match flock(&self.file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno).when("lock", &self.path),
        }
    }

    fn busy(&self, patience: Duration) -> EmbeddedPostgresError {
        EmbeddedPostgresError::Busy {
            lock: self.path.clone(),
            waited_secs: patience.as_secs(),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing alone is not enough: a child that another thread has forked, and that has
        // not yet executed its program, would keep the lock.
        if let Err(errno) = flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(path = %self.path.display(), %errno, "cannot release the lock");
        }
    }
}
