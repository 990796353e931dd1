//! Signing in in a real browser: by a real identity provider, and by a password with a code.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use valuecanvas_billing::config::{OidcConfig, OperatorConfig, SurfaceConfig};

use super::{Desk, OPERATOR, PASSWORD};
use crate::support::TestService;
use crate::support::service::Options;

const CLIENT: &str = "billing";
const SECRET: &str = "a secret of the client";

fn surface(issuer: &str) -> SurfaceConfig {
    let oidc = OidcConfig {
        issuer: issuer.to_owned(),
        client_id: CLIENT.to_owned(),
        client_secret: Some(SECRET.to_owned()),
        operator_group: Some("billing-operators".to_owned()),
        readonly_group: Some("billing-support".to_owned()),
        groups_claim: "groups".to_owned(),
        scopes: "openid profile email".to_owned(),
        allow_passwords: false,
    };
    SurfaceConfig {
        operators: OperatorConfig {
            oidc: Some(oidc),
            ..OperatorConfig::default()
        },
        ..SurfaceConfig::default()
    }
}

#[tokio::test]
async fn operators_sign_in_in_a_browser_by_a_provider_and_by_a_code() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/node/sign-on.js");
    let mut child = Command::new("node")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut issuer = String::new();
    output.read_line(&mut issuer).await.unwrap();
    let options = Options {
        workers: 0,
        surface: surface(issuer.trim()),
        ..Options::default()
    };
    let by_provider = TestService::with(options).await;
    let by_code = Desk::open().await;
    let asked = json!({
        "provider": {"base": by_provider.base, "client": CLIENT, "secret": SECRET},
        "codes": {"base": by_code.service.base, "email": OPERATOR, "password": PASSWORD},
        // A folder for pictures of each page.
        "shots": std::env::var("VCB_SHOTS").ok(),
    });
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(format!("{asked}\n").as_bytes())
        .await
        .unwrap();
    let mut errors = child.stderr.take().unwrap();
    let (mut found, mut said) = (String::new(), String::new());
    let (read, told) = tokio::join!(
        output.read_to_string(&mut found),
        errors.read_to_string(&mut said)
    );
    read.and(told).unwrap();
    assert!(child.wait().await.unwrap().success(), "{said}");
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(found["faults"], json!([]), "{found:#}");
    assert_eq!(found["pages"], 18);
    let roles = "SELECT string_agg(email || ' ' || CASE WHEN operator THEN 'operator'
                   WHEN operator_reads THEN 'operator.read' END, ',' ORDER BY email) FROM users";
    assert_eq!(
        by_provider.db.value(roles).await,
        "ada@example.com operator,ben@example.com operator.read"
    );
}
