//! The embedded PostgreSQL's programs, replaced while the server runs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::events::SECRET;
use crate::support::program::{program, run};
use crate::support::serving::Serving;

/// The system's PostgreSQL, copied to where it can be replaced.
struct Installation {
    root: tempfile::TempDir,
}

impl Installation {
    fn copy() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let at = Command::new("pg_config").arg("--bindir").output();
        let from = match at {
            Ok(said) if said.status.success() => {
                PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
            }
            _ => newest_of_debian(),
        };
        let from = if from.join("postgres").exists() {
            from
        } else {
            newest_of_debian()
        };
        // Programs find what else they need by where they are.
        let lib = from.parent().unwrap();
        let to = root
            .path()
            .join("lib/postgresql")
            .join(lib.file_name().unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-rL").arg(lib).arg(&to).status();
        assert!(copied.unwrap().success());
        let share = Path::new("/usr/share/postgresql");
        if share.exists() {
            fs::create_dir_all(root.path().join("share")).unwrap();
            std::os::unix::fs::symlink(share, root.path().join("share/postgresql")).unwrap();
        }
        let script = format!("#!/bin/sh\necho {}\n", to.join("bin").display());
        let installation = Self { root };
        installation.write("pg_config", &script);
        installation
    }

    fn bin(&self) -> PathBuf {
        let versions = self.root.path().join("lib/postgresql");
        let version = fs::read_dir(versions).unwrap().flatten().next().unwrap();
        version.path().join("bin")
    }

    fn write(&self, name: &str, script: &str) {
        let path = self.root.path().join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self) -> String {
        let path = std::env::var("PATH").unwrap();
        format!("{}:{path}", self.root.path().display())
    }

    /// As a package's upgrade does it.
    fn upgrade(&self) {
        let server = self.bin().join("postgres");
        let original = self.bin().join("postgres.real");
        fs::copy(&server, &original).unwrap();
        fs::remove_file(&server).unwrap();
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then {0} --version | sed 's/) \\([0-9]*\\)\\.[0-9]*/) \\1.99/'; \
             else exec {0} \"$@\"; fi\n",
            original.display()
        );
        fs::write(&server, script).unwrap();
        fs::set_permissions(&server, Permissions::from_mode(0o755)).unwrap();
    }
}

fn newest_of_debian() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let mut versions: Vec<PathBuf> = versions.flatten().map(|entry| entry.path()).collect();
    versions.sort();
    versions.pop().unwrap().join("bin")
}

fn command(installation: &Installation, data: &Path, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command
        .env("PATH", installation.path())
        .env("DATA_DIR", data)
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("STRIPE_WEBHOOK_SECRET", SECRET)
        .env("LOG_FORMAT", "json");
    command
}

#[tokio::test]
async fn doctor_says_that_the_service_must_be_restarted() {
    let installation = Installation::copy();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let data = directory.path().join("data");
    let serving = Serving::start(&mut command(&installation, &data, &["serve"]));
    let doctor = || {
        let ran = run(&mut command(&installation, &data, &["doctor", "--json"]));
        let checks = ran.json();
        let found = checks.as_array().unwrap().iter();
        let mut found = found.filter(|check| check["name"] == "embedded server");
        found.next().cloned().unwrap_or_default()
    };
    assert_eq!(doctor()["verdict"], "ok", "{}", doctor());
    installation.upgrade();
    let found = doctor();
    assert_eq!(found["verdict"], "failed", "{found}");
    assert!(
        found["fix"]
            .as_str()
            .unwrap()
            .contains("restart the service")
    );

    // New sessions load what the server of before does not fit any more.
    let url = run(&mut command(
        &installation,
        &data,
        &["status", "--output", "env"],
    ));
    let url = url
        .stdout
        .lines()
        .find_map(|line| {
            line.split_once("DATABASE_URL=")
                .map(|(_, url)| url.trim_matches('\'').to_owned())
        })
        .expect("the URL");
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let mut admin = sqlx::ConnectOptions::connect(&options.username("postgres"))
        .await
        .unwrap();
    sqlx::Executor::execute(
        &mut admin,
        "ALTER SYSTEM SET session_preload_libraries = 'of_another_version'",
    )
    .await
    .unwrap();
    sqlx::Executor::execute(&mut admin, "SELECT pg_reload_conf()")
        .await
        .unwrap();
    let client = valuecanvas_billing::http_client::direct_client().unwrap();
    let mut said = String::new();
    for _ in 0..200 {
        let answer = client
            .get(format!("{}/readyz", serving.base))
            .send()
            .await
            .unwrap();
        let status = answer.status();
        said = answer.text().await.unwrap();
        if status == 503 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(said.contains("programs were replaced"), "{said}");
    let ran = run(&mut command(&installation, &data, &["doctor"]));
    assert_eq!(ran.status, 3, "{}", ran.stdout);
    assert!(ran.stderr.contains("restart the service"), "{}", ran.stderr);
    sqlx::Executor::execute(&mut admin, "ALTER SYSTEM RESET session_preload_libraries")
        .await
        .unwrap();
    sqlx::Executor::execute(&mut admin, "SELECT pg_reload_conf()")
        .await
        .unwrap();
    serving.terminated().await;
}
