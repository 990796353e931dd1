use std::io;
use std::path::{Path, PathBuf};

pub(super) type Result<T> = std::result::Result<T, EmbeddedPostgresError>;

/// Why the embedded PostgreSQL cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedPostgresError {
    #[error(
        "PostgreSQL 15 or newer is not installed: run `apt-get install postgresql` or \
         `brew install postgresql@15`, or set DATABASE_URL to use a server elsewhere"
    )]
    NotInstalled,

    #[error(
        "PostgreSQL refuses to run as root and there is neither a user `postgres` nor `nobody`: \
         start this program as an ordinary user, or set DATABASE_URL to use a server elsewhere"
    )]
    NoUnprivilegedUser,

    #[error(
        "the cluster in {path} was made by PostgreSQL {cluster}, but the installed versions are: \
         {installed}. Install PostgreSQL {cluster} (`apt-get install postgresql-{cluster}`, \
         `brew install postgresql@{cluster}`) to read it, or move it away to begin with an empty one"
    )]
    OtherVersion {
        path: PathBuf,
        cluster: String,
        installed: String,
    },

    #[error(
        "the cluster in {path} belongs to user id {owner}: run this program as that user, \
         or set DATA_DIR to another directory"
    )]
    OtherOwner { path: PathBuf, owner: u32 },

    #[error(
        "{path} is neither empty nor a PostgreSQL cluster: move it away, \
         or set DATA_DIR to another directory"
    )]
    NotACluster { path: PathBuf },

    #[error(
        "{path}, which is to hold the database socket, belongs to user id {owner} or is no \
         directory: have it removed, or set DATA_DIR to a shorter path"
    )]
    UnsafeSocketDirectory { path: PathBuf, owner: u32 },

    #[error("initdb could not make a cluster in {path}; it said:\n{output}")]
    Initdb { path: PathBuf, output: String },

    #[error("PostgreSQL did not start; its log ({log}) ends with:\n{tail}")]
    Start { log: PathBuf, tail: String },

    #[error(
        "PostgreSQL is still not ready after {waited_secs} s, and goes on starting: try again \
         later. Its log ({log}) ends with:\n{tail}"
    )]
    NotReady {
        waited_secs: u64,
        log: PathBuf,
        tail: String,
    },

    #[error("PostgreSQL in {path} did not stop (`pg_ctl stop -D {path}` tries again):\n{output}")]
    Stop { path: PathBuf, output: String },

    #[error(
        "another process has held {lock} for {waited_secs} s while it starts or stops the embedded \
         PostgreSQL: end it and try again"
    )]
    Busy { lock: PathBuf, waited_secs: u64 },

    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("this program is ending and the embedded PostgreSQL is left as it is: start it again")]
    Interrupted,

    #[error(
        "the embedded PostgreSQL's programs were replaced while it runs, and it refuses new \
         connections ({refusal}): restart the service, and it starts anew"
    )]
    Replaced { refusal: String },

    #[error("the embedded PostgreSQL runs, but answers with an error: {0}")]
    Database(#[from] sqlx::Error),
}

/// Says what was being done to which path when an operation failed.
pub(super) trait IoContext<T> {
    fn when(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn when(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| EmbeddedPostgresError::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}
