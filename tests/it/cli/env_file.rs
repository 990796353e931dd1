//! The `.env` file: which one is read, and what is refused.

use std::path::Path;

use super::settings::assert_refused;
use crate::support::program::{program, run};

#[test]
fn an_env_file_that_everyone_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".env");
    std::fs::write(&file, "LOG_FORMAT=json\n").unwrap();
    for (mode, status) in [(0o600, 0), (0o664, 0), (0o646, 2), (0o666, 2)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let ran = run(program(&["status"]).current_dir(folder.path()));
        assert_eq!(ran.status, status, "{mode:o}: {}", ran.stderr);
        if status == 2 {
            assert!(
                ran.stderr.starts_with("error: .env: ") && ran.stderr.contains("chmod o-w"),
                "{}",
                ran.stderr
            );
        }
    }
}

#[test]
fn only_the_working_directorys_env_file_is_read() {
    let above = tempfile::tempdir().unwrap();
    let below = above.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(above.path().join(".env"), "LOG_FORMAT=xml\n").unwrap();
    let status = |folder: &Path| run(program(&["status"]).current_dir(folder));
    for folder in [&below, above.path().join("a").as_path()] {
        assert_eq!(status(folder).status, 0);
    }
    // The mark that some editors begin a file with is no part of a name.
    std::fs::write(below.join(".env"), "\u{feff}LOG_FORMAT=xml\n").unwrap();
    for folder in [above.path(), &below] {
        assert_refused(&status(folder), "LOG_FORMAT", "its own file");
    }
}

#[test]
fn an_unreadable_line_of_the_env_file_is_not_repeated() {
    let scratch = tempfile::tempdir().unwrap();
    for line in [
        "STRIPE_WEBHOOK_SECRET=whsec_hunter2 and more",
        "whsec_hunter2",
    ] {
        std::fs::write(scratch.path().join(".env"), line).unwrap();
        let ran = run(program(&["serve"]).current_dir(scratch.path()));
        assert_refused(&ran, ".env", line);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
}
