//! docs/deployment.md: what its commands name is there. `walkthrough` runs them.

use std::path::Path;

use crate::support::TestService;
use crate::support::program::{program, run};

const GUIDE: &str = include_str!("../../../docs/deployment.md");

/// The commands of the guide's shell blocks.
fn commands() -> Vec<&'static str> {
    let mut found = Vec::new();
    for block in GUIDE.split("```bash\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        found.extend(block.lines().map(str::trim).filter(|line| !line.is_empty()));
    }
    assert!(found.len() > 25, "{found:?}");
    found
}

fn ours() -> impl Iterator<Item = Vec<&'static str>> {
    let of_the_machine = ["useradd ", "install ", "systemctl "];
    let is_ours = move |line: &&str| !of_the_machine.iter().any(|tool| line.starts_with(tool));
    let ours = commands().into_iter().filter(is_ours);
    let ours = ours.filter_map(|line| Some(line.split_once("valuecanvas-billing ")?.1));
    ours.map(|line| {
        let ends = [" > ", " | ", ")"];
        let line = ends
            .iter()
            .fold(line, |line, end| line.split(end).next().unwrap());
        line.split(' ').collect()
    })
}

#[test]
fn every_command_is_one_with_the_flags_that_it_names() {
    let mut seen = 0;
    for words in ours() {
        let is_name = |word: &&&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        let named: Vec<&str> = words
            .iter()
            .take_while(|word| is_name(word) && !word.starts_with('-'))
            .copied()
            .collect();
        // Below a command with subcommands, the second word is one of them.
        let depth = named.len().min(2);
        let mut arguments = named[..depth].to_vec();
        arguments.push("--help");
        let help = run(&mut program(&arguments));
        assert_eq!(help.status, 0, "{words:?}: {}", help.stderr);
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.stdout.contains(flag), "{words:?}: {flag}");
        }
        seen += 1;
    }
    assert!(seen > 20);
}

#[test]
fn what_it_applies_and_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for word in GUIDE.split(|c: char| c.is_whitespace() || "`(),;".contains(c)) {
        let ours = [
            "k8s/",
            "monitoring/",
            "deploy/",
            "docs/",
            "scripts/",
            "supabase/",
        ];
        if ours.iter().any(|folder| word.starts_with(folder)) {
            assert!(root.join(word.trim_end_matches('.')).exists(), "{word}");
        }
    }
    for line in commands() {
        let known = [
            "valuecanvas-billing ",
            "export ",
            "kubectl ",
            "systemctl ",
            "curl ",
            "k6 ",
            "psql ",
            "useradd ",
            "install ",
            "for call in ",
            "ORG=$(valuecanvas-billing ",
            "PASSWORD=$(valuecanvas-billing ",
            "TOKEN=$(curl ",
        ];
        assert!(known.iter().any(|tool| line.starts_with(tool)), "{line}");
    }
}

#[tokio::test]
async fn the_load_scenario_ends_without_errors() {
    let service = TestService::start().await;
    let tenant = crate::metering::tenant::Tenant::of(&service, "Loaded").await;
    tenant
        .set_quota(&service, "api_calls", "unlimited", None)
        .await;
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/load-tests/run");
    let child = tokio::process::Command::new("python3")
        .arg(scenario)
        .env("BASE_URL", &service.base)
        .env("BILLING_API_KEY", &tenant.key)
        .env("LOAD_USERS", "4")
        .env("LOAD_SECONDS", "2")
        .output();
    let ran = child.await.unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        said.contains("/api/billing/usage/check") && said.contains("p99"),
        "{said}"
    );
    // The same calls as the one for k6, which node at least can read.
    let k6 = include_str!("../../../scripts/load-tests/billing-api.js");
    for path in [
        "/api/billing/usage/check",
        "/api/billing/usage`",
        "/api/billing/plans`",
    ] {
        assert!(k6.contains(path), "{path}");
    }
    let parsed = std::process::Command::new("node")
        .args(["--input-type=module", "--check"])
        .stdin(
            std::fs::File::open(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/scripts/load-tests/billing-api.js"
            ))
            .unwrap(),
        )
        .output()
        .unwrap();
    assert!(
        parsed.status.success(),
        "{}",
        String::from_utf8_lossy(&parsed.stderr)
    );
}
