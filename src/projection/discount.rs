//! Projects discounts: what each takes off and until when.
//!
//! Which discounts are in force stands with their subscription, item or customer. What
//! they are is gathered here from whatever shows them: events of their own, and events
//! and answers about who has them. A discount and its coupon's terms never change, so
//! that knowing more is the only thing that happens to them; only a coupon's name and a
//! discount's end are those that were shown last.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::event_types::action;
use super::store;
use super::types::{Effects, Results};
use super::versions::merge::ObjectKey;
use crate::audit::{Actor, NewEntry};
use crate::stripe::objects::{BillingObject, CouponTerms, Customer, Discount, Subscription};

const RESOURCE: &str = "discount";
const DELETED: &str = "customer.discount.deleted";

/// What is known of a discount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KnownDiscount {
    pub organization_id: Uuid,
    #[serde(flatten)]
    pub discount: Discount,
    #[serde(flatten)]
    pub terms: Option<CouponTerms>,
    pub observed_at: Timestamp,
    /// When its terms were shown last.
    pub terms_at: Option<Timestamp>,
    pub deleted_at: Option<Timestamp>,
}

impl KnownDiscount {
    fn shown(organization_id: Uuid, discount: &Discount, at: Timestamp) -> Self {
        let mut discount = discount.clone();
        let terms = discount.terms.take();
        Self {
            organization_id,
            observed_at: at,
            terms_at: terms.is_some().then_some(at),
            deleted_at: None,
            discount,
            terms,
        }
    }

    fn key(&self) -> ObjectKey {
        (self.organization_id, self.discount.id.clone())
    }

