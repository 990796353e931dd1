//! The official SDKs, configured with another host and otherwise unchanged.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::World;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk")
}

async fn run(mut command: Command) -> Output {
    let name = format!("{command:?}");
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the task ends")
        .unwrap_or_else(|error| panic!("cannot run {name}: {error}"))
}

fn check(output: &Output) {
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.trim() == "ok",
        "{stdout}\n{stderr}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_sdk_works_against_the_sandbox() {
    let folder = folder();
    assert!(
        folder.join("node_modules/stripe").is_dir(),
        "the Node SDK is missing: run scripts/setup-foreign"
    );
    let world = World::new().await;
    let address = world.sandbox.address();
    let mut node = Command::new("node");
    node.arg(folder.join("flow.mjs"))
        .arg(address.ip().to_string())
        .arg(address.port().to_string());
    check(&run(node).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_works_against_the_sandbox() {
    let folder = folder();
    let own = folder.join(".venv/bin/python");
    let program = if own.exists() {
        own
    } else {
        PathBuf::from("python3")
    };
    let mut probe = Command::new(&program);
    probe.args([
        "-c",
        "import stripe; assert stripe.VERSION == '16.1.0', stripe.VERSION",
    ]);
    assert!(
        run(probe).await.status.success(),
        "the Python SDK is missing: run scripts/setup-foreign"
    );
    let world = World::new().await;
    let mut python = Command::new(&program);
    python.arg(folder.join("flow.py")).arg(world.sandbox.url());
    check(&run(python).await);
}
