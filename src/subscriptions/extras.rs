//! What reduces and taxes the invoices of a change besides its prices: the promotion
//! code that it redeems, the discounts in force, and automatic tax. Stripe computes all
//! of it; here is found what Stripe must be told, and what can be refused before.

use std::collections::BTreeMap;

use billing_domain::period::{Cadence, Interval};
use jiff::Timestamp;
use uuid::Uuid;

use super::command::StripeAction;
use super::failure::Failure;
use super::mirror::snapshot;
use super::promotion::Redemption;
use super::state::SubscriptionState;
use super::{Subscriptions, discounts};
use crate::db::{RequestTx, TenantTx};
use crate::stripe::client::{Client, Params};
use crate::stripe::objects::{CouponTerms, Customer, Invoice};
use crate::{audit, projection};

/// What a change does besides its prices.
#[derive(Debug, Default)]
pub struct Extras {
    pub redemption: Option<Redemption>,
    /// Whether the new subscription is taxed by its customer's address.
    pub automatic_tax: bool,
    /// Whether there is any discount, of an item perhaps.
    discounted: bool,
    /// The ids of the discounts in force: the subscription's, or else its customer's.
    in_force: Vec<String>,
    /// The organization's discounts, by id.
    known: BTreeMap<String, discounts::Applied>,
}

/// A discount that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Continuing {
    /// One that is there already.
    Discount(String),
    /// The one that the change redeems.
    Code(String),
}

/// The discounts after an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remaining {
    /// They all go on.
    All,
    /// Only these do.
    Only(Vec<Continuing>),
}

impl Extras {
    /// Whether only Stripe can say what the change costs.
    pub fn plays_a_part(&self) -> bool {
        self.redemption.is_some() || self.automatic_tax || self.discounted
    }

    /// Adds the redemption, for a change and for its preview alike.
    pub fn redeem(&self, params: Params) -> Params {
        match &self.redemption {
            Some(redemption) => redemption.apply(params),
            None => params,
        }
    }

    /// Adds automatic tax, for a new subscription and for its preview alike.
    pub fn tax(&self, params: Params) -> Params {
        params.set_if("automatic_tax[enabled]", self.automatic_tax.then_some(true))
    }

    /// When the code that the change redeems would end, redeemed at `start`.
    pub fn code_ends(&self, start: Timestamp) -> Option<Timestamp> {
        self.redemption.as_ref()?.ends_after(start)
    }

    /// Whether that depends on when it is redeemed.
    pub fn redeems_for_a_time(&self) -> bool {
        self.code_ends(Timestamp::UNIX_EPOCH).is_some()
    }

    /// The discounts that reduce the next invoice, which comes at `next` after
    /// `invoice`: one for a single invoice is used up by the first that it reduces, and
    /// others end.
    pub fn remaining(&self, invoice: &Invoice, now: Timestamp, next: Timestamp) -> Remaining {
        let is_used = |id: &str| {
            let amounts = invoice.discounts.iter();
            amounts
                .filter(|(of, _)| of == id)
                .any(|(_, amount)| *amount > 0)
        };
        let mut all = true;
        let mut only = Vec::new();
        for id in &self.in_force {
            let one = self.known.get(id);
            let ends = one
                .and_then(|one| one.ends_at)
                .is_some_and(|end| end <= next);
            let terms = one.and_then(|one| one.terms.as_ref());
            if ends || terms.is_some_and(is_once) && is_used(id) {
                all = false;
            } else {
                only.push(Continuing::Discount(id.clone()));
            }
        }
        if let Some(redemption) = &self.redemption {
            // Stripe gives the new discount an id that nobody knows yet.
            let is_new = |id: &str| !self.in_force.iter().any(|known| known == id);
            let mut amounts = invoice.discounts.iter();
            let reduces = amounts.any(|(id, amount)| *amount > 0 && is_new(id));
            let ends = redemption.ends_after(now).is_some_and(|end| end <= next);
            let is_once = redemption.terms.as_ref().is_some_and(is_once);
            if ends || is_once && reduces {
                all = false;
            } else {
                let id = redemption.promotion_code_id.clone();
                only.push(Continuing::Code(id));
            }
        }
        if all {
            Remaining::All
        } else {
            Remaining::Only(only)
        }
    }

    /// The discounts that reduce the next invoice of a change that is made with it, at
    /// `next`: those that do not end before.
    pub fn remaining_at(&self, next: Timestamp) -> Remaining {
        let goes_on = |id: &&String| {
            let ends = self.known.get(*id).and_then(|one| one.ends_at);
            ends.is_none_or(|end| end > next)
        };
        let left: Vec<&String> = self.in_force.iter().filter(goes_on).collect();
        if left.len() == self.in_force.len() {
            return Remaining::All;
        }
        let left = left.into_iter().cloned().map(Continuing::Discount);
        let code = self.redemption.iter();
        let code = code.map(|one| Continuing::Code(one.promotion_code_id.clone()));
        Remaining::Only(left.chain(code).collect())
    }
}

impl Redemption {
    /// When the code's discount ends, if it is redeemed at `start`.
    pub fn ends_after(&self, start: Timestamp) -> Option<Timestamp> {
        ends_after(self.terms.as_ref()?, start)
    }
}

fn is_once(terms: &CouponTerms) -> bool {
    terms.duration == "once"
}

