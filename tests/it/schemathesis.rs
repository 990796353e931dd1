//! schemathesis, a tester that we did not write, has every operation of the
//! description called with what it allows and with what it does not, and checks
//! each answer against it.

use std::path::Path;

use tokio::process::Command;
use uuid::Uuid;
use valuecanvas_billing::config::{Rates, SurfaceConfig};
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use crate::subscriptions::promotion_codes;
use crate::subscriptions::world::Stripe;
use crate::support::TestService;
use crate::support::events::{event, invoice, subscription};
use crate::support::service::Options;

/// How many requests it makes up for each operation, beside those it derives
/// from the description; `VCB_PROBES` raises it.
fn examples() -> usize {
    let asked = std::env::var("VCB_PROBES").ok();
    asked.map_or(10, |probes| {
        probes.parse::<usize>().expect("a number") / 500
    })
}

struct Subject {
    service: TestService,
    organization: Uuid,
    _stripe: Stripe,
}

impl Subject {
    async fn start() -> Self {
        let stripe = Stripe::start().await;
        let surface = SurfaceConfig {
            rates: Rates {
                api_per_minute: 0,
                usage_per_minute: 0,
            },
            ..SurfaceConfig::default()
        };
        let service = TestService::with(Options {
            surface,
            max_retries: 0,
            stripe_api: Some(stripe.api()),
            ..Options::default()
        })
        .await;
        let customer = stripe.customer("pm_card_visa", None).await;
        let coupon = [("percent_off", "25"), ("duration", "forever")];
        let coupon = promotion_codes::coupon(&stripe, &coupon).await;
        promotion_codes::code(&stripe, "SPRING25", &coupon, &[]).await;
        let organization = service.db.organization(&customer).await;
        // The examples of the description are of these.
        let mut bill = invoice("in_1", &customer, "sub_1", "open");
        bill["invoice_pdf"] = format!("{}/healthz", service.base).into();
        let bill = event("evt_2", "invoice.finalized", 1_760_000_000, bill);
        let nobodys = subscription("sub_2", "cus_nobody", "active", "standard");
        let letter = "customer.subscription.created";
        let letter = event("evt_1", letter, 1_760_000_000, nobodys);
        for event in [bill, letter] {
            service.deliver(&event).await;
        }
        service.settle().await;
        Self {
            service,
            organization,
            _stripe: stripe,
        }
    }

    /// Runs it with this credential on the operations that `arguments` choose.
    async fn survives(&self, credential: &str, arguments: &[&str]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = root.join("target/foreign-python/bin/schemathesis");
        assert!(
            program.exists(),
            "schemathesis is missing: run scripts/setup-foreign"
        );
        // It keeps notes where it runs.
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new(program)
            .current_dir(folder.path())
            .env("NO_PROXY", "*")
            .arg("--no-color")
            .arg("--config-file")
            .arg(root.join("tests/foreign/schemathesis.toml"))
            .arg("run")
            .arg(format!("{}/openapi.json", self.service.base))
            .args(["--checks", "all", "--suppress-health-check", "all"])
            .args(["--seed", "1", "--continue-on-failure"])
            .args(["--max-examples", &examples().to_string()])
            .args(["--header", &format!("Authorization: Bearer {credential}")])
            .args(arguments)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("Tested: 0"), "{said}");
    }
}

const OPERATORS: &str = "^/api/operator/";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_nothing_as_a_tenant() {
    let subject = Subject::start().await;
    let organization = subject.organization;
    // A key, which no logout ends.
    let key = subject.service.api_key(organization, &Permission::ALL);
    let others = ["--exclude-path-regex", "^/api/(operator/|organizations)"];
    subject.survives(&key.await, &others).await;
    // It came through to Stripe.
    assert!(subject.service.db.count("billing_stripe_requests").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_nothing_as_the_product() {
    let subject = Subject::start().await;
    let key = subject.service.service_key(&Permission::OF_SERVICE).await;
    // DELETE archives, and what is archived is still read.
    let organizations = [
        "--include-path-regex",
        "^/api/organizations",
        "--exclude-checks",
        "use_after_free",
    ];
    subject.survives(&key, &organizations).await;
    let made = "organizations WHERE external_id IS NOT NULL";
    assert!(subject.service.db.count(made).await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_nothing_as_an_operator() {
    let subject = Subject::start().await;
    let token = subject.service.token(Uuid::nil(), Role::Operator).await;
    let ours = ["--include-path-regex", OPERATORS];
    subject.survives(&token, &ours).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_nothing_when_it_logs_out() {
    let subject = Subject::start().await;
    let token = subject.service.token(subject.organization, Role::Owner);
    let path = ["--include-path", "/api/auth/logout"];
    subject.survives(&token.await, &path).await;
}
