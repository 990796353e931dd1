//! docs/deployment.md and README.md, as an operator follows them: their own
//! lines, in order, in one shell, beside a running service.

use std::path::Path;

use uuid::Uuid;
use valuecanvas_billing::projection::HANDLED_TYPES;

use crate::cli::demo::Demo;
use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::ports::reserved;
use crate::support::shell::{Shell, program_folder};

const GUIDE: &str = include_str!("../../../docs/deployment.md");
const README: &str = include_str!("../../../README.md");
const WEBHOOKS: &str = include_str!("../../../docs/webhooks.md");

/// The lines of the fenced blocks of one kind, after a heading.
fn lines(document: &str, fence: &str) -> Vec<String> {
    let mut found = Vec::new();
    for block in document.split(&format!("```{fence}\n")).skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let joined = block.replace("\\\n", " ");
        let lines = joined.lines().map(str::trim);
        found.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
    }
    found
}

/// Where the walk takes place: what stands for the capitals of a document.
struct Place {
    db: TestDatabase,
    stripe: Stripe,
    address: String,
    login: String,
}

impl Place {
    async fn new() -> Self {
        let address = reserved().to_string();
        let place = Self {
            db: TestDatabase::empty().await,
            stripe: Stripe::start().await,
            address,
            login: format!("guide_{}", Uuid::now_v7().simple()),
        };
        let url = format!("http://{}/api/billing/webhooks/stripe", place.address);
        let mut fields = HANDLED_TYPES
            .map(|handled| ("enabled_events[]", handled))
            .to_vec();
        fields.push(("url", &url));
        place.stripe.post("/v1/webhook_endpoints", &fields).await;
        place
    }

    fn restored(&self) -> String {
        format!("{}_restored", self.db.name)
    }

    /// A line with the place's names in it.
    fn meant(&self, line: &str) -> String {
        let (owner, service) = (self.db.url("postgres"), self.db.url(&self.login));
        let restored = |url: &str| url.replace(&self.db.name, &self.restored());
        line.replace(
            "postgresql://OWNER:PASSWORD@HOST:5432/billing_restored",
            &restored(&owner),
        )
        .replace(
            "postgresql://billing_service:PASSWORD@HOST:5432/billing_restored",
            &restored(&service),
        )
        .replace("postgresql://OWNER:PASSWORD@HOST:5432/billing", &owner)
        .replace(
            "postgresql://billing_service:PASSWORD@HOST:5432/billing",
            &service,
        )
        .replace("billing_restored", &self.restored())
        .replace("billing_service", &self.login)
        .replace("https://HOST", &format!("http://{}", self.address))
    }

    fn shell(&self, folder: &Path) -> Shell {
        let mut shell = Shell::start(folder);
        shell.done(&format!("export LISTEN_ADDR={}", self.address));
        shell.done(&format!(
            "export STRIPE_API_BASE={}",
            self.stripe.sandbox.url()
        ));
        shell
    }

    /// The login and the databases are the cluster's, which tests share.
    async fn leave(self) {
        let restored = self.restored();
        self.db
            .execute(&format!("DROP DATABASE IF EXISTS {restored} WITH (FORCE)"))
            .await;
        self.db
            .execute(&format!(
                "REVOKE billing_app, billing_worker FROM {login}; DROP ROLE {login}",
                login = self.login
            ))
            .await;
    }
}

