use super::*;
use proptest::prelude::*;
use serde_json::json;

fn order(terminal: bool, created: i64, rank: u8) -> EventOrder {
    EventOrder {
        terminal,
        created,
        rank,
    }
}

#[test]
fn a_terminal_state_is_later_than_any_other() {
    assert!(order(true, 1, 0) > order(false, 2, 9));
    assert!(order(false, 2, 0) > order(false, 1, 9));
    assert!(order(false, 1, 1) > order(false, 1, 0));
}

/// One of several events with the same order.
#[derive(Debug, Clone, Copy)]
struct Contender<'a> {
    event_id: &'a str,
    /// `data.object`.
    object: &'a Value,
    /// `data.previous_attributes`: the old values of what the event changed.
    previous_attributes: Option<&'a Map<String, Value>>,
}

/// The rule itself, without caching: the index of the latest event.
///
/// # Panics
/// With no contenders.
fn last_of(contenders: &[Contender<'_>]) -> usize {
    let by_id = |i: &usize| contenders[*i].event_id;
    if let Some(end) = end_of_chain(contenders) {
        let shows_end = |i: &usize| without_nulls(contenders[*i].object) == end;
        let last = (0..contenders.len()).filter(shows_end).max_by_key(by_id);
        return last.expect("a chain ends with one of its changes");
    }
    let followed = |i: usize| {
        (0..contenders.len()).any(|j| {
            follows(&contenders[j], &contenders[i]) && !follows(&contenders[i], &contenders[j])
        })
    };
    (0..contenders.len())
        .filter(|i| !followed(*i))
        .max_by_key(by_id)
        // Every event is followed only if the changes form a cycle.
        .or_else(|| (0..contenders.len()).max_by_key(by_id))
        .expect("there is at least one contender")
}

/// The state in which the chain of changes ends; `None` if changes are missing
/// or the chain is a cycle.
fn end_of_chain(contenders: &[Contender<'_>]) -> Option<Value> {
    // How many more times each state was entered than left.
    let mut balances: Vec<(Value, i32)> = Vec::new();
    let mut count =
        |state: Value, by: i32| match balances.iter_mut().find(|(known, _)| *known == state) {
            Some((_, balance)) => *balance += by,
            None => balances.push((state, by)),
        };
    for contender in contenders {
        let after = without_nulls(contender.object);
        if let Some(changed) = contender.previous_attributes.filter(|p| !p.is_empty()) {
            count(before(&after, changed), -1);
            count(after, 1);
        }
    }
    // An event without changes must show one of the states of the chain.
    let is_linked = |contender: &Contender<'_>| {
        let state = without_nulls(contender.object);
        balances.iter().any(|(known, _)| *known == state)
    };
    if !contenders.iter().all(is_linked) {
        return None;
    }
    let mut ends = balances.into_iter().filter(|(_, balance)| *balance > 0);
    match (ends.next(), ends.next()) {
        (Some((end, _)), None) => Some(end),
        _ => None,
    }
}

/// Whether `later` changed the state that `earlier` shows.
fn follows(later: &Contender<'_>, earlier: &Contender<'_>) -> bool {
    later.event_id != earlier.event_id
        && later
            .previous_attributes
            .is_some_and(|previous| !previous.is_empty() && shows(earlier.object, previous))
}

/// The id, object and previous attributes of an event.
type Told = (String, Value, Option<Map<String, Value>>);

/// A chain of changes within one second, as Stripe would send it.
fn chain(steps: &[(&str, Value)]) -> Vec<Told> {
    let mut object = json!({"status": "incomplete", "seats": 1, "metadata": {"a": "1"}});
    steps
        .iter()
        .map(|(id, change)| {
            let mut previous = Map::new();
            for (key, value) in change.as_object().expect("changes are objects") {
                previous.insert(key.clone(), object[key].clone());
                object[key] = value.clone();
            }
            let previous = (!previous.is_empty()).then_some(previous);
            ((*id).to_owned(), object.clone(), previous)
        })
        .collect()
}

/// The latest of `events`, on which the cached result and the rule agree.
fn last_id(events: &[Told]) -> String {
    let contenders: Vec<_> = events
        .iter()
        .map(|(id, object, previous)| Contender {
            event_id: id,
            object,
            previous_attributes: previous.as_ref(),
        })
        .collect();
    let last = &events[last_of(&contenders)].0;
    let mut tie_breaker = TieBreaker::default();
    for (id, object, previous) in events {
        tie_breaker.put(
            id.clone(),
            Digest::of(object),
            previous.as_ref().map(Digest::of_attributes),
        );
    }
    assert_eq!(&events[tie_breaker.last()].0, last);
    last.clone()
}

fn is_decided(events: &[Told]) -> bool {
    let mut tie_breaker = TieBreaker::default();
    for (id, object, previous) in events {
        tie_breaker.put(
            id.clone(),
            Digest::of(object),
            previous.as_ref().map(Digest::of_attributes),
        );
    }
    tie_breaker.is_decided()
}

#[test]
fn is_decided_unless_only_the_ids_tell_events_apart() {
    let there = [
        ("evt_z", json!({"status": "active"})),
        ("evt_y", json!({"seats": 5})),
        ("evt_a", json!({"status": "past_due"})),
    ];
    let there = chain(&there);
    assert!(is_decided(&there));
    assert!(is_decided(&there[..1]));
    // The change in between is missing, but the last event changed what the
    // first one shows.
    assert!(is_decided(&[there[0].clone(), there[2].clone()]));
    // Two states and no change between them.
    let snapshot = |(id, object, _): &(String, Value, _)| (id.clone(), object.clone(), None);
    assert!(!is_decided(&[snapshot(&there[0]), snapshot(&there[2])]));
    let and_back = chain(&[
        ("evt_z", json!({"status": "active"})),
        ("evt_a", json!({"status": "incomplete"})),
    ]);
    assert!(!is_decided(&and_back));
    // Both events show the same state, so either may be the latest.
    let mut twice = vec![there[0].clone(), there[0].clone()];
    twice[1].0 = "evt_b".to_owned();
    assert!(is_decided(&twice));
}

#[test]
fn the_chain_of_previous_attributes_beats_event_ids() {
    let events = chain(&[
        ("evt_z", json!({})),
        ("evt_y", json!({"status": "active"})),
        ("evt_a", json!({"seats": 5})),
    ]);
    assert_eq!(last_id(&events), "evt_a");
}

#[test]
fn a_chain_may_pass_through_the_same_state_twice() {
    let events = chain(&[
        ("evt_a", json!({"seats": 2})),
        ("evt_z", json!({"seats": 1})),
        ("evt_c", json!({"metadata": {"a": "1", "b": "2"}})),
        ("evt_b", json!({"seats": 2, "status": "active"})),
        ("evt_y", json!({"seats": 1})),
        ("evt_d", json!({"seats": 2})),
    ]);
    assert_eq!(last_id(&events[..3]), "evt_c");
    assert_eq!(last_id(&events[..5]), "evt_y");
    assert!(["evt_b", "evt_d"].contains(&last_id(&events).as_str()));
}

#[test]
fn a_snapshot_beside_a_chain_does_not_hide_its_end() {
    let mut events = chain(&[
        ("evt_b", json!({"seats": 2})),
        ("evt_c", json!({})),
        ("evt_a", json!({"seats": 3})),
    ]);
    assert_eq!(last_id(&events), "evt_a");
    // Without the change in between, only the id can decide.
    events.push(("evt_d".to_owned(), json!({"seats": 9}), None));
    assert_eq!(last_id(&events), "evt_d");
}

#[test]
fn without_a_chain_the_greatest_id_wins() {
    let told = |id: &str, n: i64| (id.to_owned(), json!({"n": n}), None);
    assert_eq!(last_id(&[told("evt_b", 1), told("evt_a", 2)]), "evt_b");
}

proptest! {
    #[test]
    fn any_arrival_order_has_the_same_last(
        changes in prop::collection::vec((0_u8..3, 0_i64..4), 1..6),
        order in any::<prop::sample::Index>(),
    ) {
        let names = ["status", "seats", "metadata"];
        let steps: Vec<(String, Value)> = changes
            .iter()
            .enumerate()
            .map(|(i, (key, value))| (format!("evt_{}", (i * 7) % 11), json!({names[usize::from(*key)]: value})))
            .collect();
        let steps: Vec<(&str, Value)> = steps.iter().map(|(id, v)| (id.as_str(), v.clone())).collect();
        let mut events = chain(&steps);
        let expected = last_id(&events);
        let middle = order.index(events.len());
        events.rotate_left(middle);
        prop_assert_eq!(last_id(&events), expected.clone());
        events.reverse();
        prop_assert_eq!(last_id(&events), expected);
    }

    /// Some changes are missing, some are repeated, and some are undone.
    #[test]
    fn the_cached_result_matches_the_rule_after_each_event(
        told in prop::collection::vec((0_u8..3, 0_i64..3, 0_u8..4, 0_i64..3, any::<bool>()), 1..12),
    ) {
        let names = ["status", "seats", "metadata"];
        let value = |key: u8, value: i64| match (key, value) {
            (2, value) => json!({"a": value, "b": null}),
            (_, 0) => Value::Null,
            (_, value) => json!(value),
        };
        let events = told.iter().enumerate().map(|(n, (key, now, of, was, again))| {
            let mut object = json!({"status": 1, "seats": 1, "metadata": {"a": 1}});
            object[names[usize::from(*key)]] = value(*key, *now);
            let previous = names.get(usize::from(*of)).map(|name| {
                Map::from_iter([((*name).to_owned(), value(*of, *was))])
            });
            // Some events arrive again with different content.
            let id = if *again { n / 2 } else { (n * 7) % 11 };
            (format!("evt_{id:02}"), object, previous)
        });
        let mut tie_breaker = TieBreaker::default();
        let mut known: Vec<Told> = Vec::new();
        for (id, object, previous) in events {
            prop_assert_eq!(tie_breaker.contains(&id), known.iter().any(|(other, ..)| *other == id));
            tie_breaker.put(id.clone(), Digest::of(&object), previous.as_ref().map(Digest::of_attributes));
            match known.iter_mut().find(|(known, ..)| *known == id) {
                Some(same) => *same = (id, object, previous),
                None => known.push((id, object, previous)),
            }
            let contenders: Vec<_> = known
                .iter()
                .map(|(event_id, object, previous)| Contender {
                    event_id,
                    object,
                    previous_attributes: previous.as_ref(),
                })
                .collect();
            prop_assert_eq!(tie_breaker.last(), last_of(&contenders));
        }
    }
}
