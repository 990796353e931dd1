//! When what an organization pays a month changed, and by what: decided from the states that
//! events show, and from the mirror where it knows better.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Changes within this time are one: a plan that is changed by ending one subscription and
/// beginning another is neither lost nor won.
const AT_ONCE: SignedDuration = SignedDuration::from_mins(1);

/// What a subscription comes to a month, by currency. Currencies of zero are not in it.
pub type Amounts = BTreeMap<String, i64>;

/// A state of a subscription: from when on it held, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub at: Timestamp,
    pub event_id: String,
    pub amounts: Amounts,
}

/// A subscription as an event shows it.
pub struct Shown {
    pub event_id: String,
    /// When the event took place.
    pub at: Timestamp,
    pub status_before: Option<String>,
    pub status: String,
    pub trial_end: Option<Timestamp>,
    pub created: Option<Timestamp>,
    pub amounts: Amounts,
}

/// The mirror's last word on a subscription.
pub struct Present {
    pub event_id: String,
    pub at: Timestamp,
    /// When it began to be paid for, if nothing else is known.
    pub began_at: Timestamp,
    pub amounts: Amounts,
}

/// The points of a subscription, from its states in the order of their events; `cut`: earlier
/// ones were not read.
pub fn points(states: Vec<Shown>, cut: bool, present: Present) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    let mut status: Option<String> = None;
    for state in states {
        let before = state.status_before.clone().or(status);
        let at = match points.is_empty() && cut {
            true => present.began_at.min(state.at),
            false => began(&state, before.as_deref(), points.last()),
        };
        status = Some(state.status);
        points.push(Point {
            at: points.last().map_or(at, |last| at.max(last.at)),
            event_id: state.event_id,
            amounts: state.amounts,
        });
    }
    let known = points.last().map(|last| (&last.amounts, last.at));
    let at = match known {
        Some((amounts, _)) if *amounts == present.amounts => return points,
        // An answer of Stripe's, or an event that is not stored any more.
        Some((_, at)) => present.at.max(at),
        None => present.began_at,
    };
    points.push(Point {
        at,
        event_id: present.event_id,
        amounts: present.amounts,
    });
    points
}

/// From when on the state held that an event shows.
fn began(state: &Shown, status_before: Option<&str>, earlier: Option<&Point>) -> Timestamp {
    let trial_end = state.trial_end.filter(|end| *end <= state.at);
    match (status_before, trial_end) {
        // A trial ends at its end, and the event says so a little later.
        (Some("trialing"), Some(end)) if state.status != "trialing" => end,
        (Some(before), _) if before != state.status => state.at,
        // The first that is known of it, and it does not say that it changed something: it has
        // been so since its beginning.
        _ if earlier.is_none() => {
            let since = trial_end.or(state.created);
            since.map_or(state.at, |since| since.min(state.at))
        }
        _ => state.at,
    }
}

/// A change of what an organization pays a month in a currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub at: Timestamp,
    pub subscription_id: String,
    pub event_id: String,
    pub before: i64,
    pub after: i64,
}

/// What is booked of a currency, and what its subscriptions come to now.
#[derive(Debug, Clone, Copy)]
pub struct Booked {
    pub before: i64,
    pub after: i64,
    pub at: Option<Timestamp>,
}

/// The movements from what is booked to what is paid now. None is before the movement that
/// precedes it, and what is known of the time before is not booked again.
pub fn steps(
    currency: &str,
    subscriptions: &BTreeMap<String, Vec<Point>>,
    booked: Booked,
) -> Vec<Step> {
    let mut order: Vec<(Timestamp, &String, usize)> = subscriptions
        .iter()
        .flat_map(|(id, points)| {
            let points = points.iter().enumerate();
            points.map(move |(n, point)| (point.at, id, n))
        })
        .collect();
    order.sort();
    let mut paid: BTreeMap<&str, i64> = BTreeMap::new();
    let mut steps: Vec<Step> = Vec::new();
    let mut balance = booked.before;
    // The last point that changed the sum: the cause of what cannot be dated by itself.
    let mut cause = None;
    for (at, id, n) in order {
        let point = &subscriptions[id][n];
        let amount = point.amounts.get(currency).copied().unwrap_or(0);
        let was = paid.insert(id, amount).unwrap_or(0);
        if was == amount && cause.is_some() {
            continue;
        }
        cause = Some((at, id, point));
        let sum: i64 = paid.values().sum();
        let is_news = booked.at.is_none_or(|before| at > before);
        if !is_news || sum == balance {
            continue;
        }
        step(&mut steps, (at, id, point), balance, sum);
        balance = sum;
    }
    if let Some((at, id, point)) = cause.filter(|_| balance != booked.after) {
        let last = steps.last().map(|step| step.at).or(booked.at);
        let at = last.map_or(at, |last| at.max(last));
        step(&mut steps, (at, id, point), balance, booked.after);
    }
    steps.retain(|step| step.before != step.after);
    steps
}

