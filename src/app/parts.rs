//! The periodic parts of the service: name, period and what to run.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::background::{Background, Next};
use super::mail;
use super::outbox::{self, Publishing, Reads};
use crate::catalogue::Catalogue;
use crate::config::ServeConfig;
use crate::db;
use crate::features;
use crate::mail::Mailer;
use crate::maintenance::retention;
use crate::metering::denials::{self, Denials};
use crate::metering::ledger::{self, Ledger};
use crate::metering::{grace, quotas};
use crate::migrations::Gate;
use crate::outbox::{publisher, sender};
use crate::reporting::journal;
use crate::subscriptions::{self, CHECK_EVERY, SETTLE_EVERY, Subscriptions, VanishedPlans};
use crate::tenancy::auth::issued::{self, Issuer};
use crate::webhooks::bulk;

/// Time between attempts to bring all quotas in line with the catalogue.
const CATALOGUE: Duration = Duration::from_secs(5);
const GRACE_PERIODS: Duration = Duration::from_secs(30);
const PAST_DUE: Duration = Duration::from_secs(10);
const OVERRIDES: Duration = Duration::from_secs(30);
const RESERVATIONS: Duration = Duration::from_secs(15);
const LEVELS: Duration = Duration::from_secs(15);
/// Time between moves of recorded values into the histograms' buckets, which would
/// otherwise wait for the next scrape.
///
/// This timer is nearly always the next to fire: setting the deadline of a delivery,
/// which is later, does not wake the runtime.
const UPKEEP: Duration = Duration::from_millis(500);

/// Time between looks whether connections are scarce.
const SCARCITY: Duration = Duration::from_millis(500);

/// What the periodic parts need.
pub struct Parts {
    pub pool: PgPool,
    /// The pools that give up what they do not use while connections are scarce.
    pub yielding: Vec<PgPool>,
    pub catalogue: Arc<Catalogue>,
    /// Whether Stripe charges.
    pub in_stripe: bool,
    pub ledger: Ledger,
    /// Refused uses that wait to be stored.
    pub denials: Denials,
    pub subscriptions: Subscriptions,
    /// For what operators do with all events that match.
    pub bulk: bulk::Running,
    /// For events out.
    pub reads: Arc<Reads>,
    /// For mails to customers, if they are sent.
    pub mailer: Option<Mailer>,
    pub recorder: PrometheusHandle,
    /// Whose tokens are accepted beside our own.
    pub issuer: Option<Issuer>,
    /// What writes waits for the migrations that this program needs.
    pub schema: Arc<Gate>,
    pub stop: CancellationToken,
}

impl Parts {
    /// Registers the upkeep of metrics and, unless other replicas process, all other
    /// parts.
    pub fn register(self, serve: &ServeConfig, background: &mut Background) {
        let recorder = self.recorder.clone();
        background.every("metrics timer", UPKEEP, move || {
            recorder.run_upkeep();
            give_memory_back();
            std::future::ready(Ok::<_, Infallible>(Next::AfterPeriod))
        });
        let pools = self.yielding.clone();
        background.every("scarce connections", SCARCITY, move || {
            let pools = pools.clone();
            async move {
                db::give_back_idle(&pools).await;
                Ok::<_, Infallible>(Next::AfterPeriod)
            }
        });
        if let Some(issuer) = self.issuer.clone() {
            background.every("signing keys", issued::POLL, move || {
                let issuer = issuer.clone();
                async move { issuer.keep_keys().await.map(|()| Next::AfterPeriod) }
            });
        }
        self.register_plan_versions(background);
        let (pool, waiting) = (self.pool.clone(), self.denials.clone());
        self.writing(background, "refused uses", denials::PERIOD, move || {
            let (pool, waiting) = (pool.clone(), waiting.clone());
            async move {
                let stored = waiting.store(&pool).await;
                stored.map(|()| Next::AfterPeriod)
            }
        });
        if serve.worker_concurrency == 0 {
            return;
        }
        self.register_metering(background);
        let pool = self.pool.clone();
        self.writing(background, "revenue journal", journal::PERIOD, move || {
            book_revenue(pool.clone())
        });
        self.register_outbox(serve, background);
        self.register_mails(background);
        let (pool, catalogue) = (self.pool.clone(), self.catalogue.clone());
        self.writing(background, "past due access", PAST_DUE, move || {
            sweep_past_due(pool.clone(), catalogue.clone())
        });
        self.register_bulk_actions(background);
        let (pool, stop) = (self.pool.clone(), self.stop.clone());
        let kept = serve.retention;
        self.writing(background, "retention", retention::POLL, move || {
            let (pool, stop) = (pool.clone(), stop.clone());
            async move {
                let ran = retention::run_if_due(&pool, &kept, &stop).await;
                ran.map(|()| Next::AfterPeriod)
            }
        });
        let Self {
            subscriptions,
            schema,
            stop,
            ..
        } = self;
        let (checked, checking) = (subscriptions.clone(), stop.clone());
        background.looping("findings check", CHECK_EVERY, |runs| {
            checked.keep_checked(runs, checking)
        });
        let settling = stop.clone();
        background.looping("subscription settler", SETTLE_EVERY, |runs| {
            subscriptions.keep_settled(runs, schema, settling)
        });
    }

