//! How to reach the cluster.

use super::site::{PORT, Site};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const SUPERUSER: &str = "postgres";

/// The addresses of an embedded cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    database: &'static str,
    cluster: PathBuf,
    socket_directory: PathBuf,
}

impl Endpoint {
    pub(super) fn of(site: &Site) -> Endpoint {
        Endpoint {
            database: site.owner().database,
            cluster: site.cluster(),
            socket_directory: site.socket_directory().to_owned(),
        }
    }

    /// The owner's database as superuser.
    pub fn admin_url(&self) -> String {
        self.url_for(SUPERUSER, self.database)
    }

    /// Any database as any role; none needs a password. The port is named because a PGPORT in
    /// the environment would otherwise have psql and sqlx look for another socket.
    pub fn url_for(&self, user: &str, database: &str) -> String {
        format!(
            "postgresql://{}@{}:{PORT}/{}",
            percent_encoded(user.as_bytes()),
            percent_encoded(self.socket_directory.as_os_str().as_bytes()),
            percent_encoded(database.as_bytes()),
        )
    }

    /// Where the cluster's files are.
    pub fn cluster(&self) -> &Path {
        &self.cluster
    }

    /// The directory with the socket, as `PGHOST` takes it.
    pub fn socket_directory(&self) -> &Path {
        &self.socket_directory
    }

    pub(super) fn database(&self) -> &'static str {
        self.database
    }

    /// The database that each cluster has from the beginning.
    pub(super) fn maintenance(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.socket_directory)
            .port(PORT)
            .username(SUPERUSER)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len() * 3);
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_no_quoting() {
        let endpoint = Endpoint {
            database: "d",
            cluster: PathBuf::new(),
            socket_directory: PathBuf::from("/srv/my billing/run"),
        };
        assert_eq!(
            endpoint.url_for("a@b", "c/d"),
            "postgresql://a%40b@%2Fsrv%2Fmy%20billing%2Frun:5432/c%2Fd"
        );
    }
}
