//! `demo`: the service on the embedded database, with organizations and a
//! gentle stream of signed sample events through the real endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::samples::{self, Sample, SampleEvent};
use super::serve::{self, StopSignals};
use super::{Failure, output};
use crate::app::{self, Database};
use crate::config::{DatabaseConfig, DatabaseLocation, GlobalArgs, ServeArgs, StripeConfig};
use crate::db::{self, WorkerTx};
use crate::organizations::{self, NewOrganization, Organization};
use crate::plans::{Catalogue, FREE_TIER};
use crate::stripe::signature::{self, SigningSecret};

const ORGANIZATIONS: [(&str, &str); 3] = [
    ("Northwind Analytics", "cus_demonorthwind"),
    ("Blue Harbor Labs", "cus_demoblueharbor"),
    ("Quiet Pine Studio", "cus_demoquietpine"),
];

const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    serve: ServeArgs,
    /// How many retries before an event is dead-lettered.
    #[arg(long, env = "WEBHOOK_MAX_RETRIES", default_value_t = 20)]
    webhook_max_retries: u32,
}

impl Demo {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let serve_config = self.serve.check()?;
        // A demo never touches the database or the Stripe account of the
        // environment it happens to be started in.
        let stripe = StripeConfig {
            max_retries: self.webhook_max_retries,
            ..StripeConfig::default()
        };
        let config = DatabaseConfig {
            location: DatabaseLocation::Embedded,
            migration: None,
            allow_privileged_role: false,
            data_dir: global.data_dir.clone(),
        };
        let catalogue = Catalogue::load(None)?;
        let signals = StopSignals::listen()?;
        let database = Database::open(&config).await?;
        let started = app::start(&database, &serve_config, &stripe, &config.data_dir).await;
        let service = match started {
            Ok(service) => service,
            Err(error) => {
                database.close().await;
                return Err(error.into());
            }
        };
        let pool = db::pool(database.service.clone(), 1);
        let organizations = sample_organizations(&pool, &catalogue).await?;
        pool.close().await;
        announce(service.address, &database)?;

        let stop = CancellationToken::new();
        let secret = app::webhook_secrets(&stripe, &config.data_dir)?.remove(0);
        let traffic = tokio::spawn(traffic(
            service.address,
            secret,
            organizations,
            stop.clone(),
        ));
        serve::until_stopped(service, database, signals, stop.clone()).await;
        let _ = traffic.await;
        Ok(())
    }
}

/// The demo's organizations, made once.
async fn sample_organizations(
    pool: &PgPool,
    catalogue: &Catalogue,
) -> Result<Vec<Organization>, Failure> {
    let mut tx = WorkerTx::begin(pool).await?;
    let known = organizations::list(tx.conn()).await?;
    tx.commit().await?;
    let mut samples = Vec::new();
    for (name, customer) in ORGANIZATIONS {
        let existing = known
            .iter()
            .find(|organization| organization.stripe_customer_id.as_deref() == Some(customer));
        samples.push(match existing {
            Some(organization) => organization.clone(),
            None => {
                let new = NewOrganization {
                    name: name.to_owned(),
                    plan_tier: FREE_TIER.to_owned(),
                    stripe_customer_id: Some(customer.to_owned()),
                };
                organizations::create(pool, catalogue, new).await?
            }
        });
    }
    Ok(samples)
}

fn announce(address: SocketAddr, database: &Database) -> Result<(), Failure> {
    let url = database
        .embedded
        .as_ref()
        .map(|embedded| embedded.admin_url())
        .unwrap_or_default();
    output::print(&format!(
        "\n  ValueCanvas Billing demo\n\n  \
         API        http://{address}\n  \
         Webhooks   http://{address}/api/billing/webhooks/stripe\n  \
         Health     http://{address}/readyz\n  \
         Metrics    http://{address}/metrics\n  \
         Database   {url}\n\n  \
         Signed sample events arrive twice a second. In another terminal:\n\n    \
         eval \"$(valuecanvas-billing status --output env)\"\n    \
         psql $DATABASE_URL -c \"SELECT action, created_at FROM billing_audit_log ORDER BY created_at DESC LIMIT 10;\"\n    \
         valuecanvas-billing webhooks list\n    \
         valuecanvas-billing webhooks dead-letters\n    \
         valuecanvas-billing audit verify\n\n  \
         ^C stops it.\n"
    ))
}

/// Tells the same story for each organization, again and again, until `stop`.
async fn traffic(
    address: SocketAddr,
    secret: SigningSecret,
    organizations: Vec<Organization>,
    stop: CancellationToken,
) {
    let send = async |event: SampleEvent| {
        let header = signature::sign(&secret, event.body.as_bytes(), Timestamp::now().as_second());
        match samples::post(address, &event.body, &header).await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => tracing::warn!(status = answer.status, "a sample event was refused"),
            Err(error) => tracing::warn!(%error, "a sample event could not be sent"),
        }
    };
    let telling = async {
        // One event that no handler can apply, for the dead letters.
        if let Some(organization) = organizations.first() {
            send(unreadable(organization)).await;
        }
        loop {
            for organization in &organizations {
                let sample =
                    Sample::new(organization.id, organization.stripe_customer_id.as_deref());
                for event in story(sample) {
                    send(event).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = stop.cancelled() => {}
    }
}

/// An invoice with half a cent.
fn unreadable(organization: &Organization) -> SampleEvent {
    let sample = Sample::new(organization.id, organization.stripe_customer_id.as_deref());
    let event = sample.event("invoice.updated", Timestamp::now(), false);
    SampleEvent {
        body: event
            .body
            .replace("\"amount_due\":9900", "\"amount_due\":9900.5"),
        ..event
    }
}

/// A customer's life: a first payment, a renewal that fails and is made good,
/// an upgrade, and the end. Made as it is told, so that each event has its time.
fn story(mut sample: Sample) -> impl Iterator<Item = SampleEvent> {
    type Change = fn(&mut Sample);
    const KEEP: Change = |_| {};
    const STORY: [(&str, Change); 22] = [
        ("payment_method.attached", KEEP),
        ("customer.subscription.created", |s| s.status = "incomplete"),
        ("invoice.created", KEEP),
        ("invoice.finalized", KEEP),
        ("charge.succeeded", KEEP),
        ("invoice.payment_succeeded", KEEP),
        ("customer.subscription.updated", |s| s.status = "active"),
        ("invoice.created", |s| s.invoice = 2),
        ("invoice.finalized", KEEP),
        ("charge.failed", KEEP),
        ("invoice.payment_failed", KEEP),
        ("customer.subscription.updated", |s| s.status = "past_due"),
        ("charge.succeeded", |s| s.attempts = 2),
        ("invoice.payment_succeeded", KEEP),
        ("customer.subscription.updated", |s| s.status = "active"),
        ("invoice.updated", |s| s.invoice_status = "paid"),
        ("customer.subscription.updated", |s| s.tier = "enterprise"),
        ("invoice.created", |s| (s.invoice, s.attempts) = (3, 1)),
        ("charge.succeeded", KEEP),
        ("invoice.payment_succeeded", KEEP),
        ("customer.subscription.deleted", KEEP),
        ("payment_method.detached", KEEP),
    ];
    STORY.into_iter().map(move |(event_type, change)| {
        change(&mut sample);
        sample.event(event_type, Timestamp::now(), false)
    })
}
