//! Previews, and holding changes to them.

use std::sync::Arc;

use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::stripe::{self, Switch};
use super::token::Promise;
use super::{Preview, Quote, Source, local};
use crate::batch::lookup::Grouped;
use crate::catalogue::{Catalogue, Plan};
use crate::projection;
use crate::stripe::client::{Client, ErrorKind, StripeError};
use crate::subscriptions::command::{Step, Wish, decide};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::refresh::Shows;
use crate::subscriptions::state::{Held, Standing};
use crate::subscriptions::{Subscriptions, store};

/// What previews read together: how an organization stands, and whether its
/// subscription was ever updated.
pub(in crate::subscriptions) type Previewed = Grouped<Uuid, (Standing, bool)>;

pub(in crate::subscriptions) fn together(pool: PgPool, catalogue: Arc<Catalogue>) -> Previewed {
    Grouped::new(move |organizations| {
        let (pool, catalogue) = (pool.clone(), catalogue.clone());
        Box::pin(async move {
            let mut conn = pool.acquire().await?;
            let standings = store::standings(&mut conn, &organizations, &catalogue).await?;
            let held: Vec<(Uuid, &str)> = standings
                .iter()
                .filter_map(|(id, standing)| Some((*id, &*standing.subscription.as_ref()?.id)))
                .collect();
            let updated = projection::updated(&mut conn, &held).await?;
            let found = standings
                .into_iter()
                .map(|(id, standing)| (id, (standing, updated.contains(&id))));
            Ok(found.collect())
        })
    })
}

/// A subscription that ended unseen, then its customer who was deleted.
const MOST_LOOKS: u32 = 2;

impl Subscriptions {
    /// What a change to the plan `tier` would cost at `now`.
    pub async fn preview(
        &self,
        organization_id: Uuid,
        tier: &str,
        now: Timestamp,
    ) -> Result<Preview, Failure> {
        let mut looks = 0;
        let (standing, quote) = loop {
            match self.quote(organization_id, tier, now).await {
                // Customer or subscription may not be what we think they are.
                Err(Failure::Stripe(error))
                    if looks < MOST_LOOKS
                        && matches!(
                            error.kind,
                            ErrorKind::NotFound | ErrorKind::InvalidRequest
                        ) =>
                {
                    looks += 1;
                    self.look_what_is_missing(organization_id, &error).await?;
                }
                quoted => break quoted?,
            }
        };
        let new = self.plan_after(tier)?;
        let expires_at = quote.expires_at(now);
        let promise = Promise {
            organization_id,
            plan_tier: tier.to_owned(),
            subscription: standing.subscription.as_ref().map(Held::fingerprint),
            catalogue: self.catalogue.version().to_owned(),
            effective_at: quote.effective_at,
            currency: quote.currency.clone(),
            prorated_amount: quote.prorated_amount,
            due_now_amount: quote.due_now_amount,
            next_invoice_amount: quote.next_invoice_amount,
            expires_at,
        };
        let token = self.sealer.seal(&promise).await?;
        let current = (
            standing.plan_tier.as_str(),
            self.catalogue.plan(&standing.plan_tier),
        );
        Ok(quote.into_preview(current, new, token, expires_at))
    }

    /// How the organization stands, and what the change costs.
    async fn quote(
        &self,
        organization_id: Uuid,
        tier: &str,
        now: Timestamp,
    ) -> Result<(Standing, Quote), Failure> {
        let found = self.previewed.find(organization_id).await?;
        let (standing, was_updated) = found.ok_or(Failure::NoOrganization)?;
        let step = decide(&standing, &self.catalogue, Wish::Change { tier })?;
        let customer = standing.customer_id.as_deref();
        let quote = match &self.stripe {
            Some(client) => self.ask_stripe(client, &step, customer, None, now).await?,
            None => {
                self.compute(organization_id, &step, was_updated, now)
                    .await?
            }
        };
        Ok((standing, quote))
    }

