//! The last of the events that share a place, kept up to date as they come:
//! each is read once, however many there are.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash as _, Hasher};

use serde_json::{Map, Value};

use super::{before, shows, without_nulls};

/// A state of an object, as far as two of them must be told apart: 128 bits of
/// its content, attributes that are null left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State(u64, u64);

/// Events about one object that share a place, and which of them is the last.
///
/// Their changes are a chain: it is the one that shows the state in which the
/// chain ends. Where changes are missing, it is the one that no other follows;
/// where that leaves several, the greatest event id.
#[derive(Debug, Default)]
pub struct Contest {
    members: Vec<Member>,
    by_id: BTreeMap<String, usize>,
    /// How much more often each state was entered than left.
    balances: HashMap<State, i32>,
    /// The states that were entered more often than left.
    ends: HashSet<State>,
    /// States of events that name no change, and that no change leads to or from.
    unlinked: HashSet<State>,
    /// The greatest id that shows each state.
    showing: HashMap<State, usize>,
    /// Those that name a change.
    changes: Vec<usize>,
    /// Those that no other follows, among the first `compared`.
    unfollowed: BTreeMap<String, usize>,
    compared: usize,
}

#[derive(Debug)]
struct Member {
    event_id: String,
    /// `data.object`.
    object: Value,
    /// `data.previous_attributes`: what the event changed, as it was before.
    /// None: it names no change.
    changed: Option<Map<String, Value>>,
}

impl Contest {
    /// Whether the event was put in.
    pub fn contains(&self, event_id: &str) -> bool {
        self.by_id.contains_key(event_id)
    }

    /// The id of the event that was put in at this position.
    pub fn event_id(&self, at: usize) -> &str {
        &self.members[at].event_id
    }

    /// Takes in an event, and returns its position: one that is there already
    /// takes its own.
    pub fn put(
        &mut self,
        event_id: String,
        object: Value,
        changed: Option<Map<String, Value>>,
    ) -> usize {
        let member = Member {
            event_id,
            object,
            changed: changed.filter(|changed| !changed.is_empty()),
        };
        let Some(at) = self.by_id.get(&member.event_id).copied() else {
            self.add(member);
            return self.members.len() - 1;
        };
        let known = &self.members[at];
        if known.object != member.object || known.changed != member.changed {
            let mut members = std::mem::take(self).members;
            members[at] = member;
            members.into_iter().for_each(|member| self.add(member));
        }
        at
    }

    fn add(&mut self, member: Member) {
        let at = self.members.len();
        let after = state_of(&member.object);
        if let Some(changed) = &member.changed {
            let earlier = state_of(&before(&without_nulls(&member.object), changed));
            self.count(earlier, -1);
            self.count(after, 1);
            self.changes.push(at);
        } else if !self.balances.contains_key(&after) {
            // An event that names no change must be one of the states between.
            self.unlinked.insert(after);
        }
        let members = &self.members;
        match self.showing.entry(after) {
            Entry::Occupied(mut known) if members[*known.get()].event_id < member.event_id => {
                known.insert(at);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(free) => {
                free.insert(at);
            }
        }
        self.by_id.insert(member.event_id.clone(), at);
        self.members.push(member);
    }

    fn count(&mut self, state: State, by: i32) {
        self.unlinked.remove(&state);
        let balance = self.balances.entry(state).or_default();
        *balance += by;
        if *balance > 0 {
            self.ends.insert(state);
        } else {
            self.ends.remove(&state);
        }
    }

    /// The position of the last of them.
    ///
    /// # Panics
    /// With no events.
    pub fn last(&mut self) -> usize {
        if let Some(end) = self.end_of_chain() {
            return self.showing[&end];
        }
        self.compare();
        // Only a ring of changes leaves nobody.
        let last = self.unfollowed.values().next_back();
        let last = last.or_else(|| self.by_id.values().next_back());
        *last.expect("there is at least one event")
    }

    /// Whether what the events show and say they changed tells which is the last:
    /// else it is the greatest id that does, which means nothing.
    pub fn is_decided(&mut self) -> bool {
        if self.showing.len() <= 1 || self.end_of_chain().is_some() {
            return true;
        }
        self.compare();
        self.unfollowed.len() == 1
    }

    /// The state in which the changes end. Each leaves a state and enters
    /// another, so it is the only one that was entered more often than left.
    /// None where changes are missing, or lead back to where they began.
    fn end_of_chain(&self) -> Option<State> {
        let mut ends = self.ends.iter();
        match (ends.next(), ends.next()) {
            (Some(end), None) if self.unlinked.is_empty() => Some(*end),
            _ => None,
        }
    }

    /// Finds out which of the events that came since are followed, and whom
    /// they follow.
    fn compare(&mut self) {
        for at in self.compared..self.members.len() {
            let new = &self.members[at];
            self.unfollowed.insert(new.event_id.clone(), at);
            let earlier_changes = self.changes.iter().take_while(|change| **change < at);
            let others: Box<dyn Iterator<Item = usize> + '_> = match new.changed {
                Some(_) => Box::new(0..at),
                // It follows nobody.
                None => Box::new(earlier_changes.copied()),
            };
            for other in others {
                let old = &self.members[other];
                match (new.follows(old), old.follows(new)) {
                    (true, false) => self.unfollowed.remove(&old.event_id),
                    (false, true) => self.unfollowed.remove(&new.event_id),
                    _ => None,
                };
            }
        }
        self.compared = self.members.len();
    }
}

impl Member {
    /// Whether it changed what `earlier` shows.
    fn follows(&self, earlier: &Self) -> bool {
        let changed = self.changed.as_ref();
        changed.is_some_and(|changed| shows(&earlier.object, changed))
    }
}

fn state_of(object: &Value) -> State {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        hash(object, true, &mut hasher);
        hasher.finish()
    };
    State(half(0), half(1))
}

/// What is equal has the same hash: attributes in any order, and those that are
/// null left out as [`without_nulls`] does.
fn hash(value: &Value, skip_nulls: bool, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => hasher.write_u8(0),
        Value::Bool(value) => (1_u8, value).hash(hasher),
        Value::Number(number) if number.as_f64() == Some(0.0) && number.is_f64() => {
            (2_u8, "0.0").hash(hasher);
        }
        Value::Number(number) => (2_u8, number.to_string()).hash(hasher),
        Value::String(text) => (3_u8, text).hash(hasher),
        Value::Array(values) => {
            (4_u8, values.len()).hash(hasher);
            values.iter().for_each(|value| hash(value, false, hasher));
        }
        Value::Object(attributes) => {
            let shown = attributes.iter();
            let shown = shown.filter(|(_, value)| !(skip_nulls && value.is_null()));
            let shown: BTreeMap<&String, &Value> = shown.collect();
            (5_u8, shown.len()).hash(hasher);
            for (name, value) in shown {
                name.hash(hasher);
                hash(value, skip_nulls, hasher);
            }
        }
    }
}
