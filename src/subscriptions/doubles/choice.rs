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

/// Decides, and says by what; `None` if there is nothing to decide, or if `keep` is none of
/// them.
pub fn choose(mut running: Vec<Running>, keep: Option<&str>) -> Option<Choice> {
    running.sort_by_cached_key(|one| (one.created_at, one.stripe_subscription_id.clone()));
    if running.len() < 2 {
        return None;
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
    Some(Choice {
        stays,
        because,
        ends: running,
    })
}

/// What counts, before the age: whether it is paid for, how high its plan is, whether it is
/// ours.
type Merits = (u8, Option<usize>, bool);

fn merits(one: &Running) -> Merits {
    let paid = match one.status {
        SubscriptionStatus::Active | SubscriptionStatus::Trialing => 2,
        SubscriptionStatus::PastDue => 1,
        _ => 0,
    };
    (paid, one.rank, one.made_here)
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
    fn stays(several: [Running; 2], id: &str, because: Reason) {
        let mut turned = several.clone();
        turned.reverse();
        for several in [several, turned] {
            let choice = choose(several.into(), None).unwrap();
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
        let known = [old("active", None, true), new("active", Some(0), false)];
        stays(known, "new", Reason::HigherPlan);
        let ours = [old("active", Some(1), false), new("active", Some(1), true)];
        stays(ours, "new", Reason::MadeHere);
        let first = [old("active", Some(1), true), new("active", Some(1), true)];
        stays(first, "old", Reason::BeganFirst);
    }

    #[test]
    fn the_one_that_is_named_stays_and_one_alone_is_left_alone() {
        let several = vec![
            running("old", "active", Some(1), true, 1),
            running("new", "unpaid", None, false, 2),
        ];
        let choice = choose(several.clone(), Some("new")).unwrap();
        assert_eq!(choice.stays.stripe_subscription_id, "new");
        assert_eq!(choice.because, Reason::Named);
        assert!(choose(several.clone(), Some("another")).is_none());
        assert!(choose(several[..1].to_vec(), None).is_none());
    }
}
