//! The program as operators run it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::TestDatabase;

/// The program with `arguments`, in an environment that has nothing of ours
/// but what the test gives it.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_valuecanvas-billing"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null());
    command
}

/// The program against `db`, as a deployment configures it.
pub fn program_on(db: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command
        .env("DATABASE_URL", db.url("billing_service"))
        .env("MIGRATION_DATABASE_URL", db.url("postgres"))
        .env("DATA_DIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// The same, with the Stripe at `base`.
pub fn program_with_stripe(db: &TestDatabase, base: &str, arguments: &[&str]) -> Command {
    let mut command = program_on(db, arguments);
    command
        .env("STRIPE_SECRET_KEY", "sk_test_secret")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
        .env("STRIPE_API_BASE", base);
    command
}

/// Runs the program against `db` to its end, beside the servers of the test.
pub async fn run_on(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run_beside(program_on(db, arguments)).await
}

/// Runs a command to its end, beside the servers of the test.
pub async fn run_beside(mut command: Command) -> Ran {
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .expect("the run does not panic")
}

/// What a run printed, and its exit status.
pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the program starts");
    Ran {
        status: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}
