//! A client in Python, generated from the description by somebody else's program, and used.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;
use valuecanvas_billing::tenancy::auth::Permission;

use super::package::{description, succeed};
use crate::support::TestService;

#[tokio::test]
async fn a_generated_python_client_records_usage_and_reads_the_state() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = root.join("target/foreign-python/bin");
    let generator = bin.join("openapi-python-client");
    assert!(
        generator.exists(),
        "{} is missing: run scripts/setup-foreign",
        generator.display()
    );
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("openapi.json"), description()).unwrap();
    // It is not published: nobody needs it to be formatted.
    fs::write(
        at("config.json"),
        r#"{"post_hooks": [], "package_name_override": "billing_client"}"#,
    )
    .unwrap();
    let mut generate = Command::new(generator);
    generate.current_dir(folder.path()).arg("generate");
    generate.args(["--meta", "none", "--path", "openapi.json"]);
    let said = succeed(generate.args(["--config", "config.json"])).await;
    assert!(!said.contains("ERROR"), "{said}");

    let service = TestService::intake_only().await;
    let organization = service.organization("Generated").await;
    let key = service.api_key(organization, &Permission::ALL).await;
    let mut client = Command::new(bin.join("python"));
    client.arg(root.join("tests/foreign/python/generated.py"));
    client.args([&service.base, &key]);
    client.env("PYTHONPATH", folder.path()).env("NO_PROXY", "*");
    let seen: Value = serde_json::from_str(&succeed(&mut client).await).unwrap();
    assert_eq!(
        seen,
        json!({
            "plan": "free",
            "recorded": 2,
            "usage": 3.5,
            "refused": "QUOTA_EXCEEDED",
            "unauthenticated": 401,
        })
    );
}
