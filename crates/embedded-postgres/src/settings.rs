//! The server's configuration, written anew at each start.

use super::binaries::Binaries;
use super::error::{IoContext, Result};
use super::site::{PORT, Site};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const ACCESS: &str = "\
# Written at each start.
# The socket's directory lets in nobody but the server's own user and root.
local all all trust
";

/// Writes the configuration and answers with the server's arguments.
pub(super) fn write(site: &Site, binaries: &Binaries) -> Result<Vec<OsString>> {
    let access = site.etc().join("pg_hba.conf");
    let main = site.etc().join("postgresql.conf");
    replace(&access, ACCESS)?;
    replace(&main, &configuration(site, compression(site, binaries)?))?;
    Ok(vec![
        "-D".into(),
        site.cluster().into(),
        "-c".into(),
        assignment("config_file", &main),
        "-c".into(),
        assignment("hba_file", &access),
        "-c".into(),
        assignment("log_directory", &site.log_directory()),
    ])
}

fn configuration(site: &Site, wal_compression: &str) -> String {
    // Plain by construction (see `Site`), so there is nothing to escape.
    let program = site.owner().program;
    let socket_directory = site.socket_directory().display();
    format!(
        "\
# Written by {program} at each start. To change a setting, use ALTER SYSTEM.
cluster_name = '{program}'

# A socket in a private directory is the only way in.
listen_addresses = ''
port = {PORT}
unix_socket_directories = '\"{socket_directory}\"'
unix_socket_permissions = 0700
max_connections = 200

# What is committed survives the loss of power.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = {wal_compression}

shared_buffers = 128MB
max_locks_per_transaction = 128
dynamic_shared_memory_type = posix
# Our queries are short; compiling them costs more than it saves.
jit = off

# A file for each day of the week, begun anew each week.
logging_collector = on
log_filename = 'postgres-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_line_prefix = '%m [%p] %q%u@%d '

timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
"
    )
}

/// lz4 is a choice of whoever built PostgreSQL, so ask.
fn compression(site: &Site, binaries: &Binaries) -> Result<&'static str> {
    let server = binaries.program("postgres");
    let answer = site
        .command(&server, &site.cluster())
        .args(["-D", ".", "-c", "wal_compression=lz4"])
        .args(["-C", "wal_compression"])
        .output()
        .when("run", &server)?;
    Ok(if answer.status.success() {
        "lz4"
    } else {
        "pglz"
    })
}

fn assignment(setting: &str, path: &Path) -> OsString {
    let mut assignment = OsString::from(format!("{setting}="));
    assignment.push(path);
    assignment
}

/// A reader, such as the server on a reload, sees the old file or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let mut fresh = PathBuf::from(path);
    fresh.add_extension("new");
    fs::write(&fresh, text).when("write", &fresh)?;
    // Whatever our umask says, the server's user has to read it.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&fresh, readable).when("set the mode of", &fresh)?;
    fs::rename(&fresh, path).when("rename", &fresh)
}
