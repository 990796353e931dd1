//! The generators of clients that the field uses take the description, what
//! they make compiles, and it can be used against the service.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::support::TestService;

fn root(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    assert!(
        path.exists(),
        "{} is missing: run scripts/setup-foreign",
        path.display()
    );
    path
}

const GENERATORS: &str = "tests/foreign/generators";

/// A program of the generators' folder.
fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.current_dir(root(GENERATORS));
    command.arg(root(&format!("{GENERATORS}/node_modules/{script}")));
    command
}

async fn run(command: &mut Command) -> String {
    let output: Output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{complaints}");
    said
}

async fn generate(description: &str, folder: &Path) {
    let document = folder.join("openapi.json");
    std::fs::write(&document, description).unwrap();
    let types = folder.join("types.ts");
    let mut command = node("openapi-typescript/bin/cli.js");
    run(command.arg(&document).arg("-o").arg(&types)).await;
    let mut command = node("@hey-api/openapi-ts/bin/run.js");
    let command = command.arg("-i").arg(&document).arg("-o");
    let command = command.arg(folder.join("hey"));
    run(command.args(["-c", "@hey-api/client-fetch", "--no-log-file"])).await;
    // Of what we send, typescript-fetch makes code that imports nameless types.
    let without = run(Command::new("jq").arg("del(.webhooks)").arg(&document)).await;
    std::fs::write(&document, without).unwrap();
    let python = root("target/foreign-python/bin/openapi-generator-cli");
    let mut command = Command::new(python);
    let command = command.args(["generate", "-g", "typescript-fetch", "-i"]);
    run(command.arg(&document).arg("-o").arg(folder.join("fetch"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_clients_compile_and_call_the_service() {
    let service = TestService::intake_only().await;
    let description = service.get("/openapi.json").send().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    generate(&description.text().await.unwrap(), folder.path()).await;
    for file in ["drive.ts", "tsconfig.json"] {
        let from = root(GENERATORS).join(file);
        std::fs::copy(from, folder.path().join(file)).unwrap();
    }
    let mut compiler = node("typescript/bin/tsc");
    run(compiler.arg("-p").arg(folder.path())).await;
    let organization = service.organization("Generated").await;
    let key = service.api_key(organization, &Permission::ALL).await;
    let mut client = Command::new("node");
    client
        .env("NO_PROXY", "*")
        .arg(folder.path().join("drive.js"));
    let said = run(client.args([&service.base, &key])).await;
    let seen: Value = serde_json::from_str(&said).unwrap();
    let expected = json!({
        "tiers": ["free", "standard"],
        "recorded": 2,
        "denied": "QUOTA_EXCEEDED",
    });
    assert_eq!(seen, json!([expected, expected, expected]));
}
