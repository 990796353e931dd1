//! Loading an archive over our own connection, in one transaction. pg_restore only
//! turns the archive into SQL and does not connect to the database, so that killing
//! this process also ends the transaction.

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

/// Size of the pieces in which rows are sent to the server.
const PIECE: usize = 256 * 1024;

/// Loads the entries of `file` that `contents` lists, all or nothing.
pub async fn load(
    owner: &PgConnectOptions,
    file: &Path,
    contents: &str,
) -> Result<(), BackupError> {
    let mut conn = db::connect(owner).await.map_err(unreachable)?;
    // Without it, a server that builds an index does not notice that we are gone.
    // Some systems do not support it.
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
        // A refusal by the database explains why pg_restore could not go on.
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

/// Starts pg_restore, which writes a section as SQL.
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
    // It reads the whole list before it writes. If it has already ended, its exit
    // status says why.
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

/// Runs a section without rows.
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

/// Runs the section of rows: COPY statements, each followed by its rows.
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

/// Sends the rows of one COPY.
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
                said: "it ended in the middle of a table".to_owned(),
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

/// Commands for psql, and a setting that servers before PostgreSQL 17 do not know.
fn is_for_psql(line: &[u8]) -> bool {
    line.starts_with(b"\\restrict ")
        || line.starts_with(b"\\unrestrict ")
        || line == b"SET transaction_timeout = 0;\n"
}

/// The transaction around large objects, which here are inside ours.
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
    fn commands_for_psql_are_left_out() {
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
