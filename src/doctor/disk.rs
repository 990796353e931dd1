//! The disk of the embedded database.

use std::path::Path;

use super::Check;

const MIB: u64 = 1 << 20;
/// With less, PostgreSQL is about to stop.
const LEAST: u64 = 512 * MIB;
/// With less, an operator should act.
const SCARCE: u64 = 5 * 1024 * MIB;

/// `data_dir` is the embedded cluster's; `None` if the database is elsewhere.
pub fn check(data_dir: Option<&Path>) -> Check {
    let name = "disk";
    let Some(data_dir) = data_dir else {
        return Check::skipped(
            name,
            "the database is on another host; monitor its disk there",
        );
    };
    let found = match rustix::fs::statvfs(data_dir) {
        Ok(found) => found,
        Err(error) => {
            let detail = format!("{}: {error}", data_dir.display());
            return Check::failed(name, detail, "check DATA_DIR");
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let detail = format!("{} MiB free at {}", free / MIB, data_dir.display());
    let fix = "free disk space, or move DATA_DIR while nothing runs";
    match free {
        ..LEAST => Check::failed(name, detail, fix),
        LEAST..SCARCE => Check::warning(name, detail, fix),
        _ => Check::ok(name, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn only_a_disk_of_this_host_is_checked() {
        assert_eq!(check(None).verdict, Verdict::Skipped);
        assert!(check(Some(Path::new("/"))).detail.contains("MiB free"));
        let missing = check(Some(Path::new("/nowhere/at/all")));
        assert_eq!(missing.verdict, Verdict::Failed);
    }
}
