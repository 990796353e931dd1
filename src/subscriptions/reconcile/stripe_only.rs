//! Findings that follow from Stripe's state alone. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{BothSides, Drift, DriftKind};
use crate::catalogue::Catalogue;
use crate::stripe::objects::Subscription;
use billing_domain::status::SubscriptionStatus;

/// Whether it is or will be charged.
pub fn runs(subscription: &Subscription) -> bool {
    !subscription.status.is_ended() && subscription.status != SubscriptionStatus::Incomplete
}

/// Organizations that pay twice, for a plan or for usage, and those that pay for an
/// unknown plan.
pub fn of_subscriptions(
    catalogue: &Catalogue,
    subscriptions: &[(Uuid, Subscription)],
) -> Vec<Drift> {
    let mut drift = Vec::new();
    let mut by_organization = BTreeMap::<Uuid, Vec<&Subscription>>::new();
    for (organization_id, one) in subscriptions.iter().filter(|(_, one)| runs(one)) {
        by_organization
            .entry(*organization_id)
            .or_default()
            .push(one);
        drift.extend(double_meters(catalogue, *organization_id, one));
        if catalogue.plan_of(one).is_none() {
            let prices = unknown_prices(catalogue, one);
            drift.push(Drift::new(
                DriftKind::UnknownPrice,
                *organization_id,
                &one.id,
                vec![format!("not in the catalogue: {}", prices.join(", "))],
            ));
        }
    }
    for (organization_id, mut several) in by_organization {
        if several.len() < 2 {
            continue;
        }
        several.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let ids: Vec<&str> = several.iter().map(|one| one.id.as_str()).collect();
        let each = several.iter().map(|one| {
            let plan = catalogue.plan_of(one).map(|plan| plan.tier.as_str());
            format!("{}: {}, {}", one.id, one.status, plan.unwrap_or("no plan"))
        });
        drift.push(Drift::new(
            DriftKind::TwoSubscriptions,
            organization_id,
            ids.join(" "),
            each.collect(),
        ));
    }
    drift
}

/// The metrics whose usage several items bill.
fn double_meters(
    catalogue: &Catalogue,
    organization_id: Uuid,
    subscription: &Subscription,
) -> impl Iterator<Item = Drift> {
    let mut items = BTreeMap::<String, Vec<&str>>::new();
    for item in &subscription.items {
        let used = catalogue.item_use(item);
        if let Some(metric) = used.and_then(|used| used.metric) {
            items.entry(metric).or_default().push(&item.id);
        }
    }
    items.retain(|_, ids| ids.len() > 1);
    items.into_iter().map(move |(metric, mut ids)| {
        ids.sort_unstable();
        Drift::new(
            DriftKind::TwoMeteredItems,
            organization_id,
            &subscription.id,
            vec![format!("{metric}: {}", ids.join(", "))],
        )
    })
}

/// The prices that the catalogue does not know.
pub fn unknown_prices<'a>(catalogue: &Catalogue, subscription: &'a Subscription) -> Vec<&'a str> {
    let items = subscription.items.iter();
    let unknown: BTreeSet<&str> = items
        .filter(|item| !catalogue.knows_price(item.lookup_key.as_deref(), item.price_id.as_deref()))
        .filter_map(|item| item.price_id.as_deref())
        .collect();
    unknown.into_iter().collect()
}

/// The organization named in the metadata.
pub fn named(metadata: &Map<String, Value>, organizations: &BTreeSet<Uuid>) -> Option<Uuid> {
    ["organization_id", "tenant_id"]
        .iter()
        .filter_map(|key| metadata.get(*key)?.as_str()?.parse().ok())
        .find(|id| organizations.contains(id))
}

/// Customers in Stripe that name an organization which does not have them.
pub fn stray(both: &BothSides) -> impl Iterator<Item = Drift> {
    let strays = both.customers.iter().filter_map(|customer| {
        let organization = named(&customer.metadata, &both.organizations)?;
        let is_known = customer.deleted || both.owners.contains_key(&customer.id);
        (!is_known).then_some((customer, organization))
    });
    strays.map(|(customer, organization_id)| {
        Drift::new(
            DriftKind::StrayCustomer,
            organization_id,
            &customer.id,
            Vec::new(),
        )
    })
}
