//! Which of several running subscriptions stays. Pure.

use std::cmp::Reverse;

use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde::Serialize;

/// A running subscription, as Stripe shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub stripe_subscription_id: String,
    pub stripe_customer_id: String,
    pub status: SubscriptionStatus,
    /// Null if the catalogue has none of its prices.
    pub plan_tier: Option<String>,
    /// The plan's place in the catalogue: higher plans have higher ones.
    #[serde(skip)]
    pub rank: Option<usize>,
    /// Whether this service has made or changed it.
    pub made_here: bool,
    pub created_at: Option<Timestamp>,
    /// The invoice that its last period was billed by.
    #[serde(skip)]
    pub latest_invoice_id: Option<String>,
    /// Whether it has prices that bill usage.
    #[serde(skip)]
    pub bills_usage: bool,
}

/// Why one stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    Named,
    InForce,
    HigherPlan,
    MadeHere,
    BeganFirst,
}

impl Reason {
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Named => "--keep names it",
            Self::InForce => "it is paid for, and the others are not",
            Self::HigherPlan => "its plan is the highest",
            Self::MadeHere => "it was made or changed here, and the others were not",
            Self::BeganFirst => "it began first",
        }
    }
}

/// What has been decided about several.
#[derive(Debug, Clone)]
pub struct Choice {
    pub stays: Running,
    pub because: Reason,
    /// Oldest first.
    pub ends: Vec<Running>,
}

/// What comes of looking at several.
#[derive(Debug, Clone)]
pub enum Verdict {
    Chosen(Choice),
    /// Nobody but an operator can tell, since the catalogue does not know what one of them is
    /// for. Oldest first.
    Undecided(Vec<Running>),
}

/// Decides, and says by what; `None` if there is nothing to decide, or if `keep` is none of
/// them.
pub fn choose(mut running: Vec<Running>, keep: Option<&str>) -> Option<Verdict> {
    running.sort_by_cached_key(|one| (one.created_at, one.stripe_subscription_id.clone()));
    if running.len() < 2 {
        return None;
    }
    if keep.is_none() && is_uncertain(&running) {
        return Some(Verdict::Undecided(running));
    }
    let best = match keep {
        Some(keep) => running
            .iter()
            .position(|one| one.stripe_subscription_id == keep)?,
        // The first of equals, which is the oldest.
        None => (0..running.len()).max_by_key(|at| (merits(&running[*at]), Reverse(*at)))?,
    };
    let stays = running.remove(best);
    let rival = running.iter().map(merits).max()?;
    let because = match keep {
        Some(_) => Reason::Named,
        None => advantage(merits(&stays), rival),
    };
    Some(Verdict::Chosen(Choice {
        stays,
        because,
        ends: running,
    }))
}

/// Whether one of those that are paid for best has a plan that the catalogue does not know:
/// it may be higher or lower than any other's.
fn is_uncertain(running: &[Running]) -> bool {
    let best = running.iter().map(paid).max();
    let mut best = running.iter().filter(|one| Some(paid(one)) == best);
    let unknown = best.clone().any(|one| one.rank.is_none());
    unknown && best.nth(1).is_some()
}

/// What counts, before the age: whether it is paid for, how high its plan is, whether it is
/// ours.
type Merits = (u8, Option<usize>, bool);

fn merits(one: &Running) -> Merits {
    (paid(one), one.rank, one.made_here)
}

const fn paid(one: &Running) -> u8 {
    match one.status {
        SubscriptionStatus::Active | SubscriptionStatus::Trialing => 2,
        SubscriptionStatus::PastDue => 1,
        _ => 0,
    }
}

fn advantage(of: Merits, over: Merits) -> Reason {
    match (of.0 == over.0, of.1 == over.1, of.2 == over.2) {
        (false, ..) => Reason::InForce,
        (true, false, _) => Reason::HigherPlan,
        (true, true, false) => Reason::MadeHere,
        (true, true, true) => Reason::BeganFirst,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(id: &str, status: &str, rank: Option<usize>, made_here: bool, at: i64) -> Running {
        Running {
            stripe_subscription_id: id.to_owned(),
            stripe_customer_id: "cus_1".to_owned(),
            status: SubscriptionStatus::from(status),
            plan_tier: None,
            rank,
            made_here,
            created_at: Timestamp::from_second(at).ok(),
            latest_invoice_id: None,
            bills_usage: false,
        }
    }

    #[track_caller]
    fn chosen(several: Vec<Running>, keep: Option<&str>) -> Choice {
        match choose(several, keep) {
            Some(Verdict::Chosen(choice)) => choice,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn stays(several: [Running; 2], id: &str, because: Reason) {
        let mut turned = several.clone();
        turned.reverse();
        for several in [several, turned] {
            let choice = chosen(several.into(), None);
            assert_eq!(choice.stays.stripe_subscription_id, id);
            assert_eq!(choice.because, because);
            assert_eq!(choice.ends.len(), 1);
        }
    }

    #[test]
    fn payment_counts_before_plan_before_origin_before_age() {
        let old = |status, rank, here| running("old", status, rank, here, 1);
        let new = |status, rank, here| running("new", status, rank, here, 2);
        let in_force = [
            old("past_due", Some(2), true),
            new("active", Some(1), false),
        ];
        stays(in_force, "new", Reason::InForce);
        let higher = [
            old("active", Some(1), true),
            new("trialing", Some(2), false),
        ];
        stays(higher, "new", Reason::HigherPlan);
        let in_force = [old("past_due", None, true), new("active", Some(0), false)];
        stays(in_force, "new", Reason::InForce);
        let ours = [old("active", Some(1), false), new("active", Some(1), true)];
        stays(ours, "new", Reason::MadeHere);
        let first = [old("active", Some(1), true), new("active", Some(1), true)];
        stays(first, "old", Reason::BeganFirst);
    }

    #[test]
    fn of_a_plan_that_the_catalogue_does_not_know_only_an_operator_can_tell() {
        for (unknown, known) in [("active", "active"), ("trialing", "active")] {
            let several = vec![
                running("old", known, Some(3), true, 1),
                running("new", unknown, None, false, 2),
            ];
            let verdict = choose(several.clone(), None);
            assert!(
                matches!(&verdict, Some(Verdict::Undecided(all)) if all.len() == 2),
                "{verdict:?}"
            );
            let named = chosen(several, Some("old"));
            assert_eq!(named.because, Reason::Named);
        }
    }

    #[test]
    fn the_one_that_is_named_stays_and_one_alone_is_left_alone() {
        let several = vec![
            running("old", "active", Some(1), true, 1),
            running("new", "unpaid", None, false, 2),
        ];
        let choice = chosen(several.clone(), Some("new"));
        assert_eq!(choice.stays.stripe_subscription_id, "new");
        assert_eq!(choice.because, Reason::Named);
        assert!(choose(several.clone(), Some("another")).is_none());
        assert!(choose(several[..1].to_vec(), None).is_none());
    }
}
