//! Writing a backup: pg_dump's custom format, hashed while it is written, and read
//! back before it gets its name.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

use super::tools::{Target, plain};
use super::{BackupError, Manifest, store};
use crate::db;

/// A backup that was written and read back.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Written {
    pub file: PathBuf,
    #[serde(flatten)]
    pub manifest: Manifest,
}

/// Writes a backup to `file`, and its manifest beside it. Calls `progress` for each
/// table.
pub async fn to_file(
    owner: &PgConnectOptions,
    url: &str,
    file: &Path,
    progress: impl FnMut(&str),
) -> Result<Written, BackupError> {
    refuse_existing(file)?;
    let mut aside = file.as_os_str().to_owned();
    aside.push(".partial");
    let aside = PathBuf::from(aside);
    let failed = |error| BackupError::File {
        path: aside.clone(),
        error,
    };
    let mut out = tokio::fs::OpenOptions::new();
    // Only its owner may read it. It is truncated only under its lock: another
    // backup may be writing it.
    let out = out.write(true).create(true).truncate(false).mode(0o600);
    let out = out.open(&aside).await.map_err(failed)?.into_std().await;
    match out.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(BackupError::Busy(file.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The previous holder of the lock may have finished the file.
    if let Err(error) = refuse_existing(file) {
        let _ = std::fs::remove_file(&aside);
        return Err(error);
    }
    let mut partial = Partial(Some(aside.clone()));
    out.set_len(0).map_err(failed)?;
    let mut out = tokio::fs::File::from_std(out);
    let written = async {
        let manifest = dump(owner, url, &mut out, progress).await?;
        out.sync_all().await.map_err(failed)?;
        read_back(&aside).await?;
        Ok::<Manifest, BackupError>(manifest)
    };
    let manifest = written.await?;
    let named = manifest
        .write(file)
        .and_then(|()| std::fs::rename(&aside, file).map_err(failed));
    if let Err(error) = named {
        let _ = std::fs::remove_file(Manifest::path_of(file));
        return Err(error);
    }
    partial.0 = None;
    Ok(Written {
        file: file.to_owned(),
        manifest,
    })
}

/// What is written of a backup that is not one yet: removed if that fails, or is interrupted.
struct Partial(Option<PathBuf>);

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Refuses to overwrite a backup or a manifest.
fn refuse_existing(file: &Path) -> Result<(), BackupError> {
    for path in [file.to_owned(), Manifest::path_of(file)] {
        if path.exists() {
            return Err(BackupError::Exists(path));
        }
    }
    Ok(())
}

/// Writes a backup to standard output, where it cannot be read back.
pub async fn to_stdout(
    owner: &PgConnectOptions,
    url: &str,
    progress: impl FnMut(&str),
) -> Result<Manifest, BackupError> {
    dump(owner, url, &mut tokio::io::stdout(), progress).await
}

async fn dump(
    owner: &PgConnectOptions,
    url: &str,
    out: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(&str),
) -> Result<Manifest, BackupError> {
    let mut conn: PgConnection = db::connect(owner).await.map_err(unreachable)?;
    let snapshot = store::freeze(&mut conn).await?;
    let rows = store::counts(&mut conn).await.map_err(refused)?;
    if rows.values().sum::<i64>() == 0 {
        return Err(BackupError::Empty);
    }
    let target = Target::new(url)?;
    let (sha256, bytes) = loop {
        match run(&target, &snapshot, out, &mut progress).await? {
            Dumped::All { sha256, bytes } => break (sha256, bytes),
            Dumped::Locked => {
                tracing::warn!("another session holds a lock on a table; the backup waits for it");
            }
        }
    };
    Ok(Manifest {
        created_at: Timestamp::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        sha256,
        bytes,
        rows,
    })
}

/// How long pg_dump waits for a lock before we restart it, so that it does not keep
/// waiting after this process has died.
const LOCK_WAIT: Duration = Duration::from_secs(5);

enum Dumped {
    All {
        sha256: String,
        bytes: u64,
    },
    /// Nothing was written: another session locks a table.
    Locked,
}

/// Runs pg_dump, which ends when this process does: its output breaks.
async fn run(
    target: &Target,
    snapshot: &str,
    out: &mut (impl AsyncWrite + Unpin),
    mut progress: impl FnMut(&str),
) -> Result<Dumped, BackupError> {
    let started = Instant::now();
    let mut child = target
        .command("pg_dump")?
        // Row-level security also applies to an owner that is no superuser.
        .args(["--format=custom", "--enable-row-security", "--verbose"])
        .args(["--schema=public", "--schema=auth", "--schema=reporting"])
        .arg(format!("--snapshot={snapshot}"))
        .arg(format!("--lock-wait-timeout={}", LOCK_WAIT.as_millis()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| BackupError::NoTool("pg_dump"))?;
    let archive = child.stdout.take().expect("it is piped");
    let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let copying = async {
        // Dropped when copying ends, so that a failed write also ends pg_dump.
        let mut archive = archive;
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let read = archive.read(&mut chunk).await?;
            if read == 0 {
                out.flush().await?;
                return Ok::<_, std::io::Error>((hex::encode(hash.finalize()), bytes));
            }
            hash.update(&chunk[..read]);
            bytes += read as u64;
            out.write_all(&chunk[..read]).await?;
        }
    };
    let listening = async {
        let mut complaints = Complaints::default();
        let mut lines = stderr.lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((_, table)) = line.split_once("dumping contents of table ") {
                progress(table.trim_matches('"'));
            }
            complaints.hear(line);
        }
        complaints.said()
    };
    let (copied, said) = tokio::join!(copying, listening);
    let status = child.wait().await.map_err(|error| BackupError::Tool {
        tool: "pg_dump",
        said: error.to_string(),
    })?;
    let (sha256, bytes) = copied.map_err(|error| BackupError::File {
        path: "the backup".into(),
        error,
    })?;
    if status.success() {
        return Ok(Dumped::All { sha256, bytes });
    }
    // Messages are in the server's language, but all show the statement. A server
    // that refuses the lock does so at once.
    if bytes == 0 && started.elapsed() >= LOCK_WAIT && said.contains("LOCK TABLE") {
        return Ok(Dumped::Locked);
    }
    Err(BackupError::Tool {
        tool: "pg_dump",
        said,
    })
}

/// The errors in the output of a tool that also reports progress.
#[derive(Default)]
struct Complaints {
    lines: Vec<String>,
    last: String,
}

impl Complaints {
    fn hear(&mut self, line: String) {
        let is_serious = ["error: ", "fatal: ", "detail: ", "hint: "]
            .iter()
            .any(|kind| line.contains(kind));
        // A message may have several lines.
        let goes_on = !self.lines.is_empty() && !line.starts_with("pg_");
        if (is_serious || goes_on) && self.lines.len() < 20 {
            self.lines.push(line.clone());
        }
        self.last = line;
    }

    fn said(self) -> String {
        if self.lines.is_empty() {
            self.last
        } else {
            self.lines.join("\n")
        }
    }
}

/// A login that may not read every table is not the owner's.
fn refused(error: sqlx::Error) -> BackupError {
    let code = error.as_database_error().and_then(|error| error.code());
    if code.as_deref() == Some("42501") {
        BackupError::Refused(error)
    } else {
        BackupError::Database(error)
    }
}

pub(super) fn unreachable(error: db::DatabaseError) -> BackupError {
    match error {
        db::DatabaseError::Unreachable(error) | db::DatabaseError::Query(error) => {
            BackupError::Database(error)
        }
        other => BackupError::Tool {
            tool: "the connection",
            said: other.to_string(),
        },
    }
}

/// Lets pg_restore read the whole archive without writing anything.
pub async fn read_back(file: &Path) -> Result<(), BackupError> {
    let read = plain("pg_restore")?
        .arg("--file=/dev/null")
        .arg("--")
        .arg(file)
        .stdout(Stdio::null())
        .output()
        .await
        .map_err(|_| BackupError::NoTool("pg_restore"))?;
    if read.status.success() {
        return Ok(());
    }
    Err(BackupError::Tool {
        tool: "pg_restore",
        said: String::from_utf8_lossy(&read.stderr).trim().to_owned(),
    })
}

/// The SHA-256 of a file.
pub fn checksum(file: &Path) -> Result<String, BackupError> {
    let failed = |error| BackupError::File {
        path: file.to_owned(),
        error,
    };
    let mut input = std::fs::File::open(file).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 256 * 1024];
    loop {
        let read = std::io::Read::read(&mut input, &mut chunk).map_err(failed)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errors_are_reported_and_not_the_last_line() {
        let mut complaints = Complaints::default();
        for line in [
            "pg_dump: reading schemas",
            "pg_dump: error: query failed: ERROR:  permission denied for table a",
            "pg_dump: detail: Query was: LOCK TABLE a,",
            "public.b IN ACCESS SHARE MODE",
            "pg_dump: dropping nothing",
        ] {
            complaints.hear(line.to_owned());
        }
        let said = complaints.said();
        assert!(said.starts_with("pg_dump: error: query failed"), "{said}");
        assert!(said.ends_with("public.b IN ACCESS SHARE MODE"), "{said}");
    }
}
