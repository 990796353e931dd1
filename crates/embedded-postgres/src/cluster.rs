//! Makes the cluster, or recognises the one that is there.

use super::binaries::Binaries;
use super::error::{EmbeddedPostgresError, IoContext, Result};
use super::site::Site;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use uuid::Uuid;

const UNFINISHED: &str = "postgres.new-";

/// Answers with the programs for the cluster, which exists afterwards.
/// Only who holds the start lock may call this.
pub(super) fn ensure(site: &Site) -> Result<Binaries> {
    remove_unfinished(site)?;
    match version(&site.cluster())? {
        Some(version) => Binaries::for_cluster(&site.cluster(), &version),
        None => {
            let binaries = Binaries::newest()?;
            create(site, &binaries)?;
            Ok(binaries)
        }
    }
}

/// The major version that made the cluster; `None` when there is none.
pub(super) fn version(cluster: &Path) -> Result<Option<String>> {
    let file = cluster.join("PG_VERSION");
    match fs::read_to_string(&file) {
        Ok(version) => Ok(Some(version.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let occupied = fs::read_dir(cluster).is_ok_and(|mut entries| entries.next().is_some());
            if occupied {
                return Err(EmbeddedPostgresError::NotACluster {
                    path: cluster.to_owned(),
                });
            }
            Ok(None)
        }
        Err(error) => Err(error).when("read", &file),
    }
}

/// Makes the cluster beside its place and renames it, so what has the name is whole.
fn create(site: &Site, binaries: &Binaries) -> Result<()> {
    let unfinished = site
        .base()
        .join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
    site.create_private(&unfinished)?;
    let output = site
        .command(&binaries.program("initdb"), &unfinished)
        .args(["--pgdata=.", "--username=postgres"])
        .args(["--encoding=UTF8", "--locale=C", "--data-checksums"])
        .args(["--auth-local=trust", "--auth-host=reject"])
        .output()
        .when("run", &binaries.program("initdb"))?;
    if !output.status.success() {
        discard(&unfinished);
        return Err(EmbeddedPostgresError::Initdb {
            path: unfinished,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    fs::rename(&unfinished, site.cluster()).when("rename", &unfinished)?;
    File::open(site.base())
        .and_then(|directory| directory.sync_all())
        .when("sync", site.base())?;
    tracing::info!(cluster = %site.cluster().display(), "made a PostgreSQL cluster");
    Ok(())
}

/// Nobody works on these any more: they are only made under the start lock.
fn remove_unfinished(site: &Site) -> Result<()> {
    for entry in fs::read_dir(site.base())
        .when("read", site.base())?
        .flatten()
    {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            discard(&entry.path());
        }
    }
    Ok(())
}

/// An initdb that outlived the process which began it may still write there; the next start
/// then finds what is left.
fn discard(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory) {
        tracing::warn!(directory = %directory.display(), %error, "cannot remove an unfinished cluster");
    }
}
