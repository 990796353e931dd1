//! Organizations that pay for several subscriptions: which one stays, and the end of the
//! others. This service makes no second one; somebody did in Stripe.

mod choice;

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Subscriptions;
use super::change::record::{CHANGE_ID_KEY, COMMENT, ChangeKind, ChangeRecord, Initiator, mark};
use super::failure::Failure;
use super::payer::id_in;
use super::reconcile::runs;
use super::refunds::Refunding;
use super::store::findings::{self, DoublyPaying};
use crate::db::WorkerTx;
use crate::stripe::client::{Client, ErrorKind, Params};
use crate::stripe::objects::Subscription;
use crate::stripe::requests::{self, Begun, NewRequest, Request, Subject};
use choice::Verdict;
pub use choice::{Reason, Running};

/// How often a change that was left open is settled first.
const ROUNDS: usize = 3;
/// What Stripe keeps as the cause.
const CAUSE: &str = "ended by an operator: another subscription of the customer goes on";

/// An organization that pays for several, and what is to become of them.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Doubles {
    pub organization_id: Uuid,
    pub name: String,
    pub stays: Running,
    pub because: Reason,
    pub ends: Vec<Surplus>,
}

/// An organization that pays for several, of which the one that stays must be named.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Undecided {
    pub organization_id: Uuid,
    pub name: String,
    /// Oldest first.
    pub running: Vec<Running>,
}

/// Those that pay for several.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Several {
    pub doubles: Vec<Doubles>,
    pub undecided: Vec<Undecided>,
}

/// A subscription that is to end.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Surplus {
    #[serde(flatten)]
    pub subscription: Running,
    /// What was paid for its last period, in the currency's minor unit.
    pub paid_amount: i64,
    pub currency: Option<String>,
    /// Whether this run has ended it.
    pub ended: bool,
    /// Whether this run has given back what was paid.
    pub refunded: bool,
    /// Why it has not been ended.
    pub problem: Option<String>,
    #[serde(skip)]
    payments: Vec<String>,
    #[serde(skip)]
    open_invoice_id: Option<String>,
}

/// Which organizations are looked at, and what is said of the one that stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Looked<'a> {
    pub organization_id: Option<Uuid>,
    pub keep: Option<&'a str>,
}

impl Subscriptions {
    /// What would be ended, and what stays. Stripe is asked; nothing is changed.
    pub async fn doubles(&self, looked: Looked<'_>) -> Result<Several, Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let mut tx = WorkerTx::begin(&self.pool).await?;
        let found = findings::doubly_paying(tx.conn(), looked.organization_id).await?;
        tx.rollback().await?;
        let mut several = Several::default();
        for one in found {
            let running = self.running_in_stripe(client, &one).await?;
            let choice = match choice::choose(running, looked.keep) {
                Some(Verdict::Chosen(choice)) => choice,
                Some(Verdict::Undecided(running)) => {
                    several.undecided.push(Undecided {
                        organization_id: one.organization_id,
                        name: one.name,
                        running,
                    });
                    continue;
                }
                None => continue,
            };
            let mut ends = Vec::new();
            for surplus in choice.ends {
                ends.push(looked_up(client, surplus).await?);
            }
            several.doubles.push(Doubles {
                organization_id: one.organization_id,
                name: one.name,
                stays: choice.stays,
                because: choice.because,
                ends,
            });
        }
        Ok(several)
    }

    /// The running subscriptions of an organization's customers: Stripe may know one whose
    /// events have not come yet.
    async fn running_in_stripe(
        &self,
        client: &Client,
        of: &DoublyPaying,
    ) -> Result<Vec<Running>, Failure> {
        let customers: BTreeSet<&str> = of.customers.iter().map(String::as_str).collect();
        let mut running = Vec::new();
        for customer in customers {
            let all = match client.subscriptions(Some(customer)).await {
                Ok(all) => all,
                // One that Stripe does not know is a finding of a reconciliation, and keeps
                // nobody from the others.
                Err(error) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => return Err(Failure::Stripe(error)),
            };
            let all: Result<Vec<_>, _> = all.iter().map(Subscription::read).collect();
            let mut all = all?;
            all.retain(runs);
            let mut tx = WorkerTx::begin(&self.pool).await?;
            self.catalogue.recall(tx.conn(), &all).await?;
            tx.rollback().await?;
            running.extend(all.iter().map(|one| self.judged(one)));
        }
        Ok(running)
    }

    fn judged(&self, one: &Subscription) -> Running {
        let plan = self.catalogue.plan_of(one);
        let metered = |usage_type: Option<&str>| usage_type == Some("metered");
        Running {
            stripe_subscription_id: one.id.clone(),
            stripe_customer_id: one.customer_id.clone(),
            status: one.status.clone(),
            plan_tier: plan.map(|plan| plan.tier.clone()),
            rank: plan.and_then(|plan| self.catalogue.rank(&plan.tier)),
            made_here: one.metadata.contains_key(CHANGE_ID_KEY),
            created_at: one.created,
            latest_invoice_id: one.latest_invoice_id.clone(),
            bills_usage: one
                .items
                .iter()
                .any(|item| metered(item.usage_type.as_deref())),
        }
    }

