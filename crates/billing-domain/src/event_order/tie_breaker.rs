//! Finds the latest of several events with the same order. State is kept
//! between calls, so each event is processed once however many there are.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash as _, Hasher};

use super::digest::{Attributes, Digest};

/// A 128-bit hash of an object's state. Null attributes are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct State(u64, u64);

/// Events about one object that share an order, and which of them is the
/// latest.
///
/// The changes form a chain, and the latest event is the one that shows the
/// state at its end. If changes are missing, the latest event is one that no
/// other follows; if several remain, the one with the greatest event id.
#[derive(Debug, Default)]
pub struct TieBreaker {
    members: Vec<Member>,
    by_id: BTreeMap<String, usize>,
    /// How many more times each state was entered than left.
    balances: HashMap<State, i32>,
    /// States that were entered more often than left.
    ends: HashSet<State>,
    /// States shown by events without changes that no change leads to or from.
    unlinked: HashSet<State>,
    /// For each state, the event with the greatest id that shows it.
    showing: HashMap<State, usize>,
    /// Events that describe a change.
    changes: Vec<usize>,
    /// Events that no other follows, among the first `compared`.
    unfollowed: BTreeMap<String, usize>,
    compared: usize,
}

#[derive(Debug)]
struct Member {
    event_id: String,
    /// `data.object`.
    object: Digest,
    /// `data.previous_attributes`: the old values of what the event changed.
    /// `None` if the event describes no change.
    changed: Option<Attributes>,
}

impl TieBreaker {
    /// Whether the event was added before.
    pub fn contains(&self, event_id: &str) -> bool {
        self.by_id.contains_key(event_id)
    }

    /// The id of the event at this index.
    pub fn event_id(&self, at: usize) -> &str {
        &self.members[at].event_id
    }

    /// Adds an event and returns its index. An event with a known id replaces
    /// the earlier one and keeps its index.
    pub fn put(&mut self, event_id: String, object: Digest, changed: Option<Attributes>) -> usize {
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
            let earlier = state_of(&member.object.without_nulls().before(changed));
            self.count(earlier, -1);
            self.count(after, 1);
            self.changes.push(at);
        } else if !self.balances.contains_key(&after) {
            // An event without changes must show one of the states of the
            // chain.
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

    /// The index of the latest event.
    ///
    /// # Panics
    /// If no event was added.
    pub fn last(&mut self) -> usize {
        if let Some(end) = self.end_of_chain() {
            return self.showing[&end];
        }
        self.compare();
        // Every event is followed only if the changes form a cycle.
        let last = self.unfollowed.values().next_back();
        let last = last.or_else(|| self.by_id.values().next_back());
        *last.expect("there is at least one event")
    }

    /// Whether the contents of the events determine the latest one. If not, the
    /// greatest event id decides, which carries no meaning.
    pub fn is_decided(&mut self) -> bool {
        if self.showing.len() <= 1 || self.end_of_chain().is_some() {
            return true;
        }
        self.compare();
        self.unfollowed.len() == 1
    }

    /// The state in which the chain of changes ends. Each change leaves one
    /// state and enters another, so the end is the only state entered more
    /// often than left. `None` if changes are missing or the chain is a cycle.
    fn end_of_chain(&self) -> Option<State> {
        let mut ends = self.ends.iter();
        match (ends.next(), ends.next()) {
            (Some(end), None) if self.unlinked.is_empty() => Some(*end),
            _ => None,
        }
    }

    /// Compares the events added since the last call with all others.
    fn compare(&mut self) {
        for at in self.compared..self.members.len() {
            let new = &self.members[at];
            self.unfollowed.insert(new.event_id.clone(), at);
            let earlier_changes = self.changes.iter().take_while(|change| **change < at);
            let others: Box<dyn Iterator<Item = usize> + '_> = match new.changed {
                Some(_) => Box::new(0..at),
                // An event without changes follows no other.
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
    /// Whether this event changed the state that `earlier` shows.
    fn follows(&self, earlier: &Self) -> bool {
        let changed = self.changed.as_ref();
        changed.is_some_and(|changed| earlier.object.shows(changed))
    }
}

fn state_of(object: &Digest) -> State {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        hash(object, &mut hasher);
        hasher.finish()
    };
    State(half(0), half(1))
}

/// Equal states hash equally; attributes that are null are left out.
fn hash(digest: &Digest, hasher: &mut DefaultHasher) {
    match digest {
        Digest::Null => hasher.write_u8(0),
        Digest::Value(hash) => (1_u8, hash).hash(hasher),
        Digest::Object(attributes) => {
            let shown = || {
                attributes
                    .iter()
                    .filter(|(_, value)| **value != Digest::Null)
            };
            (2_u8, shown().count()).hash(hasher);
            for (name, value) in shown() {
                name.hash(hasher);
                hash(value, hasher);
            }
        }
    }
}
