//! psql and the shell, as operators use them.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::program::{Ran, run};

/// Commands in a shell, in a directory of their own, with `url` under all the
/// names that the guide has for it.
pub fn shell(url: &str, directory: &Path, commands: &str) -> Ran {
    let mut command = Command::new("bash");
    command
        .args(["-e", "-o", "pipefail", "-c", commands])
        .current_dir(directory)
        .env("PSQLRC", "/dev/null")
        .env("PGSSLMODE", "disable")
        .stdin(Stdio::null());
    for variable in [
        "DATABASE_URL",
        "STAGING_DATABASE_URL",
        "PRODUCTION_DATABASE_URL",
    ] {
        command.env(variable, url);
    }
    run(&mut command)
}

/// `psql -f FILE`, as the guide calls it: psql goes on after an error.
pub fn file(url: &str, path: &Path) -> Ran {
    let mut command = psql(url);
    command.arg("-f").arg(path);
    run(&mut command)
}

/// What an operator types at psql's prompt; the first error ends it.
pub fn typed(url: &str, text: &str) -> Ran {
    let mut command = psql(url);
    command
        .args(["-v", "ON_ERROR_STOP=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("psql reads");
    drop(stdin);
    let output = child.wait_with_output().expect("psql ends");
    Ran {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn psql(url: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .args(["-X", url])
        .env("PGSSLMODE", "disable")
        .stdin(Stdio::null());
    command
}

/// The one file of supabase/migrations whose name has `part` in it.
pub fn migration(part: &str) -> PathBuf {
    crate::support::database::migration_files()
        .into_iter()
        .find(|path| path.to_string_lossy().contains(part))
        .unwrap_or_else(|| panic!("there is no migration {part}"))
}
