//! The journal of recurring revenue: each organization's balance, and an entry for each change
//! of it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::history::{self, Booked, Point, Present, Shown, Step};
use super::store::journal::{self as store, Balance, Difference, NewMovement, ShownItem};
use crate::db::WorkerTx;
use crate::projection::{self, SubscriptionState};
use crate::stripe::objects::SubscriptionItem;

/// Time between runs.
pub const PERIOD: std::time::Duration = std::time::Duration::from_secs(15);

/// How far before the last run a run reads again: a transaction that was open then may have
/// committed since. None that writes subscriptions takes this long.
const OVERLAP: SignedDuration = SignedDuration::from_mins(5);
/// Every organization is compared this often, whatever was written.
const COMPARE_ALL: SignedDuration = SignedDuration::from_hours(24);
/// Organizations in one statement, which compares each of them with each.
const AT_ONCE: i64 = 250;
/// Organizations whose events are read at a time.
const READ_AT_ONCE: usize = 25;
/// Events that are read of a subscription whose revenue changed.
const DEPTH: i64 = 20;
/// The same where all is written anew.
const WHOLE_DEPTH: i64 = 500;

/// Books what changed since the last run. Returns how many movements that is; none while
/// another process books.
pub async fn run(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let Some(journal) = store::lock(tx.conn()).await? else {
        return Ok(0);
    };
    let compared = journal.compared_at;
    let compare_all = compared.is_none_or(|at| at + COMPARE_ALL <= journal.now);
    let mut movements = 0;
    match journal.ran_at.filter(|_| !compare_all) {
        Some(ran_at) => {
            let written = store::written_since(tx.conn(), ran_at - OVERLAP).await?;
            for some in written.chunks(usize::try_from(AT_ONCE).unwrap_or(250)) {
                movements += book(tx.conn(), some, DEPTH).await?;
            }
        }
        None => movements += book_all(tx.conn(), DEPTH).await?,
    }
    store::ran(tx.conn(), compare_all).await?;
    tx.commit().await?;
    Ok(movements)
}

/// Writes the journal anew from the stored events. Returns how many movements that is; `None`
/// while another process books.
pub async fn rebuild(pool: &PgPool) -> Result<Option<i64>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    if store::lock(tx.conn()).await?.is_none() {
        return Ok(None);
    }
    let mut after = Uuid::nil();
    while let Some(some) = some_after(tx.conn(), &mut after).await? {
        for few in some.chunks(READ_AT_ONCE) {
            projection::complete_terms(tx.conn(), few).await?;
        }
    }
    store::forget(tx.conn()).await?;
    let movements = book_all(tx.conn(), WHOLE_DEPTH).await?;
    store::ran(tx.conn(), true).await?;
    tx.commit().await?;
    tracing::info!(movements, "Revenue journal rebuilt");
    Ok(Some(movements))
}

async fn book_all(conn: &mut PgConnection, depth: i64) -> Result<i64, sqlx::Error> {
    let mut movements = 0;
    let mut after = Uuid::nil();
    while let Some(some) = some_after(conn, &mut after).await? {
        movements += book(conn, &some, depth).await?;
    }
    Ok(movements)
}

/// The next organizations, by id.
async fn some_after(
    conn: &mut PgConnection,
    after: &mut Uuid,
) -> Result<Option<Vec<Uuid>>, sqlx::Error> {
    let some = store::next(conn, *after, AT_ONCE).await?;
    let Some(last) = some.last() else {
        return Ok(None);
    };
    *after = *last;
    Ok(Some(some))
}

/// Brings the balances of organizations to what their subscriptions are now, and enters what
/// moved. Returns how many movements that is.
async fn book(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    depth: i64,
) -> Result<i64, sqlx::Error> {
    let differences = store::differences(conn, organizations).await?;
    let mut by_organization = BTreeMap::<Uuid, Vec<Difference>>::new();
    for difference in differences {
        let of = by_organization.entry(difference.organization_id);
        of.or_default().push(difference);
    }
    let moved: BTreeSet<Uuid> = by_organization
        .iter()
        .filter(|(_, all)| all.iter().any(|one| one.before != one.after))
        .map(|(organization, _)| *organization)
        .collect();
    let moved = Vec::from_iter(moved);
    let (mut movements, mut balances) = (Vec::new(), Vec::new());
    for few in moved.chunks(READ_AT_ONCE) {
        let histories = histories(conn, few, depth).await?;
        for organization in few {
            let Some(subscriptions) = histories.get(organization) else {
                continue;
            };
            let all = by_organization.remove(organization).unwrap_or_default();
            for one in all {
                settle(one, subscriptions, &mut movements, &mut balances);
            }
        }
    }
    // What moved nothing, but for what discounts are taken off.
    for one in by_organization.into_values().flatten() {
        if one.before == one.after {
            settle(one, &BTreeMap::new(), &mut movements, &mut balances);
        }
    }
    if !balances.is_empty() {
        store::enter(conn, &movements, &balances).await?;
    }
    Ok(i64::try_from(movements.len()).unwrap_or(i64::MAX))
}