/// Adds a step, or prolongs the last one if that was just now.
fn step(
    steps: &mut Vec<Step>,
    (at, id, point): (Timestamp, &String, &Point),
    before: i64,
    after: i64,
) {
    match steps.last_mut() {
        Some(last) if at.duration_since(last.at) < AT_ONCE => {
            last.after = after;
            last.at = at;
            last.subscription_id.clone_from(id);
            last.event_id.clone_from(&point.event_id);
        }
        _ => steps.push(Step {
            at,
            subscription_id: id.clone(),
            event_id: point.event_id.clone(),
            before,
            after,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + day * 86_400).unwrap()
    }

    fn pays(amount: i64) -> Amounts {
        [("usd".to_owned(), amount)].into_iter().collect()
    }

    fn shown(event: &str, day: i64, status: &str, amount: i64) -> Shown {
        Shown {
            event_id: event.to_owned(),
            at: at(day),
            status_before: None,
            status: status.to_owned(),
            trial_end: None,
            created: Some(at(0)),
            amounts: if amount == 0 {
                Amounts::new()
            } else {
                pays(amount)
            },
        }
    }

    fn present(event: &str, day: i64, amounts: Amounts) -> Present {
        Present {
            event_id: event.to_owned(),
            at: at(day),
            began_at: at(0),
            amounts,
        }
    }

    fn told(steps: &[Step]) -> Vec<(Timestamp, &str, i64, i64)> {
        let steps = steps.iter();
        steps
            .map(|step| (step.at, step.event_id.as_str(), step.before, step.after))
            .collect()
    }

    const NOTHING: Booked = Booked {
        before: 0,
        after: 0,
        at: None,
    };

    #[test]
    fn what_was_not_paid_for_at_first_is_new_when_it_is() {
        for status in ["incomplete", "trialing", "paused", "active"] {
            let states = vec![shown("e1", 0, status, 0), shown("e2", 40, "active", 100)];
            let points = points(states, false, present("e2", 40, pays(100)));
            let all = [("sub".to_owned(), points)].into();
            let booked = Booked {
                after: 100,
                ..NOTHING
            };
            let steps = steps("usd", &all, booked);
            assert_eq!(told(&steps), [(at(40), "e2", 0, 100)], "{status}");
        }
    }

    #[test]
    fn the_event_says_what_was_before_if_nothing_else_does() {
        let mut first = shown("e2", 40, "active", 100);
        let dated = |first: Shown| {
            let points = points(vec![first], false, present("e2", 40, pays(100)));
            points[0].at
        };
        first.status_before = Some("incomplete".to_owned());
        assert_eq!(dated(first), at(40));
        let mut trial = shown("e2", 40, "active", 100);
        trial.status_before = Some("trialing".to_owned());
        trial.trial_end = Some(at(39));
        assert_eq!(dated(trial), at(39));
        assert_eq!(dated(shown("e2", 40, "active", 100)), at(0));
    }

    #[test]
    fn a_movement_has_the_time_of_its_cause_and_not_of_what_came_later() {
        let grows = points(
            vec![
                shown("a1", 1, "active", 100),
                shown("a2", 10, "active", 200),
                shown("a3", 50, "active", 200),
            ],
            false,
            present("a3", 50, pays(200)),
        );
        let stays = points(
            vec![shown("b1", 2, "active", 50), shown("b2", 60, "active", 50)],
            false,
            present("b2", 60, pays(50)),
        );
        let all = [("a".to_owned(), grows), ("b".to_owned(), stays)].into();
        let booked = Booked {
            before: 150,
            after: 250,
            at: Some(at(0)),
        };
        let steps = steps("usd", &all, booked);
        assert_eq!(told(&steps), [(at(10), "a2", 150, 250)]);
        assert_eq!(steps[0].subscription_id, "a");
    }

    #[test]
    fn what_stripe_answered_is_known_from_the_mirror() {
        let states = vec![shown("e1", 1, "active", 100)];
        let answered = points(states, false, present("request:1", 9, pays(300)));
        let all = [("sub".to_owned(), answered)].into();
        let booked = Booked {
            before: 100,
            after: 300,
            at: Some(at(0)),
        };
        assert_eq!(
            told(&steps("usd", &all, booked)),
            [(at(9), "request:1", 100, 300)]
        );
        let imported = points(Vec::new(), false, present("import", 9, pays(300)));
        assert_eq!(imported[0].at, at(0));
    }

    #[test]
    fn nothing_is_dated_before_the_movement_that_precedes_it() {
        let states = vec![shown("e1", 0, "active", 100), shown("e2", 5, "active", 0)];
        let points = points(states, false, present("e2", 5, Amounts::new()));
        let all = [("sub".to_owned(), points)].into();
        let booked = Booked {
            before: 100,
            after: 0,
            at: Some(at(20)),
        };
        assert_eq!(told(&steps("usd", &all, booked)), [(at(20), "e2", 100, 0)]);
    }

    #[test]
    fn a_change_by_two_subscriptions_at_once_is_one_movement() {
        let ends = points(
            vec![shown("a1", 0, "active", 100), shown("a2", 7, "canceled", 0)],
            false,
            present("a2", 7, Amounts::new()),
        );
        let mut begins = shown("b1", 7, "active", 300);
        begins.created = Some(at(7) + SignedDuration::from_secs(2));
        begins.at = at(7) + SignedDuration::from_secs(2);
        let begins = points(vec![begins], false, present("b1", 7, pays(300)));
        let all = [("a".to_owned(), ends), ("b".to_owned(), begins)].into();
        let booked = Booked {
            before: 100,
            after: 300,
            at: Some(at(0)),
        };
        let steps = steps("usd", &all, booked);
        assert_eq!(steps.len(), 1);
        assert_eq!((steps[0].before, steps[0].after), (100, 300));
    }

    #[test]
    fn a_history_that_is_cut_begins_with_its_subscription() {
        let long = vec![
            shown("a9", 30, "active", 100),
            shown("a10", 40, "active", 100),
        ];
        let long = points(long, true, present("a10", 40, pays(100)));
        let grows = points(
            vec![shown("b1", 0, "active", 50), shown("b2", 20, "active", 80)],
            false,
            present("b2", 20, pays(80)),
        );
        let all = [("a".to_owned(), long), ("b".to_owned(), grows)].into();
        let booked = Booked {
            before: 150,
            after: 180,
            at: Some(at(1)),
        };
        assert_eq!(
            told(&steps("usd", &all, booked)),
            [(at(20), "b2", 150, 180)]
        );
    }
}
