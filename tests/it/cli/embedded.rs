//! Which database a command works on is never guessed: only `serve` and `demo`
//! start the embedded one.

use std::path::Path;
use std::process::Command;

use clap::CommandFactory as _;
use embedded_postgres::EmbeddedPostgres;
use rustix::process::{Pid, Signal, kill_process};
use valuecanvas_billing::app::EMBEDDED;
use valuecanvas_billing::cli::Arguments;

use crate::cli::demo::Demo;
use crate::support::program::{Ran, program, run};

/// Commands that work without a database.
const WITHOUT: [&str; 9] = [
    // These start one, or are told of it.
    "serve",
    "demo",
    "status",
    "sandbox",
    "openapi",
    "completions",
    "events types",
    // They remember in the database what they find, if there is one.
    "plans list",
    "plans sync",
];

/// Every command that works on a database.
const COMMANDS: &[&[&str]] = &[
    &["backup", "billing-before.dump"],
    &["backup", "-"],
    &["restore", "billing.dump"],
    &["migrate", "up"],
    &["migrate", "status"],
    &["migrate", "verify"],
    &["migrate", "rollback", "--yes", "--force"],
    &["doctor"],
    &["webhooks", "retry"],
    &["webhooks", "list"],
    &["webhooks", "dead-letters"],
    &["webhooks", "replay", "--all"],
    &["webhooks", "bulk", "start", "replay-dead-letters"],
    &["webhooks", "bulk", "list"],
    &[
        "webhooks",
        "bulk",
        "show",
        "019aab70-0000-7000-8000-000000000001",
    ],
    &[
        "webhooks",
        "bulk",
        "stop",
        "019aab70-0000-7000-8000-000000000001",
    ],
    &["webhooks", "trigger", "invoice.created"],
    &["grace-periods", "cleanup", "--older-than-days", "30"],
    &["grace-periods", "list"],
    &["usage", "report"],
    &["usage", "alerts"],
    &["webhooks", "backfill", "--since", "1h"],
    &["subscriptions", "reconcile"],
    &["subscriptions", "end-doubles"],
    &["import", "stripe", "--dry-run"],
    &["organizations", "list"],
    &["organizations", "create", "--name", "Acme"],
    &["users", "list"],
    &[
        "users",
        "create",
        "--email",
        "a@b.example",
        "--role",
        "operator",
        "--generate-password",
    ],
    &["users", "enable", "--email", "a@b.example"],
    &["users", "reset-second-factor", "--email", "a@b.example"],
    &["api-keys", "list", "--organization", ORGANIZATION],
    &["api-keys", "list", "--operator"],
    &["quotas", "list", "--organization", ORGANIZATION],
    &["audit", "list"],
    &["audit", "verify"],
    &["audit", "export"],
    &["audit", "repair", "--organization", ORGANIZATION],
    &["webhooks", "show", "evt_1"],
    &["webhooks", "discard", "evt_1"],
    &["plans", "versions"],
    &["plans", "diff"],
    &["plans", "migrate", "--plan", "standard", "--to", "1"],
    &["explain", "evt_1"],
    &["figures", "show"],
    &["figures", "months"],
    &["figures", "standings"],
    &["figures", "rebuild", "--yes"],
    &["features", "list", "--organization", ORGANIZATION],
    &[
        "features",
        "set",
        "--organization",
        ORGANIZATION,
        "--feature",
        "sso",
        "--value",
        "true",
        "--reason",
        "asked for",
    ],
    &[
        "features",
        "unset",
        "--organization",
        ORGANIZATION,
        "--feature",
        "sso",
    ],
    &[
        "quotas",
        "set",
        "--organization",
        ORGANIZATION,
        "--metric",
        "api_calls",
        "--limit",
        "5",
    ],
    &["organizations", "show", ORGANIZATION],
    &["organizations", "erase", ORGANIZATION, "--yes"],
    &[
        "organizations",
        "link-customer",
        "--stripe-customer",
        "cus_1",
        ORGANIZATION,
    ],
    &[
        "organizations",
        "unlink-customer",
        "--stripe-customer",
        "cus_1",
        ORGANIZATION,
    ],
    &[
        "api-keys",
        "create",
        "--organization",
        ORGANIZATION,
        "--scope",
        "billing.read",
    ],
    &[
        "api-keys",
        "revoke",
        "--organization",
        ORGANIZATION,
        ORGANIZATION,
    ],
    &[
        "users",
        "set-password",
        "--email",
        "a@b.example",
        "--generate-password",
    ],
    &["users", "disable", "--email", "a@b.example"],
    &["usage", "rejected"],
    &["retention", "run"],
    &[
        "events",
        "endpoints",
        "create",
        "--url",
        "https://app.example.com/",
    ],
    &["events", "endpoints", "list"],
    &["events", "endpoints", "rotate", ORGANIZATION],
    &["events", "endpoints", "disable", ORGANIZATION],
    &["events", "endpoints", "enable", ORGANIZATION],
    &["events", "endpoints", "remove", ORGANIZATION],
    &["events", "endpoints", "test", ORGANIZATION],
    &["events", "deliveries", "list"],
    &["events", "deliveries", "resend", ORGANIZATION],
    &[
        "events",
        "deliveries",
        "recover",
        "--endpoint",
        ORGANIZATION,
        "--since",
        "2026-01-01T00:00:00Z",
    ],
    &["mails", "list"],
    &["mails", "retry", ORGANIZATION],
    &["events", "listen", "--forward-to", "http://localhost:3000/"],
];

