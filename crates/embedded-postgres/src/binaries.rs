//! Finds the PostgreSQL programs that the system has.

use super::error::{EmbeddedPostgresError, Result};
use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest version that the migrations run on.
const OLDEST: u32 = 15;

/// Directories whose subdirectories, one for each version, have a `bin`.
const VERSIONED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// The programs of one PostgreSQL version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    directory: PathBuf,
    major: u32,
}

impl Binaries {
    /// The newest version, for a new cluster.
    pub(super) fn newest() -> Result<Binaries> {
        newest_of(installed()).ok_or(EmbeddedPostgresError::NotInstalled)
    }

    /// The version that made an existing cluster; no other can read it.
    pub(super) fn for_cluster(cluster: &Path, version: &str) -> Result<Binaries> {
        let installed = installed();
        if installed.is_empty() {
            return Err(EmbeddedPostgresError::NotInstalled);
        }
        let mut majors: Vec<u32> = installed.iter().map(|found| found.major).collect();
        majors.sort_unstable();
        majors.dedup();
        installed
            .into_iter()
            .find(|found| found.major.to_string() == version)
            .ok_or_else(|| EmbeddedPostgresError::OtherVersion {
                path: cluster.to_owned(),
                cluster: version.to_owned(),
                installed: majors
                    .iter()
                    .map(u32::to_string)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// As `SHOW server_version` has it.
    pub(super) fn version(&self) -> Option<String> {
        let version = output_of(Command::new(self.program("postgres")).arg("--version"))?;
        let (_, version) = version.split_once(") ")?;
        Some(version.to_owned())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    fn at(directory: PathBuf) -> Option<Binaries> {
        // The development packages have a pg_config that names a directory without a server.
        let complete = ["initdb", "pg_ctl", "postgres"]
            .iter()
            .all(|name| directory.join(name).is_file());
        if !complete {
            return None;
        }
        let version = output_of(Command::new(directory.join("postgres")).arg("--version"))?;
        let major = major_of(&version)?;
        Some(Binaries { directory, major })
    }
}

fn newest_of(installed: Vec<Binaries>) -> Option<Binaries> {
    installed
        .into_iter()
        .filter(|found| found.major >= OLDEST)
        // Of equals the first, which is the most complete place.
        .min_by_key(|found| Reverse(found.major))
}

fn installed() -> Vec<Binaries> {
    candidates().into_iter().filter_map(Binaries::at).collect()
}

/// The best places first.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    found.extend(output_of(Command::new("pg_config").arg("--bindir")).map(PathBuf::from));
    for (parent, prefix) in VERSIONED {
        let Ok(entries) = fs::read_dir(parent) else {
            continue;
        };
        let versions = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        found.extend(versions.map(|entry| entry.path().join("bin")));
    }
    found.push(PathBuf::from("/usr/local/pgsql/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A link to one program does not mean that the others are linked as well.
    let linked = std::env::split_paths(&path)
        .filter_map(|directory| fs::canonicalize(directory.join("postgres")).ok());
    found.extend(linked.filter_map(|server| server.parent().map(Path::to_owned)));
    found
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` is 15, `18beta2` is 18.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    let digits = number.find(|c: char| !c.is_ascii_digit());
    number[..digits.unwrap_or(number.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_the_first_number() {
        let cases = [
            (
                "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)",
                Some(15),
            ),
            ("postgres (PostgreSQL) 18beta2", Some(18)),
            ("postgres (PostgreSQL) 16.10 (Homebrew)", Some(16)),
            ("postgres (PostgreSQL) 17", Some(17)),
            ("zsh: command not found", None),
        ];
        for (printed, major) in cases {
            assert_eq!(major_of(printed), major, "{printed}");
        }
    }

    #[test]
    fn a_new_cluster_takes_the_newest_version_that_is_new_enough() {
        let of = |majors: &[u32]| {
            let installed = majors.iter().map(|&major| Binaries {
                directory: PathBuf::new(),
                major,
            });
            newest_of(installed.collect()).map(|found| found.major)
        };
        assert_eq!(of(&[14, 17, 15]), Some(17));
        assert_eq!(of(&[13, 14]), None);
        assert_eq!(of(&[]), None);
    }
}