/// When a discount that begins at `start` ends.
fn ends_after(terms: &CouponTerms, start: Timestamp) -> Option<Timestamp> {
    let months = terms
        .duration_in_months
        .filter(|_| terms.duration == "repeating")?;
    let cadence = Cadence::every(u16::try_from(months).ok()?, Interval::Month).ok()?;
    let end = cadence.boundary(start.as_second(), 1).ok()?;
    Timestamp::from_second(end).ok()
}

impl Remaining {
    /// Adds them to the parameters of a preview.
    pub fn apply(&self, params: Params) -> Params {
        let Self::Only(only) = self else {
            return params;
        };
        if only.is_empty() {
            // Without it, Stripe would take the discounts in force.
            return params.set("discounts", "");
        }
        let entries = only.iter().enumerate();
        entries.fold(params, |params, (n, one)| match one {
            Continuing::Code(id) => params.set(format!("discounts[{n}][promotion_code]"), id),
            Continuing::Discount(id) => params.set(format!("discounts[{n}][discount]"), id),
        })
    }
}

impl Subscriptions {
    /// What `action` does besides its prices. Refuses a code that does not hold, and a
    /// subscription that cannot be taxed, before Stripe is asked to do anything.
    pub(super) async fn extras(
        &self,
        client: Option<&Client>,
        organization_id: Uuid,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        code: Option<&str>,
    ) -> Result<Extras, Failure> {
        let is_new = matches!(action, StripeAction::Create { .. });
        let automatic_tax = is_new && self.catalogue.automatic_tax();
        if automatic_tax {
            self.check_tax_location(client, organization_id, state)
                .await?;
        }
        let subscription = state.subscription.as_ref();
        let own = subscription.map_or(&[][..], |one| &one.discount_ids);
        let discounted =
            subscription.is_some_and(|one| one.discounted) || state.customer_discounted;
        let known = if discounted {
            self.discounts(organization_id, state).await?
        } else {
            discounts::Held::default()
        };
        let in_force: Vec<String> = match own {
            [] => known.of_customer.clone(),
            own => own.to_vec(),
        };
        let redemption = match code {
            Some(code) => Some(
                self.redemption(client, code, state, action, &known.by_id)
                    .await?,
            ),
            None => None,
        };
        Ok(Extras {
            discounted,
            in_force: match &redemption {
                // A discount of its own takes the place of the customer's.
                Some(redemption) => redemption.kept.clone(),
                None => in_force,
            },
            known: known.by_id,
            redemption,
            automatic_tax,
        })
    }

    /// Whether the customer's address says enough to be taxed by. A customer that no
    /// event has shown is read from Stripe, once.
    async fn check_tax_location(
        &self,
        client: Option<&Client>,
        organization_id: Uuid,
        state: &SubscriptionState,
    ) -> Result<(), Failure> {
        let Some(customer_id) = &state.customer_id else {
            return Err(Failure::AddressRequired);
        };
        let located = match (state.tax_located, client) {
            (Some(located), _) => located,
            (None, None) => return Ok(()),
            (None, Some(client)) => {
                self.mirror_customer(client, organization_id, customer_id)
                    .await?;
                let state = self.state(organization_id).await?;
                state.tax_located.unwrap_or(false)
            }
        };
        located.then_some(()).ok_or(Failure::AddressRequired)
    }

    /// The organization's discounts.
    pub(super) async fn discounts(
        &self,
        organization_id: Uuid,
        state: &SubscriptionState,
    ) -> Result<discounts::Held, Failure> {
        let paying = state.subscription.as_ref().map(|one| &*one.customer_id);
        let customer = paying.or(state.customer_id.as_deref());
        let mut tx = RequestTx::begin(&self.pool, organization_id).await?;
        Ok(discounts::store::of_organization(&mut tx, customer).await?)
    }

    /// The discounts that reduce the organization's invoices, to be shown.
    pub(super) async fn discounts_in_force(
        &self,
        organization_id: Uuid,
        state: &SubscriptionState,
    ) -> Result<Vec<discounts::DiscountView>, Failure> {
        let of_subscription = state
            .subscription
            .as_ref()
            .is_some_and(|one| one.discounted);
        if !of_subscription && !state.customer_discounted {
            return Ok(Vec::new());
        }
        let held = self.discounts(organization_id, state).await?;
        Ok(discounts::in_force(state, &held))
    }

    /// Mirrors the customer as Stripe shows it now.
    pub(super) async fn mirror_customer(
        &self,
        client: &Client,
        organization_id: Uuid,
        customer_id: &str,
    ) -> Result<bool, Failure> {
        let asked = Uuid::now_v7();
        let response = client.customer_now(customer_id).await;
        let snapshot = snapshot(client, asked, response.map_err(Failure::Stripe)?).await;
        let snapshot = snapshot.map_err(Failure::Stripe)?;
        let customer = Customer::read(&snapshot.object, false)?;
        let mut tx = TenantTx::begin(&self.pool, organization_id).await?;
        let locked = audit::lock_chains(tx.conn(), &[organization_id]).await?;
        let entry =
            projection::mirror_customer(tx.conn(), organization_id, customer, snapshot.at).await?;
        audit::record(&mut tx, &locked, entry.as_slice()).await?;
        tx.commit().await?;
        Ok(entry.is_some())
    }
}
