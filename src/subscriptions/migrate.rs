//! Moves running subscriptions to another version of their plan, one after the other.
//! A run that ends early is taken up by the next one: who has moved is not moved again.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::command::{Command, decide};
use super::failure::Failure;
use super::preview::{Asked, Pricing};
use super::{Requester, Subscriptions, store};
use crate::audit::{self, Actor};
use crate::catalogue::versions::version_name;
use crate::catalogue::{Plan, When};
use crate::db::WorkerTx;

/// Which subscriptions are to move, and where.
#[derive(Debug, Clone)]
pub struct Migration {
    pub tier: String,
    pub to: i32,
    /// Only those of this version.
    pub from: Option<i32>,
    /// Only this organization's.
    pub organization: Option<Uuid>,
    /// At once, or with each subscription's next period.
    pub when: When,
}

/// A subscription that is to move.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub organization_id: Uuid,
    pub name: String,
    pub subscription_id: String,
    pub version: Option<i32>,
}

/// What became of one subscription, or would.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    pub organization_id: Uuid,
    pub name: String,
    pub subscription_id: String,
    /// The version it had; null if it was bought before there were versions.
    pub from: Option<i32>,
    pub to: i32,
    /// When it moves, or has moved.
    pub effective_at: Option<Timestamp>,
    pub currency: Option<String>,
    /// What the change costs, or costed, at once, in the minor unit.
    pub due_now_amount: Option<i64>,
    /// The next invoice without usage.
    pub next_invoice_amount: Option<i64>,
    /// Why it stays, or why that is not known.
    pub problem: Option<String>,
    /// Whether Stripe may have moved it, and has not said so.
    pub in_doubt: bool,
}

impl Migration {
    /// The version that schedules name where it will follow; `None` to move at once.
    pub(super) fn scheduled_as(&self) -> Option<String> {
        let later = self.when == When::PeriodEnd;
        later.then(|| version_name(&self.tier, self.to))
    }

    /// The subscriptions that have not moved and are not about to, by organization.
    pub async fn candidates(&self, pool: &PgPool) -> Result<Vec<Candidate>, sqlx::Error> {
        let mut tx = WorkerTx::begin(pool).await?;
        let found = store::on_other_versions(tx.conn(), self).await?;
        tx.commit().await?;
        Ok(found)
    }
}

impl Candidate {
    fn command<'a>(&'a self, terms: &'a Plan, migration: &Migration) -> Command<'a> {
        Command::Migrate {
            subscription_id: &self.subscription_id,
            terms,
            version: migration.to,
            when: migration.when,
        }
    }
}

impl Subscriptions {
    /// What moving `candidate` would cost, as Stripe computes it.
    pub async fn price_migration(
        &self,
        candidate: &Candidate,
        terms: &Plan,
        migration: &Migration,
    ) -> Result<Moved, Failure> {
        let to = migration.to;
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let state = self.state(candidate.organization_id).await?;
        let command = candidate.command(terms, migration);
        let now = Timestamp::now();
        let priced = match decide(&state, &self.catalogue, command) {
            Ok(action) => {
                let customer = state.customer_id.as_deref();
                let organization_id = candidate.organization_id;
                match self
                    .extras(Some(client), organization_id, &state, &action, None)
                    .await
                {
                    Ok(extras) => {
                        let asked = Asked {
                            organization_id,
                            action: &action,
                            extras: &extras,
                            customer_id: customer,
                        };
                        self.price_with_stripe(client, asked, None, now).await
                    }
                    Err(failure) => Err(failure),
                }
            }
            Err(rejection) => Err(rejection.into()),
        };
        moved(candidate, to, priced)
    }

    /// Moves `candidate`, at once or with its next period.
    pub async fn migrate(
        &self,
        candidate: &Candidate,
        terms: &Plan,
        migration: &Migration,
    ) -> Result<Moved, Failure> {
        let requester = Requester {
            organization_id: candidate.organization_id,
            actor: Actor::System,
            client: audit::Client {
                ip: None,
                user_agent: None,
            },
            idempotency_key: None,
            payer_acts: false,
        };
        let priced = self.price_migration(candidate, terms, migration).await?;
        if priced.problem.is_some() {
            return Ok(priced);
        }
        let command = candidate.command(terms, migration);
        match self.change(&requester, command, None).await {
            Ok(()) => Ok(priced),
            Err(failure) => moved(candidate, migration.to, Err(failure)),
        }
    }
}

/// What is the subscription's own problem leaves the others alone; an outage ends the
/// run.
fn moved(
    candidate: &Candidate,
    to: i32,
    priced: Result<Pricing, Failure>,
) -> Result<Moved, Failure> {
    let (priced, problem) = match priced {
        Ok(pricing) => (Some(pricing), None),
        Err(Failure::Database(error)) => return Err(Failure::Database(error)),
        Err(Failure::Stripe(error)) if error.is_outage() => return Err(Failure::Stripe(error)),
        Err(Failure::InDoubt(error)) => {
            let problem = format!("not known yet; `serve` settles it: {error}");
            return Ok(Moved {
                in_doubt: true,
                ..of(candidate, to, None, Some(problem))
            });
        }
        Err(failure) => (None, Some(failure.to_string())),
    };
    Ok(of(candidate, to, priced, problem))
}

fn of(candidate: &Candidate, to: i32, priced: Option<Pricing>, problem: Option<String>) -> Moved {
    Moved {
        organization_id: candidate.organization_id,
        name: candidate.name.clone(),
        subscription_id: candidate.subscription_id.clone(),
        from: candidate.version,
        to,
        effective_at: priced.as_ref().map(|pricing| pricing.effective_at),
        currency: priced.as_ref().map(|pricing| pricing.currency.clone()),
        due_now_amount: priced.as_ref().map(|pricing| pricing.due_now_amount),
        next_invoice_amount: priced.as_ref().map(|pricing| pricing.next_invoice_amount),
        problem,
        in_doubt: false,
    }
}
