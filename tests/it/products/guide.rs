//! "In twenty minutes" of docs/integration.md, as a newcomer follows it: its own lines, in
//! order, in one shell.

use std::time::Duration;

use super::folder;
use crate::support::ports::reserved;
use crate::support::shell::{Shell, program_folder};

const GUIDE: &str = include_str!("../../../docs/integration.md");

/// The lines of the walk, and what stands in them for this test's own places.
fn lines(places: &[(&str, String)]) -> Vec<String> {
    let (_, walk) = GUIDE.split_once("## In twenty minutes\n").unwrap();
    let (walk, _) = walk.split_once("\n## ").unwrap();
    let blocks = walk.split("```bash\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0);
    let lines = blocks.flat_map(str::lines);
    // The program is built, and on the shell's path.
    let lines = lines.filter(|line| !line.starts_with("cargo build") && !line.contains("PATH="));
    let meant = |line: &str| {
        places.iter().fold(line.to_owned(), |line, (theirs, ours)| {
            line.replace(theirs, ours)
        })
    };
    lines.map(meant).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_walk_of_twenty_minutes_holds_in_order_in_one_shell() {
    let [stripe, billing, product] = [(); 3].map(|()| reserved().to_string());
    let digest = program_folder().join("examples/digest");
    let places = [
        (
            "billing sandbox",
            format!("billing sandbox --listen {stripe}"),
        ),
        ("127.0.0.1:12111", stripe),
        ("127.0.0.1:8080", billing.clone()),
        ("127.0.0.1:3000", product.clone()),
        (
            "$PWD/examples/plans.toml",
            folder("plans.toml").display().to_string(),
        ),
        ("target/debug/examples/digest", digest.display().to_string()),
    ];
    let home = tempfile::tempdir().unwrap();
    let mut shell = Shell::start(home.path());
    let (_, port) = product.rsplit_once(':').unwrap();
    shell.done(&format!("export LISTEN_ADDR={billing} PORT={port}"));
    let mut said = Vec::new();
    let lines = lines(&places);
    let (end, walk) = lines.split_last().unwrap();
    for line in walk {
        let text = shell.done(line);
        said.push((line, text));
    }
    for secret in ["STRIPE_WEBHOOK_SECRET", "BILLING_EVENTS_SECRET"] {
        assert!(shell.done(&format!("echo ${secret}")).starts_with("whsec_"));
    }
    assert!(shell.done("echo $BILLING_KEY").starts_with("vcp_"));
    let audited = said.iter().find(|(line, _)| line.ends_with("audit verify"));
    assert!(audited.unwrap().1.contains("intact"), "{said:?}");
    // The product is there, and signs customers up.
    let client = valuecanvas_billing::http_client::direct_client().unwrap();
    let fields = [("company", "Acme"), ("email", "billing@acme.example")];
    let mut status = 0;
    for _ in 0..300 {
        let sign_up = client
            .post(format!("http://{product}/sign-up"))
            .form(&fields);
        if let Ok(answer) = sign_up.send().await {
            status = answer.status().as_u16();
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(status, 303);
    assert!(
        shell
            .done("valuecanvas-billing organizations list")
            .contains("Acme")
    );
    shell.done(end);
    shell.done("wait");
}