/// The points of each subscription, by organization.
type Histories = BTreeMap<Uuid, BTreeMap<String, Vec<Point>>>;

/// What the subscriptions of organizations were, event by event, in what they come to a month.
async fn histories(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    depth: i64,
) -> Result<Histories, sqlx::Error> {
    let mut states = projection::subscription_states(conn, organizations, depth).await?;
    let all: Vec<(Uuid, &SubscriptionState)> = states
        .iter()
        .flat_map(|((organization, _), states)| states.iter().map(|state| (*organization, state)))
        .collect();
    let items: Vec<ShownItem<'_, SubscriptionItem>> = all
        .iter()
        .enumerate()
        .flat_map(|(n, (organization, state))| shown_items(n, *organization, state))
        .collect();
    let mut amounts = vec![history::Amounts::new(); all.len()];
    for (n, currency, amount) in store::priced(conn, &items).await? {
        if amount != 0 {
            amounts[n].insert(currency, amount);
        }
    }
    let mut amounts = amounts.into_iter();
    let mut shown = BTreeMap::new();
    // In the order in which they were numbered.
    for (key, states) in &mut states {
        let of_one: Vec<Shown> = states
            .drain(..)
            .zip(&mut amounts)
            .map(|(state, amounts)| shown_of(state, amounts))
            .collect();
        shown.insert(key.clone(), of_one);
    }
    let mut histories = Histories::new();
    for row in store::mirrored(conn, organizations).await? {
        let key = (row.organization_id, row.stripe_subscription_id);
        let states = shown.remove(&key).unwrap_or_default();
        let cut = i64::try_from(states.len()).is_ok_and(|read| read >= depth);
        let present = Present {
            event_id: row.last_event_id,
            at: row.last_event_at,
            began_at: row.began_at,
            amounts: row.amounts.into_iter().collect(),
        };
        let of_one = histories.entry(key.0).or_default();
        of_one.insert(key.1, history::points(states, cut, present));
    }
    Ok(histories)
}

fn shown_items(
    state: usize,
    organization_id: Uuid,
    shown: &SubscriptionState,
) -> impl Iterator<Item = ShownItem<'_, SubscriptionItem>> {
    let subscription = &shown.shown;
    subscription.items.iter().map(move |item| ShownItem {
        state,
        organization_id,
        stripe_subscription_id: &subscription.id,
        status: subscription.status.as_str(),
        collection_paused: subscription.collection_paused.as_deref(),
        taxed: subscription.taxed,
        subscription_currency: subscription.currency.as_deref(),
        item,
    })
}

fn shown_of(state: SubscriptionState, amounts: history::Amounts) -> Shown {
    Shown {
        event_id: state.event_id,
        at: state.at,
        status_before: state.status_before,
        status: state.shown.status.as_str().to_owned(),
        trial_end: state.shown.trial_end,
        created: state.shown.created,
        amounts,
    }
}

/// Enters what brings one balance to what is paid.
fn settle(
    one: Difference,
    subscriptions: &BTreeMap<String, Vec<Point>>,
    movements: &mut Vec<NewMovement>,
    balances: &mut Vec<Balance>,
) {
    let booked = Booked {
        before: one.before,
        after: one.after,
        at: one.booked_at,
    };
    let steps = match one.before == one.after {
        true => Vec::new(),
        false => history::steps(&one.currency, subscriptions, booked),
    };
    let Some(occurred_at) = steps.last().map(|step| step.at).or(one.booked_at) else {
        return;
    };
    let mut sequence = one.sequence;
    for step in steps {
        sequence += 1;
        movements.push(NewMovement {
            organization_id: one.organization_id,
            currency: one.currency.clone(),
            sequence,
            kind: kind(&step, sequence),
            before_amount: step.before,
            after_amount: step.after,
            occurred_at: step.at,
            stripe_subscription_id: step.subscription_id,
            stripe_event_id: step.event_id,
        });
    }
    balances.push(Balance {
        organization_id: one.organization_id,
        currency: one.currency,
        amount: one.after,
        discounted_amount: one.discounted,
        sequence,
        occurred_at,
    });
}

fn kind(step: &Step, sequence: i64) -> &'static str {
    match (step.before, step.after) {
        (0, _) if sequence == 1 => "new",
        (0, _) => "reactivation",
        (_, 0) => "churn",
        (before, after) if after > before => "expansion",
        _ => "contraction",
    }
}