    fn register_plan_versions(&self, background: &mut Background) {
        let (pool, catalogue) = (self.pool.clone(), self.catalogue.clone());
        let in_stripe = self.in_stripe;
        self.writing(background, "plan versions", CATALOGUE, move || {
            let (pool, catalogue) = (pool.clone(), catalogue.clone());
            async move {
                // At the start the schema may have been too old to tell.
                subscriptions::check_vanished(&pool, &catalogue).await?;
                catalogue.record_versions(&pool, in_stripe).await?;
                Ok::<_, VanishedPlans>(Next::Never)
            }
        });
    }

    /// A periodic part that writes: it does nothing while the schema lacks migrations.
    fn writing<R, E>(
        &self,
        background: &mut Background,
        name: &'static str,
        period: Duration,
        mut run: impl FnMut() -> R + Send + 'static,
    ) where
        R: Future<Output = Result<Next, E>> + Send + 'static,
        E: Display + From<sqlx::Error> + Send + 'static,
    {
        let (schema, pool) = (self.schema.clone(), self.pool.clone());
        background.every(name, period, move || {
            let (schema, pool, running) = (schema.clone(), pool.clone(), run());
            async move {
                schema.check(&pool).await?;
                running.await
            }
        });
    }

    fn register_bulk_actions(&self, background: &mut Background) {
        let bulk = self.bulk.clone();
        self.writing(background, "bulk actions", bulk::POLL, move || {
            let running = bulk.clone();
            async move {
                let more = bulk::run_some(running).await?;
                Ok::<_, sqlx::Error>(if more {
                    Next::AtOnce
                } else {
                    Next::AfterPeriod
                })
            }
        });
    }

    fn register_outbox(&self, serve: &ServeConfig, background: &mut Background) {
        let config = Arc::new(serve.outbound.clone());
        let publishing = Publishing {
            pool: self.pool.clone(),
            reads: self.reads.clone(),
            config: config.clone(),
            stop: self.stop.clone(),
            entered: Arc::default(),
            // Publishers side by side begin at different ones.
            after: Arc::new(Mutex::new(Uuid::from_u128(rand::random()))),
            clears_at: Arc::new(Mutex::new(Instant::now())),
        };
        self.writing(background, "event publisher", publisher::POLL, move || {
            publishing.clone().run()
        });
        let (pool, schema) = (self.pool.clone(), self.schema.clone());
        let stop = self.stop.clone();
        background.looping("event sender", sender::POLL, |runs| {
            outbox::keep_sending(pool, config, schema, runs, stop)
        });
    }

    fn register_mails(&self, background: &mut Background) {
        let Some(mailer) = self.mailer.clone() else {
            return;
        };
        let pool = self.pool.clone();
        self.writing(background, "mail search", mail::SEARCH, move || {
            mail::search(pool.clone())
        });
        let (pool, stop) = (self.pool.clone(), self.stop.clone());
        self.writing(background, "mail sender", mail::SEND, move || {
            mail::send(mailer.clone(), pool.clone(), stop.clone())
        });
    }