    /// Ends what is to end of an organization's subscriptions; with `refund`, gives back what
    /// was paid for the last period of each. One that cannot be ended keeps no other from it.
    pub async fn end_doubles(&self, doubles: &mut Doubles, refund: bool) -> Result<(), Failure> {
        let client = self.stripe.as_ref().ok_or(Failure::NotConfigured)?;
        let (organization_id, stays) = (doubles.organization_id, doubles.stays.clone());
        for surplus in &mut doubles.ends {
            let ended = self
                .end_one(client, organization_id, &stays, surplus, refund)
                .await;
            match ended {
                Ok(()) => surplus.ended = true,
                Err(failure @ (Failure::Database(_) | Failure::NotConfigured)) => {
                    return Err(failure);
                }
                Err(failure) => surplus.problem = Some(failure.to_string()),
            }
        }
        Ok(())
    }

    async fn end_one(
        &self,
        client: &Client,
        organization_id: Uuid,
        stays: &Running,
        surplus: &mut Surplus,
        refund: bool,
    ) -> Result<(), Failure> {
        let one = &surplus.subscription;
        let change = change_of(stays, surplus, refund);
        // Usage is billed by the one that stays, if it bills any, and is the same customer's.
        let is_billed_there =
            stays.bills_usage && stays.stripe_customer_id == one.stripe_customer_id;
        let params = Params::new()
            .set(COMMENT, CAUSE)
            .set("invoice_now", one.bills_usage && !is_billed_there)
            .set("prorate", false);
        let new = NewRequest {
            subject: Subject::Subscription,
            operation: change.kind.operation(),
            target_id: Some(one.stripe_subscription_id.clone()),
            params: mark(params, &change),
            context: change.context(),
        };
        let request = self.begin_end(client, organization_id, new).await?;
        // It may have ended since it was looked at: then nothing of this is right any more.
        if let Err(failure) = self.still_runs(client, stays).await {
            self.close_failed(&request, &failure.to_string()).await?;
            return Err(failure);
        }
        if refund {
            // Before the end, so that a run that dies in between leaves a double that the
            // next run finds.
            let refunding = Refunding {
                organization_id,
                by: request.id,
                key: &|step| request.key_of(step),
                about: json!({
                    "stripeSubscriptionId": one.stripe_subscription_id,
                    "stays": stays.stripe_subscription_id,
                    "idempotency_key": request.key(),
                }),
            };
            let given_back = self.give_back(client, &refunding, &surplus.payments).await;
            if let Err(failure) = given_back {
                self.close_failed(&request, &failure.to_string()).await?;
                return Err(failure);
            }
            // What a balance has paid, say, has no payment to give back.
            surplus.refunded = !surplus.payments.is_empty();
        }
        self.execute(client, &request, &change).await?;
        Ok(())
    }

    /// Enters the request, once no other change of the organization's is open.
    async fn begin_end(
        &self,
        client: &Client,
        organization_id: Uuid,
        new: NewRequest,
    ) -> Result<Request, Failure> {
        for _ in 0..ROUNDS {
            match requests::begin(&self.pool, organization_id, new.clone()).await? {
                Begun::New(request) => return Ok(request),
                Begun::Open(open) => {
                    if !self.recover(client, &open).await? {
                        return Err(Failure::Busy);
                    }
                }
            }
        }
        Err(Failure::Busy)
    }

    async fn still_runs(&self, client: &Client, stays: &Running) -> Result<(), Failure> {
        let shown = client.subscription(&stays.stripe_subscription_id).await;
        let shown = Subscription::read(&shown.map_err(Failure::Stripe)?.body)?;
        let unexpected = "the subscription that was to stay does not run any more: look again";
        runs(&shown)
            .then_some(())
            .ok_or(Failure::Unexpected(unexpected))
    }
}

/// The end of a subscription, as it is entered before Stripe is asked.
fn change_of(stays: &Running, surplus: &Surplus, refund: bool) -> ChangeRecord {
    let one = &surplus.subscription;
    ChangeRecord {
        id: Uuid::now_v7(),
        kind: ChangeKind::EndNow,
        command: json!({
            "wish": "end_double",
            "stays": stays.stripe_subscription_id,
            "refund": refund,
        }),
        request_key: None,
        actor: Initiator::system(),
        before: json!({
            "status": one.status,
            "planTier": one.plan_tier,
            "stripeCustomerId": one.stripe_customer_id,
            "latestInvoiceId": one.latest_invoice_id,
        }),
        usage: None,
        releases: None,
        follows: None,
        flexible: false,
        payer_acts: false,
        voids: surplus.open_invoice_id.clone(),
    }
}

/// With what was paid for its last period, and what is still to be paid.
async fn looked_up(client: &Client, subscription: Running) -> Result<Surplus, Failure> {
    let mut surplus = Surplus {
        paid_amount: 0,
        currency: None,
        ended: false,
        refunded: false,
        problem: None,
        payments: Vec::new(),
        open_invoice_id: None,
        subscription,
    };
    let Some(id) = &surplus.subscription.latest_invoice_id else {
        return Ok(surplus);
    };
    let shown = client.invoice_now(id).await.map_err(Failure::Stripe)?.body;
    surplus.currency = shown["currency"].as_str().map(str::to_owned);
    if shown["status"] == "open" {
        surplus.open_invoice_id = Some(id.clone());
    }
    let payments = shown["payments"]["data"].as_array();
    for payment in payments.into_iter().flatten() {
        let intent = id_in(&payment["payment"], "payment_intent");
        if let (Some(intent), Value::String(status)) = (intent, &payment["status"])
            && status == "paid"
        {
            surplus.paid_amount += payment["amount_paid"].as_i64().unwrap_or(0);
            surplus.payments.push(intent);
        }
    }
    Ok(surplus)
}
