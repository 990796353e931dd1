//! The example products, as docs/integration.md starts them, beside the program and the
//! stand-in for Stripe.

mod browser;
mod guide;
mod mirror;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stripe_sandbox::Config;
use tempfile::TempDir;
use valuecanvas_billing::projection::HANDLED_TYPES;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::sdk::package::built;
use crate::subscriptions::world::{Stripe, text};
use crate::support::TestDatabase;
use crate::support::ports::reserved;
use crate::support::program::{program_with_stripe, run_beside};
use crate::support::service::{WEBHOOKS, service_key};
use crate::support::serving::{Serving, serve_on};
use crate::support::shell::program_folder;

const STRIPE_KEY: &str = "sk_test_secret";
const EVENTS_SECRET: &str = "whsec_bGV0IG5vYm9keSBlbHNlIHNpZ24gZXZlbnRzIQ==";
/// Where deliveries fail, and are sent again.
const HELD_BACK: &str = "http://127.0.0.1:1/held-back";

/// Which product.
#[derive(Debug, Clone, Copy)]
pub enum Language {
    Node,
    Rust,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

impl Language {
    /// The product, and the folder that it runs in.
    async fn command(self) -> (Command, Option<TempDir>) {
        match self {
            Self::Node => {
                let place = with_package().await;
                let mut command = Command::new("node");
                command.arg("server.js").current_dir(place.path());
                (command, Some(place))
            }
            // Built with the tests, as all examples are.
            Self::Rust => (Command::new(program_folder().join("examples/digest")), None),
        }
    }
}

/// The product in Node with the package as it is built now, where `npm ci` puts it.
async fn with_package() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder("node")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), place.path().join(file.file_name())).unwrap();
        }
    }
    let scope = place.path().join("node_modules/@valuecanvas");
    fs::create_dir_all(&scope).unwrap();
    std::os::unix::fs::symlink(built().await, scope.join("billing")).unwrap();
    place
}

/// A running product, killed with the test.
struct Running {
    child: Child,
    _place: Option<TempDir>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A product, the program that bills it, and Stripe, which holds its webhooks back.
pub struct Shop {
    pub db: TestDatabase,
    pub stripe: Stripe,
    pub billing: Serving,
    pub key: String,
    pub address: String,
    endpoint: String,
    _product: Running,
}

impl Shop {
    pub async fn open(language: Language) -> Self {
        let (db, stripe) = (TestDatabase::new().await, stripe().await);
        let mut fields = vec![("url", HELD_BACK)];
        fields.extend(HANDLED_TYPES.map(|handled| ("enabled_events[]", handled)));
        let endpoint = stripe.post("/v1/webhook_endpoints", &fields).await;
        let plans = folder("plans.toml");
        let mut sync = program_with_stripe(&db, &stripe.sandbox.url(), &["plans", "sync"]);
        sync.env("PLANS_FILE", &plans);
        let synced = run_beside(sync).await;
        assert_eq!(synced.status, 0, "{}", synced.stderr);

        let address = format!("http://{}", reserved());
        let mut serve = serve_on(&db);
        serve
            .env("PLANS_FILE", &plans)
            .env("STRIPE_SECRET_KEY", STRIPE_KEY)
            .env("STRIPE_WEBHOOK_SECRET", text(&endpoint, "secret"))
            .env("STRIPE_API_BASE", stripe.sandbox.url())
            .env("APPLICATION_URL", &address)
            .env(
                "APPLICATION_WEBHOOK_URL",
                format!("{address}/billing-events"),
            )
            .env("APPLICATION_WEBHOOK_SECRET", EVENTS_SECRET);
        let billing = Serving::start(&mut serve);
        let key = service_key(&db, &Permission::OF_SERVICE).await;
        let product = start(language, &address, &billing.base, &key).await;
        Self {
            db,
            stripe,
            billing,
            key,
            address,
            endpoint: text(&endpoint, "id"),
            _product: product,
        }
    }

    /// The daily job, as a command.
    pub fn reconcile(&self) -> Command {
        let arguments = ["subscriptions", "reconcile", "--apply"];
        let mut command = program_with_stripe(&self.db, &self.stripe.sandbox.url(), &arguments);
        command.env("PLANS_FILE", folder("plans.toml"));
        command
    }

    /// Lets all webhooks arrive that were held back, and be processed.
    pub async fn let_webhooks_go(&self) {
        let path = format!("/v1/webhook_endpoints/{}", self.endpoint);
        let url = format!("{}{WEBHOOKS}", self.billing.base);
        self.stripe.post(&path, &[("url", &url)]).await;
        self.stripe.sandbox.deliveries_settled().await;
        for _ in 0..600 {
            let open = self.db.count("webhook_events WHERE NOT processed").await;
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("events stay unprocessed: {}", self.billing.log());
    }
}

async fn stripe() -> Stripe {
    Stripe::with(Config {
        webhook_retry_delays: vec![Duration::from_secs(1); 600],
        ..Config::default()
    })
    .await
}

async fn start(language: Language, address: &str, billing: &str, key: &str) -> Running {
    let (_, port) = address.rsplit_once(':').unwrap();
    let (mut command, place) = language.command().await;
    let mut child = command
        .env("BILLING_URL", billing)
        .env("BILLING_KEY", key)
        .env("BILLING_EVENTS_SECRET", EVENTS_SECRET)
        .env("PORT", port)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{language:?}: {error}"));
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut said).unwrap();
    assert!(said.contains(address), "{language:?} said {said:?}");
    Running {
        child,
        _place: place,
    }
}

/// The environment of a command, for whoever runs it instead of us.
fn environment(command: &Command) -> Value {
    let pairs = command.get_envs();
    pairs
        .filter_map(|(name, value)| {
            Some((name.to_str()?.to_owned(), Value::from(value?.to_str()?)))
        })
        .collect()
}
