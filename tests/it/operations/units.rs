//! The systemd unit, the crontab and the list of variables.

use std::process::Command;

use crate::support::TestDatabase;
use crate::support::program::{program, run};
use crate::support::serving::{Serving, serve_on};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn systemd_takes_the_unit() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        // Where systemd is not, the unit has nowhere to run.
        return;
    };
    assert!(version.status.success());
    let folder = tempfile::tempdir().unwrap();
    let unit =
        std::fs::read_to_string(format!("{ROOT}/deploy/systemd/valuecanvas-billing.service"));
    // The program need not be installed here.
    let unit = unit.unwrap().replace(
        "/usr/local/bin/valuecanvas-billing",
        env!("CARGO_BIN_EXE_valuecanvas-billing"),
    );
    let path = folder.path().join("valuecanvas-billing.service");
    std::fs::write(&path, unit).unwrap();
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(
        checked.status.success() && !said.contains("Unknown"),
        "{said}"
    );
}

#[tokio::test]
async fn systemd_is_told_when_it_serves() {
    let db = TestDatabase::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let mut command = serve_on(&db);
    let serving = Serving::start(command.env("NOTIFY_SOCKET", &path));
    let told = || {
        let mut said = [0; 64];
        let length = socket.recv(&mut said).unwrap();
        String::from_utf8_lossy(&said[..length]).trim().to_owned()
    };
    assert_eq!(told(), "READY=1");
    assert!(serving.log().contains("PlanEnforcementMiddleware"));
    assert_eq!(serving.terminated().await.status, 0);
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn every_variable_is_in_the_example() {
    let example = std::fs::read_to_string(format!("{ROOT}/.env.example")).unwrap();
    let listed = |name: &str| {
        example.lines().any(|line| {
            line.trim_start_matches('#')
                .trim_start()
                .starts_with(&format!("{name}="))
        })
    };
    let mut variables = 0;
    for (_, source) in crate::architecture::sources("src/config") {
        for text in source.split('"') {
            let name = text.len() > 4
                && text.contains('_')
                && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            if name {
                assert!(listed(text), ".env.example lacks {text}");
                variables += 1;
            }
        }
    }
    assert!(variables > 20);
}

#[test]
fn a_shell_completes_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let printed = run(&mut program(&["completions", shell]));
        assert_eq!(printed.status, 0, "{}", printed.stderr);
        assert!(printed.stdout.contains("grace-periods"), "{shell}");
    }
    let manual = run(&mut program(&["completions", "--man"]));
    assert!(
        manual.stdout.contains(".TH valuecanvas-billing"),
        "{}",
        manual.stdout
    );
}
