//! pg_dump and pg_restore, started without secrets in their arguments.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::Command;

use super::BackupError;
use super::address::Address;
use super::service_file::ServiceFile;

/// A database, as libpq's programs take it.
pub struct Target {
    address: Address,
    /// Parameters that libpq reads only from a file, which must outlive its programs.
    file: Option<ServiceFile>,
}

impl Target {
    pub fn new(url: &str) -> Result<Self, BackupError> {
        let mut address = Address::read(url);
        let file = match address.take_key_password() {
            Some(password) => Some(ServiceFile::write(&[("sslpassword", &password)])?),
            None => None,
        };
        if file.is_some() {
            address.name_service(ServiceFile::NAME);
        }
        Ok(Self { address, file })
    }

    /// `tool`, connected to the database. The target must outlive the process.
    pub fn command(&self, tool: &'static str) -> Result<Command, BackupError> {
        let mut command = plain(tool)?;
        command.arg("--dbname").arg(self.address.shown());
        let secrets = [
            ("PGPASSWORD", self.address.password()),
            ("PGPASSFILE", self.address.password_file()),
        ];
        for (variable, value) in secrets {
            if let Some(value) = value {
                command.env(variable, value);
            }
        }
        if let Some(file) = &self.file {
            command.env("PGSERVICEFILE", file.path());
        }
        Ok(command)
    }
}

/// `tool` of the newest installed version, which also reads older versions'
/// archives.
pub fn plain(tool: &'static str) -> Result<Command, BackupError> {
    let beside_server = embedded_postgres::program(tool).filter(|path| path.is_file());
    let path = beside_server.or_else(|| on_path(tool));
    let mut command = Command::new(path.ok_or(BackupError::NoTool(tool))?);
    command.stdin(Stdio::null()).kill_on_drop(true);
    // We search the output for messages.
    command.env("LC_ALL", "C");
    Ok(command)
}

fn on_path(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(tool))
        .find(|path| path.is_file())
}
