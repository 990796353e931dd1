//! Restoring into an empty database, all or nothing, and verifying the result.

use std::path::Path;

use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use super::archive::{checksum, read_back, unreachable};
use super::load::load;
use super::tools::plain;
use super::{BackupError, Manifest, store};
use crate::audit;
use crate::db;
use crate::migrations::verify;

/// What was restored and verified.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    pub tables: usize,
    pub rows: i64,
    /// Verified audit chains, and their entries.
    pub chains: u64,
    pub entries: u64,
    /// Whether the rows were compared with the backup's manifest.
    pub counted: bool,
}

/// Restores `file` into the empty database of `owner`.
///
/// # Errors
/// Nothing was restored, unless the error is one of the final checks
/// ([`BackupError::Differs`]).
pub async fn restore(owner: &PgConnectOptions, file: &Path) -> Result<Restored, BackupError> {
    let manifest = Manifest::read(file)?;
    if let Some(manifest) = &manifest
        && manifest.sha256 != checksum(file)?
    {
        return Err(BackupError::Checksum(file.to_owned()));
    }
    read_back(file).await?;
    let mut conn = db::connect(owner).await.map_err(unreachable)?;
    let tables = store::tables(&mut conn).await?;
    if tables > 0 {
        return Err(BackupError::NotEmpty(tables));
    }
    store::make_roles(&mut conn).await?;
    let contents = contents(file, &store::schemas(&mut conn).await?).await?;
    load(owner, file, &contents).await?;
    // A backup does not contain what the catalog lets everyone do.
    db::guards::close_large_objects(&mut conn).await?;
    let rows = store::counts(&mut conn).await?;
    if let Some(manifest) = &manifest
        && manifest.rows != rows
    {
        let differs = manifest
            .rows
            .iter()
            .find(|(name, count)| rows.get(*name) != Some(*count));
        let said = differs.map_or_else(
            || "the tables differ from the backup's".to_owned(),
            |(table, count)| format!("{table} does not have the backup's {count} rows"),
        );
        return Err(BackupError::Differs(said));
    }
    let checks = verify::verify(&mut conn).await?;
    if let Some(check) = checks.iter().find(|check| !check.ok) {
        return Err(BackupError::Differs(format!(
            "{} {}",
            check.name,
            check.problem.as_deref().unwrap_or("is wrong")
        )));
    }
    let report = audit::verify(&mut conn, None).await?;
    if let Some(broken) = report.breaks.first() {
        return Err(BackupError::Differs(format!(
            "the audit log of {} breaks at {}: {}",
            broken.organization_id, broken.sequence, broken.problem
        )));
    }
    store::skip_sequences(&mut conn).await?;
    Ok(Restored {
        tables: rows.len(),
        rows: rows.values().sum(),
        chains: report.chains,
        entries: report.entries,
        counted: manifest.is_some(),
    })
}

/// The entries that pg_restore should take from `file`: all but the schemas that the
/// database already has.
async fn contents(file: &Path, there: &[String]) -> Result<String, BackupError> {
    let listed = plain("pg_restore")?
        .arg("--list")
        .arg("--")
        .arg(file)
        .output()
        .await
        .map_err(|_| BackupError::NoTool("pg_restore"))?;
    if !listed.status.success() {
        return Err(BackupError::Tool {
            tool: "pg_restore",
            said: String::from_utf8_lossy(&listed.stderr).trim().to_owned(),
        });
    }
    // An entry: `5; 2615 2200 SCHEMA - public pg_database_owner`.
    let is_there = |line: &&str| {
        let named = line.split_once(" SCHEMA - ").map(|(_, rest)| rest);
        let schema = named.and_then(|rest| rest.split(' ').next());
        schema.is_some_and(|schema| there.iter().any(|name| name == schema))
    };
    let list = String::from_utf8_lossy(&listed.stdout);
    let kept: Vec<&str> = list.lines().filter(|line| !is_there(line)).collect();
    Ok(kept.join("\n") + "\n")
}
