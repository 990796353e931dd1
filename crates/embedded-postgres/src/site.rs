//! Where the cluster and everything that belongs to it lives.
//!
//! ```text
//! DATA_DIR/postgres        the cluster, the server's own
//! DATA_DIR/postgres-run    the socket, mode 0700
//! DATA_DIR/postgres-log    the server's log, a file for each day of the week
//! DATA_DIR/postgres-etc    ours: configuration, locks, the output of the last start
//! ```
//!
//! What we write is never inside a directory that the server's user owns: whoever could
//! run SQL as superuser could otherwise plant a symbolic link for root to write through.

use super::account::Account;
use super::error::{EmbeddedPostgresError, IoContext, Result};
use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) const PORT: u16 = 5432;

/// Whose cluster it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The program's name: in the server's process title, and in /var/lib,
    /// where root's clusters go when the server's user cannot get to the data
    /// directory.
    pub program: &'static str,
    /// For sockets in /tmp, whose paths must be short.
    pub short_name: &'static str,
    /// Created in a new cluster. Letters, digits and underscores.
    pub database: &'static str,
}

impl Owner {
    fn system_data(self) -> PathBuf {
        Path::new("/var/lib").join(self.program)
    }
}

/// `sun_path` holds 103 bytes and a zero on macOS, 107 on Linux; `/.s.PGSQL.5432` takes 14.
const LONGEST_SOCKET_DIRECTORY: usize = 103 - 14;

#[derive(Debug, Clone)]
pub(super) struct Site {
    owner: Owner,
    base: PathBuf,
    socket_directory: PathBuf,
    account: Option<Account>,
}