    /// Stripe does not have what the preview was asked about: the customer was
    /// deleted, say, and the subscription with it.
    async fn look_what_is_missing(
        &self,
        organization_id: Uuid,
        error: &StripeError,
    ) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        match self.look_again(client, organization_id).await? {
            Shows::Nothing(id) => Err(Failure::SubscriptionMissing(id)),
            Shows::Something if error.is_missing_customer() => {
                self.check_customer(client, organization_id).await
            }
            Shows::Something => Ok(()),
        }
    }

    fn plan_after(&self, tier: &str) -> Result<&Plan, Failure> {
        let plan = self.catalogue.plan(tier);
        plan.ok_or(Failure::Unexpected("the plan is gone"))
    }

    /// By the local engine.
    async fn compute(
        &self,
        organization_id: Uuid,
        step: &Step<'_>,
        was_updated: bool,
        now: Timestamp,
    ) -> Result<Quote, Failure> {
        Ok(match step {
            Step::Create { plan, .. } => local::of_creation(plan, now)?,
            Step::Switch { held, plan } => {
                if was_updated {
                    self.check_unchanged(organization_id, held).await?;
                }
                local::of_switch(held, &self.catalogue, plan, now)?
            }
            Step::EndWithPeriod { held }
            | Step::EndNow { held }
            | Step::Keep { held }
            | Step::Nothing { held } => super::of_end(&self.catalogue, held, now),
        })
    }

    /// By Stripe, as of `at`, or of the customer's time.
    async fn ask_stripe(
        &self,
        client: &Client,
        step: &Step<'_>,
        customer_id: Option<&str>,
        at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Quote, Failure> {
        match step {
            Step::Create { plan, .. } => {
                let Some(customer_id) = customer_id else {
                    // Nobody is known to Stripe yet: the catalogue's price it is.
                    return Ok(local::of_creation(plan, now)?);
                };
                let prices = self.prices.of(client, &self.catalogue, plan).await?;
                stripe::of_creation(client, customer_id, plan, &prices).await
            }
            Step::Switch { held, plan } => {
                let prices = self.prices.of(client, &self.catalogue, plan).await?;
                let at = match at {
                    Some(at) => at,
                    None => self.time_of(client, held).await?,
                };
                let switch = Switch::new(held, &self.catalogue, plan, &prices, at)
                    .ok_or(crate::subscriptions::Refusal::UnknownItems)?;
                stripe::of_switch(client, &switch).await
            }
            Step::EndWithPeriod { held } => {
                let quote = super::of_end(&self.catalogue, held, now);
                stripe::of_end(client, held, quote).await
            }
            Step::EndNow { held } | Step::Keep { held } | Step::Nothing { held } => Ok(Quote {
                source: Source::Stripe,
                ..super::of_end(&self.catalogue, held, now)
            }),
        }
    }

    /// Opens a token; one that is not ours is as good as one that is over.
    pub(in crate::subscriptions) async fn open(&self, token: &str) -> Result<Promise, Failure> {
        self.sealer.open(token).await?.ok_or(Failure::Stale(
            "the preview token is not one of this service",
        ))
    }

    /// Whether things stand as they did when the promise was made.
    pub(in crate::subscriptions) fn check_state(
        &self,
        promise: &Promise,
        organization_id: Uuid,
        standing: &Standing,
        wish: Wish<'_>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let wished = matches!(wish, Wish::Change { tier } if tier == promise.plan_tier);
        let held = standing.subscription.as_ref();
        let problem = if promise.organization_id != organization_id || !wished {
            "the preview was of another change"
        } else if promise.expires_at <= now {
            "the preview has expired"
        } else if promise.catalogue != self.catalogue.version() {
            "the plans have changed since the preview"
        } else if promise.subscription != held.map(Held::fingerprint) {
            "the subscription has changed since the preview"
        } else {
            return Ok(());
        };
        Err(Failure::Stale(problem))
    }

    /// Whether Stripe would still charge what was promised.
    pub(in crate::subscriptions) async fn check_price(
        &self,
        client: &Client,
        promise: &Promise,
        step: &Step<'_>,
        customer_id: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let quote = self
            .ask_stripe(client, step, customer_id, Some(promise.effective_at), now)
            .await?;
        if quote.keeps(promise) {
            Ok(())
        } else {
            Err(Failure::Stale("Stripe would charge another amount by now"))
        }
    }

    /// What an earlier change of this period has left to be invoiced, only
    /// Stripe knows.
    async fn check_unchanged(&self, organization_id: Uuid, held: &Held) -> Result<(), Failure> {
        let Some(since) = held.period_start else {
            return Ok(());
        };
        let mut tx = crate::db::TenantTx::begin(&self.pool, organization_id).await?;
        let repriced =
            projection::repriced_since(tx.conn(), organization_id, &held.id, since).await?;
        if repriced {
            return Err(crate::subscriptions::Unknowable::StripeOnly(
                "was changed before in this period",
            )
            .into());
        }
        Ok(())
    }
}
