//! pg_dump and pg_restore, told of the database without showing its password.

use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Url;
use tokio::process::Command;

use super::BackupError;
use crate::embedded_postgres;

/// A database, as libpq's programs take it.
#[derive(Clone)]
pub struct Target {
    /// Without the password, which the arguments of a process would show.
    url: String,
    password: Option<String>,
}

impl Target {
    pub fn new(url: &str) -> Self {
        let Ok(mut parsed) = Url::parse(url) else {
            return Self {
                url: url.to_owned(),
                password: None,
            };
        };
        let password = parsed.password().map(decoded);
        let _ = parsed.set_password(None);
        Self {
            url: parsed.to_string(),
            password,
        }
    }

    /// `tool`, told of the database.
    pub fn command(&self, tool: &'static str) -> Result<Command, BackupError> {
        let mut command = plain(tool)?;
        command.arg("--dbname").arg(&self.url);
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
        Ok(command)
    }
}

/// `tool` by itself: that of the newest installed version, which reads those of
/// older ones.
pub fn plain(tool: &'static str) -> Result<Command, BackupError> {
    let beside_server = embedded_postgres::program(tool).filter(|path| path.is_file());
    let path = beside_server.or_else(|| on_path(tool));
    let mut command = Command::new(path.ok_or(BackupError::NoTool(tool))?);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // What they complain of is looked for in their output.
    command.env("LC_ALL", "C");
    Ok(command)
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(tool))
        .find(|path| path.is_file())
}

/// `%40` is `@`; what is no escape stays.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_among_the_arguments() {
        let target = Target::new("postgresql://me:p%40ss%25@host:5433/db?sslmode=require");
        assert_eq!(target.url, "postgresql://me@host:5433/db?sslmode=require");
        assert_eq!(target.password.as_deref(), Some("p@ss%"));
        let socket = Target::new("postgresql://me@%2Ftmp%2Fx:5432/db");
        assert_eq!(socket.url, "postgresql://me@%2Ftmp%2Fx:5432/db");
    }
}
