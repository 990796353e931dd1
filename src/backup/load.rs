//! Loading an archive over a connection of our own, in one transaction.
//! pg_restore turns the archive into SQL and never meets the database: whoever
//! kills us ends the transaction, too.

use std::path::Path;
use std::process::Stdio;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, ChildStdout};

use super::BackupError;
use super::archive::unreachable;
use super::tools::plain;
use crate::db;

/// Rows go to the server in pieces of this size.
const PIECE: usize = 256 * 1024;

/// Loads what `contents` lists of `file`, all or nothing.
pub async fn load(
    owner: &PgConnectOptions,
    file: &Path,
    contents: &str,
) -> Result<(), BackupError> {
    let mut conn = db::connect(owner).await.map_err(unreachable)?;
    // While it builds an index, the server looks for us only if it is told to.
    // Some systems cannot.
    let _ = conn
        .execute("SET client_connection_check_interval = '1s'")
        .await;
    conn.execute("BEGIN").await?;
    for section in ["pre-data", "data", "post-data"] {
        let (mut writing, out) = written(file, contents, section).await?;
        let done = match section {
            "data" => rows(&mut conn, out).await,
            _ => statements(&mut conn, out).await,
        };
        // Why it wrote no more is the better reason.
        if !matches!(
            done,
            Err(BackupError::Refused(_) | BackupError::Database(_))
        ) {
            ended(&mut writing).await?;
        }
        done?;
    }
    conn.execute("COMMIT").await?;
    let _ = conn.close().await;
    Ok(())
}

/// pg_restore, which writes a section as SQL.
async fn written(
    file: &Path,
    contents: &str,
    section: &str,
) -> Result<(Child, BufReader<ChildStdout>), BackupError> {
    let mut child = plain("pg_restore")?
        .arg(format!("--section={section}"))
        .args(["--use-list=/dev/stdin", "--file=-"])
        .arg("--")
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|_| BackupError::NoTool("pg_restore"))?;
    // It reads all of the list before it writes. Where it ended already, its
    // exit says why.
    let mut list = child.stdin.take().expect("it is piped");
    let _ = list.write_all(contents.as_bytes()).await;
    drop(list);
    let out = child.stdout.take().expect("it is piped");
    Ok((child, BufReader::with_capacity(PIECE, out)))
}

async fn ended(child: &mut Child) -> Result<(), BackupError> {
    let mut said = String::new();
    let mut err = child.stderr.take().expect("it is piped");
    let _ = err.read_to_string(&mut said).await;
    let status = child.wait().await.map_err(unread)?;
    if status.success() {
        return Ok(());
    }
    Err(BackupError::Tool {
        tool: "pg_restore",
        said: said.trim().to_owned(),
    })
}

fn unread(error: std::io::Error) -> BackupError {
    BackupError::Tool {
        tool: "pg_restore",
        said: error.to_string(),
    }
}

/// Runs a section that has no rows.
async fn statements(
    conn: &mut PgConnection,
    mut out: impl AsyncBufRead + Unpin,
) -> Result<(), BackupError> {
    let mut script = Vec::new();
    let mut line = Vec::new();
    while next(&mut out, &mut line).await? {
        if !is_for_psql(&line) {
            script.extend_from_slice(&line);
        }
    }
    run(conn, &mut script).await
}

/// Runs the section of rows: COPY, its rows, and so on.
async fn rows(
    conn: &mut PgConnection,
    mut out: impl AsyncBufRead + Unpin,
) -> Result<(), BackupError> {
    let mut script = Vec::new();
    let mut line = Vec::new();
    while next(&mut out, &mut line).await? {
        if line.starts_with(b"COPY ") && line.ends_with(b" FROM stdin;\n") {
            run(conn, &mut script).await?;
            copy(conn, &text(&line)?, &mut out).await?;
        } else if !is_for_psql(&line) && !is_frame(&line) {
            script.extend_from_slice(&line);
        }
    }
    run(conn, &mut script).await
}

/// Hands on the rows up to their end.
async fn copy(
    conn: &mut PgConnection,
    statement: &str,
    out: &mut (impl AsyncBufRead + Unpin),
) -> Result<(), BackupError> {
    let mut copying = conn.copy_in_raw(statement).await?;
    let mut piece = Vec::with_capacity(2 * PIECE);
    let mut line = Vec::new();
    loop {
        if !next(out, &mut line).await? {
            return Err(BackupError::Tool {
                tool: "pg_restore",
                said: "it ended among the rows of a table".to_owned(),
            });
        }
        let is_end = line == b"\\.\n";
        if !is_end {
            piece.extend_from_slice(&line);
        }
        if is_end || piece.len() >= PIECE {
            copying.send(&*piece).await?;
            piece.clear();
        }
        if is_end {
            copying.finish().await?;
            return Ok(());
        }
    }
}

async fn run(conn: &mut PgConnection, script: &mut Vec<u8>) -> Result<(), BackupError> {
    let sql = text(script)?;
    conn.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
    script.clear();
    Ok(())
}

async fn next(
    out: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> Result<bool, BackupError> {
    line.clear();
    Ok(out.read_until(b'\n', line).await.map_err(unread)? > 0)
}

/// What psql does for itself, and a setting that servers before PostgreSQL 17
/// do not know.
fn is_for_psql(line: &[u8]) -> bool {
    line.starts_with(b"\\restrict ")
        || line.starts_with(b"\\unrestrict ")
        || line == b"SET transaction_timeout = 0;\n"
}

/// The frame of large objects, which are in a transaction here as they are.
fn is_frame(line: &[u8]) -> bool {
    line == b"BEGIN;\n" || line == b"COMMIT;\n"
}

fn text(bytes: &[u8]) -> Result<String, BackupError> {
    String::from_utf8(bytes.to_vec()).map_err(|error| BackupError::Tool {
        tool: "pg_restore",
        said: format!("the archive is not in UTF-8: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_sql_for_the_server_is_left_out() {
        let psql = [
            "\\restrict aB3\n",
            "\\unrestrict aB3\n",
            "SET transaction_timeout = 0;\n",
        ];
        for line in psql {
            assert!(is_for_psql(line.as_bytes()), "{line}");
        }
        for line in ["BEGIN\n", "SET lock_timeout = 0;\n", "\\.\n", "  COMMIT;\n"] {
            assert!(
                !is_for_psql(line.as_bytes()) && !is_frame(line.as_bytes()),
                "{line}"
            );
        }
    }
}