    /// Adds what another showing says. The order of showings does not matter.
    fn merge(&mut self, other: Self) {
        let Self {
            discount,
            terms,
            observed_at,
            terms_at,
            deleted_at,
            ..
        } = other;
        let known = &mut self.discount;
        for (mine, theirs) in [
            (&mut known.customer_id, discount.customer_id),
            (&mut known.subscription_id, discount.subscription_id),
            (
                &mut known.subscription_item_id,
                discount.subscription_item_id,
            ),
            (&mut known.coupon_id, discount.coupon_id),
            (&mut known.promotion_code_id, discount.promotion_code_id),
            (&mut known.promotion_code, discount.promotion_code),
        ] {
            *mine = mine.take().or(theirs);
        }
        known.starts_at = known.starts_at.or(discount.starts_at);
        if (observed_at, discount.ends_at) > (self.observed_at, known.ends_at) {
            known.ends_at = discount.ends_at;
        }
        self.observed_at = self.observed_at.max(observed_at);
        if let Some(theirs) = terms {
            let is_newer = self.terms.as_ref().is_none_or(|mine| {
                (terms_at, theirs.name.as_deref()) > (self.terms_at, mine.name.as_deref())
            });
            if is_newer {
                self.terms = Some(theirs);
            }
        }
        self.terms_at = self.terms_at.max(terms_at);
        self.deleted_at = match (self.deleted_at, deleted_at) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// As audit entries show it.
    fn summary(&self) -> Value {
        let terms = self.terms.as_ref();
        json!({
            "stripeSubscriptionId": self.discount.subscription_id,
            "stripeSubscriptionItemId": self.discount.subscription_item_id,
            "stripeCouponId": self.discount.coupon_id,
            "stripePromotionCodeId": self.discount.promotion_code_id,
            "percentOff": terms.and_then(|terms| terms.percent_off.as_ref()),
            "amountOff": terms.and_then(|terms| terms.amount_off),
            "currency": terms.and_then(|terms| terms.currency.as_ref()),
            "duration": terms.map(|terms| &terms.duration),
            "endsAt": self.discount.ends_at,
            "deleted": self.deleted_at.is_some(),
        })
    }
}

/// The discounts that a subscription shows whole.
pub fn in_subscription(
    organization_id: Uuid,
    subscription: &Subscription,
    at: Timestamp,
) -> Vec<KnownDiscount> {
    let shown = subscription.discounts.iter();
    shown
        .map(|discount| KnownDiscount::shown(organization_id, discount, at))
        .collect()
}

/// The discount that a customer shows whole.
pub fn in_customer(
    organization_id: Uuid,
    customer: &Customer,
    at: Timestamp,
) -> Vec<KnownDiscount> {
    let shown = customer.discounts.iter();
    shown
        .map(|discount| KnownDiscount::shown(organization_id, discount, at))
        .collect()
}

/// Stores what `shown` adds to what is known. Returns all of it.
pub async fn remember(
    conn: &mut PgConnection,
    shown: Vec<KnownDiscount>,
) -> Result<Changes, sqlx::Error> {
    let mut changes = Changes::default();
    if shown.is_empty() {
        return Ok(changes);
    }
    let keys: Vec<ObjectKey> = shown.iter().map(KnownDiscount::key).collect();
    changes.before = store::discounts::load(conn, &keys).await?;
    changes.after = changes.before.clone();
    for one in shown {
        match changes.after.get_mut(&one.key()) {
            Some(known) => known.merge(one),
            None => {
                changes.after.insert(one.key(), one);
            }
        }
    }
    let changed = changes.after.iter();
    let changed = changed.filter(|(key, known)| changes.before.get(*key) != Some(*known));
    let changed: Vec<&KnownDiscount> = changed.map(|(_, known)| known).collect();
    store::discounts::save(conn, &changed).await?;
    Ok(changes)
}

/// Discounts before and after something was shown.
#[derive(Default)]
pub struct Changes {
    before: BTreeMap<ObjectKey, KnownDiscount>,
    after: BTreeMap<ObjectKey, KnownDiscount>,
}

impl Changes {
    pub fn are_any(&self) -> bool {
        self.before != self.after
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let mut shown = Vec::new();
    for (position, event) in results.decoded.iter().enumerate() {
        let Some(owner) = event.owner else { continue };
        let at = event.stored.created;
        match &event.object {
            BillingObject::Discount(discount) => {
                let mut one = KnownDiscount::shown(owner, discount, at);
                let is_deleted = event.stored.event_type == DELETED;
                one.deleted_at = is_deleted.then_some(at);
                shown.push(one);
                results.newer[position] = true;
            }
            BillingObject::Subscription(subscription) => {
                shown.extend(in_subscription(owner, subscription, at));
            }
            BillingObject::Customer(customer) => {
                shown.extend(in_customer(owner, customer, at));
            }
            _ => {}
        }
    }
    let changes = remember(conn, shown).await?;
    for event in results.decoded {
        let (Some(organization_id), BillingObject::Discount(discount)) =
            (event.owner, &event.object)
        else {
            continue;
        };
        let key = (organization_id, discount.id.clone());
        // A replayed event shows nothing new.
        if changes.before.get(&key) == changes.after.get(&key) {
            continue;
        }
        let entry = NewEntry {
            organization_id,
            action: action(&event.stored.event_type),
            actor: Actor::Webhook,
            resource_type: RESOURCE,
            resource_id: discount.id.clone(),
            before: changes.before.get(&key).map(KnownDiscount::summary),
            after: changes.after.get(&key).map(KnownDiscount::summary),
            metadata: Value::Null,
            client: None,
            reason: None,
        };
        effects.record(event, entry);
    }
    Ok(())
}

/// Has Stripe asked for the batch's subscriptions whose discounts no event has shown. An
/// event only names the promotion code of a discount.
pub async fn ask_for_missing(
    conn: &mut PgConnection,
    results: &Results<'_>,
) -> Result<(), sqlx::Error> {
    let discounted = results.decoded.iter().filter_map(|event| {
        let subscription_id = match &event.object {
            BillingObject::Subscription(subscription) if subscription.discounted => {
                subscription.id.clone()
            }
            BillingObject::Discount(discount) => discount.subscription_id.clone()?,
            _ => return None,
        };
        Some((event.owner?, subscription_id))
    });
    let discounted: Vec<ObjectKey> = discounted.collect();
    if discounted.is_empty() {
        return Ok(());
    }
    let unexplained = store::discounts::not_shown(conn, &discounted).await?;
    store::subscriptions::mark_stale(conn, &unexplained).await
}

/// Records the terms of a coupon, as Stripe answered at `at`; without terms, that the
/// coupon is gone and they will not be known.
pub async fn coupon_known(
    conn: &mut PgConnection,
    organization_id: Uuid,
    coupon_id: &str,
    terms: Option<&CouponTerms>,
    at: Timestamp,
) -> Result<(), sqlx::Error> {
    match terms {
        Some(terms) => store::discounts::explain(conn, organization_id, coupon_id, terms, at).await,
        None => store::discounts::give_up(conn, organization_id, coupon_id).await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(at: i64, object: Value) -> KnownDiscount {
        let discount = Discount::read(&object).unwrap();
        let at = Timestamp::from_second(at).unwrap();
        KnownDiscount::shown(Uuid::nil(), &discount, at)
    }

    #[test]
    fn what_is_known_does_not_depend_on_the_order_of_showing() {
        let coupon = |name: &str| {
            json!({"id": "SPRING", "name": name, "percent_off": 12.5, "duration": "repeating",
                   "duration_in_months": 3})
        };
        let mut deleted = shown(9, json!({"id": "di_1", "source": {"coupon": "SPRING"}}));
        deleted.deleted_at = Some(deleted.observed_at);
        let all = [
            shown(
                5,
                json!({"id": "di_1", "customer": "cus_1", "coupon": coupon("Old")}),
            ),
            shown(
                7,
                json!({"id": "di_1", "end": 99, "subscription": "sub_1",
                            "source": {"coupon": coupon("New")}}),
            ),
            shown(
                6,
                json!({"id": "di_1", "end": 50, "source": {"coupon": "SPRING"},
                            "promotion_code": {"id": "promo_1", "code": "SPRING25"}}),
            ),
            deleted,
        ];
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
        let merged = orders.map(|order| {
            let mut known = all[order[0]].clone();
            order[1..].iter().for_each(|n| known.merge(all[*n].clone()));
            known
        });
        for other in &merged[1..] {
            assert_eq!(other, &merged[0]);
        }
        let known = &merged[0];
        let terms = known.terms.as_ref().unwrap();
        assert_eq!(terms.name.as_deref(), Some("New"));
        assert_eq!(terms.percent_off.as_deref(), Some("12.5"));
        assert_eq!(known.discount.promotion_code.as_deref(), Some("SPRING25"));
        assert_eq!(known.discount.subscription_id.as_deref(), Some("sub_1"));
        assert!(known.deleted_at.is_some());
    }
}