impl Site {
    /// Finds the place that belongs to a data directory, without changing anything.
    /// `None`: the data directory does not exist.
    pub(super) fn locate(owner: Owner, data_dir: &Path) -> Result<Option<Site>> {
        let base = match fs::canonicalize(data_dir) {
            Ok(base) => base,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).when("find", data_dir),
        };
        let site = Site::at(owner, base)?;
        match site.account {
            Some(account) if !account.can_enter(&site.base)? => {
                let base = owner.system_data().join(short_hash(&site.base));
                Site::at(owner, base).map(Some)
            }
            _ => Ok(Some(site)),
        }
    }

    /// Finds the place and creates its directories.
    pub(super) fn prepare(owner: Owner, data_dir: &Path) -> Result<Site> {
        create_data_directory(data_dir)?;
        let Some(site) = Site::locate(owner, data_dir)? else {
            return Err(io::Error::from(io::ErrorKind::NotFound)).when("create", data_dir);
        };
        if site.base.starts_with(owner.system_data()) {
            create_data_directory(&site.base)?;
            tracing::info!(
                cluster = %site.cluster().display(),
                "PostgreSQL's user cannot get to {}, so the cluster is elsewhere; \
                 set DATA_DIR to a directory it can reach to have it there",
                data_dir.display(),
            );
        }
        site.refuse_other_owner()?;
        create_directory(&site.etc(), 0o755)?;
        site.create_private(&site.log_directory())?;
        site.create_private(&site.socket_directory)?;
        Ok(site)
    }

    fn at(owner: Owner, base: PathBuf) -> Result<Site> {
        let account = Account::for_cluster(&base.join("postgres"))?;
        let socket_directory = socket_directory(owner, &base);
        Ok(Site {
            owner,
            base,
            socket_directory,
            account,
        })
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn cluster(&self) -> PathBuf {
        self.base.join("postgres")
    }

    pub(super) fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.socket_directory.join(format!(".s.PGSQL.{PORT}"))
    }

    pub(super) fn log_directory(&self) -> PathBuf {
        self.base.join("postgres-log")
    }

    pub(super) fn etc(&self) -> PathBuf {
        self.base.join("postgres-etc")
    }

    /// What the server printed before it opened its log.
    pub(super) fn startup_log(&self) -> PathBuf {
        self.etc().join("startup.log")
    }

    pub(super) fn start_lock(&self) -> PathBuf {
        self.etc().join("start.lock")
    }

    pub(super) fn users_lock(&self) -> PathBuf {
        self.etc().join("users.lock")
    }

    pub(super) fn account(&self) -> Option<Account> {
        self.account
    }

    /// One of PostgreSQL's programs, run as the right user with a clean environment: our
    /// secrets are none of its business, and variables such as PGPORT would change what it does.
    pub(super) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(directory).stdin(Stdio::null());
        if let Some(account) = self.account {
            account.apply(&mut command);
        }
        command
    }

    /// Creates a directory that only the server's user (and root) can use.
    pub(super) fn create_private(&self, path: &Path) -> Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).when("create", path);
            }
            _ => self.refuse_foreign_directory(path)?,
        }
        if let Some(account) = self.account {
            account.give(path)?;
        }
        fs::set_permissions(path, Permissions::from_mode(0o700)).when("protect", path)
    }

    /// In /tmp anybody could have been first, and would then serve our queries.
    pub(super) fn refuse_foreign_directory(&self, path: &Path) -> Result<()> {
        let found = fs::symlink_metadata(path).when("inspect", path)?;
        if found.is_dir() && self.is_ours(found.uid()) {
            return Ok(());
        }
        Err(EmbeddedPostgresError::UnsafeSocketDirectory {
            path: path.to_owned(),
            owner: found.uid(),
        })
    }

    fn refuse_other_owner(&self) -> Result<()> {
        let cluster = self.cluster();
        // Another user's cluster denies even the look; that it exists is then known as well.
        match fs::metadata(cluster.join("PG_VERSION")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => {}
        }
        let owner = fs::metadata(&cluster).when("inspect", &cluster)?.uid();
        let ourselves = rustix::process::geteuid().as_raw();
        if owner == self.account.map_or(ourselves, Account::uid) {
            return Ok(());
        }
        Err(EmbeddedPostgresError::OtherOwner {
            path: cluster,
            owner,
        })
    }

    fn is_ours(&self, uid: u32) -> bool {
        uid == rustix::process::geteuid().as_raw()
            || self.account.is_some_and(|account| account.uid() == uid)
    }
}

/// Root's may be entered by others, who then meet each file's own mode: the server's user must
/// get through. Anybody else's is private.
fn create_data_directory(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).when("create", parent)?;
    }
    let root = rustix::process::geteuid().is_root();
    create_directory(path, if root { 0o711 } else { 0o700 })
}

fn create_directory(path: &Path, mode: u32) -> Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(mode)).when("set the mode of", path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).when("create", path),
    }
}

/// Beside the cluster when the path suits a socket, a configuration file and a URL;
/// else a directory in /tmp, the same one for every process.
fn socket_directory(owner: Owner, base: &Path) -> PathBuf {
    let beside = base.join("postgres-run");
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+ ".contains(byte);
    let bytes = beside.as_os_str().as_bytes();
    if bytes.len() <= LONGEST_SOCKET_DIRECTORY && bytes.iter().all(plain) {
        beside
    } else {
        PathBuf::from(format!("/tmp/{}-{}", owner.short_name, short_hash(base)))
    }
}

fn short_hash(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    hex::encode(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_moves_to_tmp_when_the_path_is_long_or_odd() {
        let owner = Owner {
            program: "program",
            short_name: "short",
            database: "database",
        };
        let beside = |base: &str| socket_directory(owner, Path::new(base)).starts_with(base);
        assert!(beside("/srv/billing/.data"));
        assert!(beside("/srv/my billing/.data"));
        assert!(beside(&format!("/{}", "a".repeat(75))));
        assert!(!beside(&format!("/{}", "a".repeat(76))));
        assert!(!beside("/srv/it's, \"odd\""));
    }
}