    fn register_metering(&self, background: &mut Background) {
        let pool = self.pool.clone();
        self.writing(
            background,
            "grace period sweeper",
            GRACE_PERIODS,
            move || sweep_grace_periods(pool.clone()),
        );
        let pool = self.pool.clone();
        self.writing(
            background,
            "feature override sweeper",
            OVERRIDES,
            move || sweep_feature_overrides(pool.clone()),
        );
        let (pool, catalogue) = (self.pool.clone(), self.catalogue.clone());
        self.writing(background, "quota override sweeper", OVERRIDES, move || {
            sweep_quota_overrides(pool.clone(), catalogue.clone())
        });
        let (pool, ledger) = (self.pool.clone(), self.ledger.clone());
        self.writing(background, "reservation sweeper", RESERVATIONS, move || {
            let (pool, ledger) = (pool.clone(), ledger.clone());
            async move {
                let released = ledger::release_expired(&pool, &ledger).await;
                released.map(|_| Next::AfterPeriod)
            }
        });
        let (pool, ledger) = (self.pool.clone(), self.ledger.clone());
        let catalogue = self.catalogue.clone();
        self.writing(background, "levels dated ahead", LEVELS, move || {
            let (pool, ledger, catalogue) = (pool.clone(), ledger.clone(), catalogue.clone());
            async move {
                let taken = ledger::take_due(&pool, &ledger, &catalogue).await;
                taken.map(|()| Next::AfterPeriod)
            }
        });
        let (pool, catalogue) = (self.pool.clone(), self.catalogue.clone());
        let in_stripe = self.in_stripe;
        self.writing(background, "catalogue follower", CATALOGUE, move || {
            follow_catalogue(pool.clone(), catalogue.clone(), in_stripe)
        });
    }
}

async fn sweep_grace_periods(pool: PgPool) -> Result<Next, sqlx::Error> {
    let ended = grace::sweep(&pool).await?;
    if ended > 0 {
        tracing::info!(ended, "Grace periods ended");
    }
    Ok(Next::AfterPeriod)
}

async fn sweep_past_due(pool: PgPool, catalogue: Arc<Catalogue>) -> Result<Next, sqlx::Error> {
    let changed = subscriptions::sweep_past_due(&pool, &catalogue).await?;
    if changed > 0 {
        tracing::info!(
            changed,
            "Access of past-due subscriptions ended or returned"
        );
    }
    Ok(Next::AfterPeriod)
}

async fn book_revenue(pool: PgPool) -> Result<Next, sqlx::Error> {
    let movements = journal::run(&pool).await?;
    if movements > 0 {
        tracing::debug!(movements, "Movements of recurring revenue booked");
    }
    Ok(Next::AfterPeriod)
}

async fn sweep_feature_overrides(pool: PgPool) -> Result<Next, sqlx::Error> {
    let ended = features::sweep(&pool).await?;
    if ended > 0 {
        tracing::info!(ended, "Feature overrides ended");
    }
    Ok(Next::AfterPeriod)
}

async fn sweep_quota_overrides(
    pool: PgPool,
    catalogue: Arc<Catalogue>,
) -> Result<Next, sqlx::Error> {
    let ended = quotas::sweep(&pool, &catalogue).await?;
    if ended > 0 {
        tracing::info!(ended, "Overrides of quotas ended");
    }
    Ok(Next::AfterPeriod)
}

/// Brings quotas and features in line with the catalogue. Organizations that another
/// transaction holds follow in the next run.
async fn follow_catalogue(
    pool: PgPool,
    catalogue: Arc<Catalogue>,
    in_stripe: bool,
) -> Result<Next, sqlx::Error> {
    catalogue.record_versions(&pool, in_stripe).await?;
    let applied = quotas::apply_catalogue(&pool, &catalogue).await?;
    if applied.changed > 0 {
        let changed = applied.changed;
        tracing::info!(changed, "Quotas and features follow the catalogue");
    }
    for (feature, overrides) in features::idle(&pool, &catalogue).await? {
        tracing::warn!(
            feature,
            overrides,
            "overrides count for nothing: the catalogue no longer has the feature, or has it with another kind"
        );
    }
    Ok(match applied.skipped {
        0 => Next::Never,
        _ => Next::AfterPeriod,
    })
}

/// The allocator returns memory that has been free for a while to the system, but only
/// when something large is freed, and after a flood nothing is.
fn give_memory_back() {
    const LARGE: usize = 1024 * 1024;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}
