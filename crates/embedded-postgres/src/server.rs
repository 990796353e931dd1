//! The server process: whether it runs, starting it, stopping it, and what it had to say.

use super::binaries::Binaries;
use super::error::{EmbeddedPostgresError, IoContext, Result};
use super::settings;
use super::site::Site;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};

const STOP_PATIENCE_SECS: &str = "60";
const TAIL_LINES: usize = 20;

/// Whether a server of this cluster runs, be it ready or still (or already) busy with itself.
pub(super) fn is_alive(site: &Site) -> bool {
    let named = recorded_pid(site).is_some_and(|pid| is_server(pid, &site.cluster()));
    named || UnixStream::connect(site.socket()).is_ok()
}

/// Whether the program that the server runs is no longer on disk: it was
/// replaced, by an upgrade of the package. None: this system does not tell.
pub(super) fn was_replaced(site: &Site) -> Option<bool> {
    let pid = recorded_pid(site).filter(|&pid| is_server(pid, &site.cluster()))?;
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(program.as_os_str().as_bytes().ends_with(b" (deleted)"))
}

/// Starts the server in a process group of its own, which ^C at our terminal does not reach.
pub(super) fn spawn(site: &Site, binaries: &Binaries) -> Result<Child> {
    let arguments = settings::write(site, binaries)?;
    remove_socket(site)?;
    let log = site.startup_log();
    // Removed first because it may be another user's, whom root started this for.
    remove_if_there(&log)?;
    let output = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(&log)
        .when("create", &log)?;
    let server = binaries.program("postgres");
    let mut command = site.command(&server, &site.cluster());
    command
        .args(arguments)
        .stdout(Stdio::from(output.try_clone().when("share", &log)?))
        .stderr(Stdio::from(output))
        .process_group(0);
    if let Some(stale) = recorded_pid(site).filter(|_| knows_processes()) {
        // The server that wrote postmaster.pid was killed, and its number may be another
        // process's by now. PostgreSQL takes a living process of that number for the server,
        // unless it is told that it is the one that started it. Removing the file would do too,
        // but with it goes the key by which PostgreSQL sees that children of the old
        // server still use its shared memory.
        command.env("PG_GRANDPARENT_PID", stale.to_string());
    }
    // Tokio's child, for tokio buries it: to the next start a zombie is a living process.
    Command::from(command).spawn().when("run", &server)
}

/// Ends the sessions, writes a checkpoint and returns when the server is gone.
pub(super) fn stop(site: &Site, binaries: &Binaries) -> Result<()> {
    if !is_alive(site) {
        return Ok(());
    }
    let pg_ctl = binaries.program("pg_ctl");
    let output = site
        .command(&pg_ctl, &site.cluster())
        .args(["stop", "-D", ".", "-m", "fast", "-w", "-s"])
        .args(["-t", STOP_PATIENCE_SECS])
        .output()
        .when("run", &pg_ctl)?;
    if output.status.success() || !is_alive(site) {
        return Ok(());
    }
    Err(EmbeddedPostgresError::Stop {
        path: site.cluster(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// The server would not start because processes of its killed predecessor are still ending.
pub(super) fn waits_for_predecessor(site: &Site) -> bool {
    fs::read_to_string(site.startup_log())
        .is_ok_and(|log| log.contains("pre-existing shared memory block"))
}

/// The log that a failed start is to be looked up in, and its end.
pub(super) fn last_lines(site: &Site) -> (PathBuf, String) {
    let log = newest_log(site).unwrap_or_else(|| site.startup_log());
    let text = match fs::read(&log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(it cannot be read: {error})"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    (log, tail)
}

/// The server's own log, if the last start came as far as opening it.
fn newest_log(site: &Site) -> Option<PathBuf> {
    let started = fs::metadata(site.startup_log()).ok()?.modified().ok()?;
    let logs = fs::read_dir(site.log_directory()).ok()?.flatten();
    logs.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .filter(|(modified, _)| *modified >= started)
        .max()
        .map(|(_, path)| path)
}

/// The process id in the file that a running server keeps, and that a killed one leaves behind.
fn recorded_pid(site: &Site) -> Option<u32> {
    let file = fs::read_to_string(site.cluster().join("postmaster.pid")).ok()?;
    file.lines().next()?.trim().parse().ok()
}

/// Where this system does not tell what a process is, PostgreSQL's own checks have to do.
fn knows_processes() -> bool {
    Path::new("/proc/self/cmdline").exists()
}

/// Whether the process is a PostgreSQL server of this cluster. Its arguments can be read by
/// all; its working directory, which also tells of a server started by hand, not by
/// a root without the right to trace processes, as in most containers.
fn is_server(pid: u32, cluster: &Path) -> bool {
    let Ok(command_line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next().unwrap_or_default();
    let is_postgres = [&b"postgres"[..], b"postmaster"]
        .iter()
        .any(|name| program.rsplit(|byte| *byte == b'/').next() == Some(name));
    let names_cluster = arguments.any(|argument| argument == cluster.as_os_str().as_bytes());
    is_postgres && (names_cluster || same_directory(&format!("/proc/{pid}/cwd"), cluster))
}

fn same_directory(one: &str, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((identity(Path::new(one)), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// The socket's lock file names a process as postmaster.pid does, and is as easily out of date.
fn remove_socket(site: &Site) -> Result<()> {
    let socket = site.socket();
    let mut lock = socket.clone();
    lock.add_extension("lock");
    remove_if_there(&socket)?;
    remove_if_there(&lock)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).when("remove", path),
        _ => Ok(()),
    }
}