const ORGANIZATION: &str = "5a3b1e00-0000-7000-8000-000000000001";

/// Each command without commands of its own, such as `users list`.
fn leaves(command: &clap::Command, path: &str) -> Vec<String> {
    let below = command.get_subcommands();
    let below = below.filter(|one| one.get_name() != "help");
    let leaves = below.flat_map(|one| {
        let path = format!("{path} {}", one.get_name());
        match one.has_subcommands() {
            true => leaves(one, &path),
            false => vec![path.trim().to_owned()],
        }
    });
    leaves.collect()
}

#[test]
fn every_command_is_here() {
    let all = leaves(&Arguments::command(), "");
    assert!(all.len() > 40, "{all:?}");
    let is_tried = |leaf: &str| {
        let mut tried = COMMANDS.iter();
        tried.any(|arguments| format!("{} ", arguments.join(" ")).starts_with(&format!("{leaf} ")))
    };
    for leaf in &all {
        assert!(
            is_tried(leaf) != WITHOUT.contains(&leaf.as_str()),
            "{leaf}: in one of the two lists"
        );
    }
    for known in WITHOUT {
        assert!(all.iter().any(|leaf| leaf == known), "{known}");
    }
}

fn in_folder(arguments: &[&str], folder: &Path) -> Command {
    let mut command = program(arguments);
    command
        .current_dir(folder)
        .env("STRIPE_SECRET_KEY", "sk_test_x")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_x")
        .env("STRIPE_API_BASE", "http://127.0.0.1:1");
    command
}

fn names(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[test]
fn without_a_database_every_command_says_so_and_starts_none() {
    let scratch = tempfile::tempdir().unwrap();
    for arguments in COMMANDS {
        for empty in [None, Some("")] {
            let mut command = in_folder(arguments, scratch.path());
            command.envs(empty.map(|value| ("DATABASE_URL", value)));
            let ran = run(&mut command);
            assert_eq!(ran.status, 2, "{arguments:?}: {}", ran.stderr);
            let expected = "error: DATABASE_URL: is not set, and no embedded database runs";
            assert!(
                ran.stderr.contains(expected),
                "{arguments:?}: {}",
                ran.stderr
            );
            assert_eq!(ran.stdout, "", "{arguments:?}");
        }
    }
    assert_eq!(names(scratch.path()), 0, "nothing is made");
}

#[test]
fn a_cluster_that_was_left_behind_is_not_taken_for_the_database() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    open_to_all(folder);
    let told = run(&mut in_folder(&["migrate", "up", "--embedded"], folder));
    assert_eq!(told.status, 0, "{}", told.stderr);
    assert!(folder.join(".data").exists());
    for arguments in [
        &["backup", "x.dump"][..],
        &["migrate", "status"],
        &["users", "list"],
    ] {
        let ran = run(&mut in_folder(arguments, folder));
        assert_eq!(ran.status, 2, "{arguments:?}: {}", ran.stderr);
    }
    assert!(!folder.join("x.dump").exists());
    let both = run(in_folder(&["users", "list", "--embedded"], folder)
        .env("DATABASE_URL", "postgresql://a@b/c"));
    assert_eq!(both.status, 2, "{}", both.stderr);
    assert!(
        both.stderr.starts_with("error: --embedded: "),
        "{}",
        both.stderr
    );
}

/// Root's cluster runs as another user, who has to get there.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).unwrap();
}

fn beside(demo: &Demo, arguments: &[&str]) -> Ran {
    run(program(arguments).env("DATA_DIR", demo.data_dir()))
}

#[tokio::test]
async fn beside_a_demo_commands_find_its_database_its_service_and_its_keys() {
    let demo = Demo::start();
    let address = demo.printed("API  ").to_owned();
    for arguments in [
        &["status"][..],
        &["audit", "verify"],
        &["webhooks", "dead-letters"],
        &["webhooks", "list"],
        &["organizations", "list"],
        &["doctor"],
    ] {
        let ran = beside(&demo, arguments);
        assert_eq!(ran.status, 0, "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
    let doctor = beside(&demo, &["doctor"]);
    assert!(
        doctor.stdout.contains(&format!("{address} is ready")),
        "{}",
        doctor.stdout
    );
    for found in [
        "ok      stripe key:",
        "ok      webhook endpoint:",
        "ok      catalogue:",
    ] {
        assert!(doctor.stdout.contains(found), "{found}: {}", doctor.stdout);
    }
    let data_dir = demo.data_dir();
    assert!(
        EmbeddedPostgres::running(EMBEDDED, &data_dir)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_second_demo_tells_its_organizations_from_those_of_the_first() {
    let mut demo = Demo::start();
    let data = demo.data_dir();
    kill_process(Pid::from_child(demo.child()), Signal::TERM).unwrap();
    demo.child().wait().unwrap();
    assert!(!data.join("demo.json").exists());
    let again = Demo::start_in(&data);
    let listed = beside(&again, &["organizations", "list", "--json"]).json();
    let mut names: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|organization| organization["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names.len(), 8, "{names:?}");
    names.dedup();
    assert_eq!(names.len(), 8, "{names:?}");
    let earlier = names
        .iter()
        .filter(|name| name.ends_with("(an earlier demo's)"));
    assert_eq!(earlier.count(), 4);
}
