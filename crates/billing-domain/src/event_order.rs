//! Which of two events about one object tells of its later state.
//!
//! Stripe delivers events late, twice and in any order; its ids do not sort,
//! and its times are whole seconds. The order here is total over any set of
//! events, so the newest of them is the same however they arrive.

use serde_json::{Map, Value};

/// Where an event stands among those of its object; greater is later.
///
/// A state that Stripe never leaves comes last whatever its time says. Within
/// one second, `rank` follows the object's life: created before updated, open
/// before paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub terminal: bool,
    /// Unix seconds.
    pub created: i64,
    pub rank: u8,
}

/// One of several events that share a place.
#[derive(Debug, Clone, Copy)]
pub struct Contender<'a> {
    pub event_id: &'a str,
    /// `data.object`.
    pub object: &'a Value,
    /// `data.previous_attributes`: what the event changed, as it was before.
    pub previous_attributes: Option<&'a Map<String, Value>>,
}

/// The index of the last of `contenders`, all of one place: the one that no
/// other follows; where that leaves several, the greatest event id.
///
/// # Panics
/// With no contenders.
pub fn last_of(contenders: &[Contender<'_>]) -> usize {
    let followed = |i: usize| {
        (0..contenders.len()).any(|j| {
            follows(&contenders[j], &contenders[i]) && !follows(&contenders[i], &contenders[j])
        })
    };
    let by_id = |i: &usize| contenders[*i].event_id;
    (0..contenders.len())
        .filter(|i| !followed(*i))
        .max_by_key(by_id)
        // Only a ring of changes leaves nobody.
        .or_else(|| (0..contenders.len()).max_by_key(by_id))
        .expect("there is at least one contender")
}

/// Whether `later` changed what `earlier` shows.
fn follows(later: &Contender<'_>, earlier: &Contender<'_>) -> bool {
    later.event_id != earlier.event_id
        && later
            .previous_attributes
            .is_some_and(|previous| !previous.is_empty() && shows(earlier.object, previous))
}

fn shows(object: &Value, attributes: &Map<String, Value>) -> bool {
    attributes
        .iter()
        .all(|(name, was)| match (object.get(name), was) {
            (None, was) => was.is_null(),
            // A changed hash lists only the keys that changed.
            (Some(now), Value::Object(was)) if now.is_object() => shows(now, was),
            (Some(now), was) => now == was,
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn place(terminal: bool, created: i64, rank: u8) -> Place {
        Place {
            terminal,
            created,
            rank,
        }
    }

    #[test]
    fn a_terminal_state_is_later_than_any_other() {
        assert!(place(true, 1, 0) > place(false, 2, 9));
        assert!(place(false, 2, 0) > place(false, 1, 9));
        assert!(place(false, 1, 1) > place(false, 1, 0));
    }

    /// A chain of changes within one second, as Stripe tells it.
    fn chain(steps: &[(&str, Value)]) -> Vec<(String, Value, Option<Map<String, Value>>)> {
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

    fn last_id(events: &[(String, Value, Option<Map<String, Value>>)]) -> String {
        let contenders: Vec<_> = events
            .iter()
            .map(|(id, object, previous)| Contender {
                event_id: id,
                object,
                previous_attributes: previous.as_ref(),
            })
            .collect();
        events[last_of(&contenders)].0.clone()
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
    fn without_a_chain_the_greatest_id_wins() {
        let (a, b) = (json!({"n": 1}), json!({"n": 2}));
        let contender = |event_id, object| Contender {
            event_id,
            object,
            previous_attributes: None,
        };
        assert_eq!(
            last_of(&[contender("evt_b", &a), contender("evt_a", &b)]),
            0
        );
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
    }
}