/// What a machine or a cluster is set up with, which is not the test's to do.
fn of_the_machine(line: &str) -> bool {
    ["kubectl ", "useradd ", "install ", "k6 "]
        .iter()
        .any(|tool| line.starts_with(tool))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deployment_guide_holds_in_order_in_one_shell() {
    let place = Place::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut shell = place.shell(folder.path());
    let mut seen = Vec::new();
    for line in lines(GUIDE, "bash") {
        if of_the_machine(&line) {
            continue;
        }
        if line.starts_with("systemctl ") {
            shell.serve();
            continue;
        }
        if line.contains("migrate rollback") {
            shell.stop_serving();
        }
        let said = shell.run(&place.meant(&line));
        if line.ends_with("backup billing-before.dump") {
            // There is nothing in it, and the guide says what happens then.
            assert_eq!(said.status, 1, "{}", said.text);
            assert!(said.text.contains("nothing to back up"), "{}", said.text);
            continue;
        }
        assert_eq!(said.status, 0, "{line}: {}", said.text);
        assert!(!said.text.contains("FAILED"), "{line}: {}", said.text);
        seen.push((line, said.text));
    }
    let said = |part: &str| {
        let mut found = seen.iter().filter(|(line, _)| line.contains(part));
        found
            .next_back()
            .map(|(_, text)| text.as_str())
            .unwrap_or_else(|| panic!("{part} is not in the guide"))
    };
    assert!(said("subscription/preview").contains("\"proratedAmount\": 99"));
    let headers = said("api/agents/execute").to_ascii_lowercase();
    for header in ["x-quota-warning: true", "x-grace-period-expires: "] {
        assert!(headers.contains(header), "{headers}");
    }
    assert!(said("grace-periods list").contains("agent_executions"));
    assert!(said("audit verify").contains("all intact"));
    assert!(said("migrate rollback").contains("table billing_audit_log: "));
    assert!(said("restore billing.dump").contains("as many as in the backup"));
    assert!(seen.len() > 35, "{}", seen.len());

    // After the rollback, the log that is left proves nothing.
    let emptied = shell.run("valuecanvas-billing audit verify");
    assert_eq!(emptied.status, 1, "{}", emptied.text);
    assert!(emptied.text.contains("proves nothing"), "{}", emptied.text);
    drop(shell);
    place.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_way_to_an_own_account_holds() {
    let place = Place::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut shell = place.shell(folder.path());
    let (_, section) = README
        .split_once("## With your own Stripe account")
        .unwrap();
    let lines = lines(section, "sh");
    assert!(lines.len() >= 9, "{lines:?}");
    let (last, lines) = lines.split_last().unwrap();
    let customer = place.stripe.post("/v1/customers", &[]).await;
    let customer = customer["id"].as_str().unwrap();
    for line in lines {
        shell.done(&place.meant(line).replace("cus_CUSTOMER", customer));
    }
    let doctor = last.strip_suffix(" && valuecanvas-billing serve").unwrap();
    shell.done(doctor);
    shell.serve();
    let running = shell.done("valuecanvas-billing doctor");
    assert!(running.contains("is ready"), "{running}");
    shell.stop_serving();
    drop(shell);
    place.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readmes_first_steps_hold_beside_a_demo() {
    let demo = Demo::start();
    let address = demo.printed("API  ").to_owned();
    let mut shell = Shell::start(Path::new(env!("CARGO_MANIFEST_DIR")));
    shell.done(&format!("export DATA_DIR='{}'", demo.data_dir().display()));
    let mut seen = 0;
    let console: Vec<String> = lines(README, "console");
    let mut expected = console.iter().peekable();
    while let Some(line) = expected.next() {
        let Some(command) = line.strip_prefix("$ ") else {
            continue;
        };
        let command = command
            .replace("http://127.0.0.1:8080", &address)
            .replace("$PWD/target/debug", &program_folder().display().to_string());
        let mut said = shell.done(&command);
        if command.contains("dead-letters") {
            for _ in 0..100 {
                if said.contains("9900.5, not an integer") {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
                said = shell.done(&command);
            }
            assert!(said.contains("9900.5, not an integer"), "{said}");
        }
        if command.contains("preview") {
            assert_eq!(said.trim(), expected.next().unwrap(), "{said}");
        }
        if command.contains("audit verify") {
            assert!(said.contains("all intact"), "{said}");
        }
        if command.contains("psql") {
            // psql pads its columns to what stands in them.
            let header = said.lines().next().unwrap_or_default();
            let columns: Vec<&str> = header.split('|').map(str::trim).collect();
            assert_eq!(columns, ["action", "actor_type", "resource_type"], "{said}");
        }
        if command.ends_with("doctor") {
            assert!(said.contains(&format!("ok      service: {address} is ready")));
            assert!(said.contains("ok      stripe key: account"), "{said}");
            assert!(!said.contains("skipped stripe"), "{said}");
        }
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_fails_and_is_mended_as_the_page_on_webhooks_says() {
    let demo = Demo::start();
    let address = demo.printed("API  ").replace("http://", "");
    let mut shell = Shell::start(Path::new(env!("CARGO_MANIFEST_DIR")));
    shell.done(&format!("export LISTEN_ADDR={address}"));
    shell.done(&format!("export DATA_DIR='{}'", demo.data_dir().display()));
    let (_, section) = WEBHOOKS.split_once("## Try it").unwrap();
    let mut event = String::new();
    let mut seen = 0;
    for line in lines(section, "sh") {
        let said = shell.done(&line);
        if line.contains("trigger invoice.payment_succeeded") {
            event = said.trim().to_owned();
            assert!(event.starts_with("evt_sample"), "{said}");
        }
        if line.ends_with("list --unprocessed") {
            let why = |said: &str| {
                let mut rows = said.lines().filter(|row| row.contains(&event));
                rows.any(|row| row.contains("billing_invoice_items"))
            };
            eventually(&mut shell, &line, why);
        }
        seen += 1;
    }
    assert_eq!(seen, 7);
    eventually(
        &mut shell,
        &format!("valuecanvas-billing webhooks show {event}"),
        |said| said.contains("state        processed"),
    );
}

/// Runs a command until it says what is waited for.
fn eventually(shell: &mut Shell, command: &str, holds: impl Fn(&str) -> bool) {
    for _ in 0..100 {
        if holds(&shell.done(command)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("{command}: {}", shell.done(command));
}
