//! Whose billing periods a batch changes, and with them the periods that usage
//! counts in.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::subscription::grants_plan;
use uuid::Uuid;

use super::fold::Key;
use super::subscription::{Change, StoredSubscription};
use crate::plans::Catalogue;
use crate::usage::Renewed;

/// The subscriptions whose next period begins.
pub fn renewed(
    catalogue: &Catalogue,
    stored: &BTreeMap<Key, StoredSubscription>,
    changes: &[Change],
) -> Vec<Renewed> {
    let renewed = changes.iter().filter_map(|change| {
        let new = &change.folded.snapshot;
        let key = (change.folded.organization_id, new.id.clone());
        let (known, _) = stored.get(&key)?.period;
        let (start, _) = catalogue.period_of(new);
        let start = start.filter(|start| known.is_some_and(|known| known < *start))?;
        Some(Renewed {
            organization_id: key.0,
            subscription_id: key.1,
            start,
        })
    });
    renewed.collect()
}

/// The organizations whose usage may count in another period than before.
pub fn moved(
    catalogue: &Catalogue,
    stored: &BTreeMap<Key, StoredSubscription>,
    changes: &[Change],
) -> Vec<Uuid> {
    let differs = |change: &&Change| {
        let new = &change.folded.snapshot;
        let key = (change.folded.organization_id, new.id.clone());
        stored.get(&key).is_none_or(|old| {
            old.period != catalogue.period_of(new)
                || grants_plan(&old.status) != grants_plan(&change.status)
        })
    };
    let organizations = changes.iter().filter(differs);
    let organizations: BTreeSet<Uuid> = organizations
        .map(|change| change.folded.organization_id)
        .collect();
    organizations.into_iter().collect()
}
