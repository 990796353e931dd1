//! Many histories of one subscription, each in many orders.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::catalogue::Catalogue;
use crate::event_log::StoredEvent;
use crate::projection::decode::decode;
use crate::projection::types::Context;
use crate::stripe::objects::Subscription;

/// `VCB_CASES` raises the number of histories.
fn cases() -> u32 {
    let asked = std::env::var("VCB_CASES").ok();
    asked.map_or(500, |cases| cases.parse().expect("VCB_CASES is a number"))
}

const ORDERS: u64 = 240;

/// A subscription's events as Stripe writes them: `changes` are which attribute
/// changes, to what, and whether a second passed before.
fn events(changes: &[(u8, u8, bool)], ends: bool, ids: u64) -> Vec<StoredEvent> {
    let mut object = json!({
        "id": "sub_1", "customer": "cus_1", "status": "active", "cancel_at_period_end": false,
        "metadata": {},
    });
    let mut created = 1_760_000_000;
    let mut events = vec![event(ids, 0, "created", created, &object, None)];
    for (n, (attribute, value, later)) in changes.iter().enumerate() {
        created += i64::from(*later);
        let (name, now) = match attribute % 3 {
            0 => (
                "status",
                json!(["active", "past_due"][usize::from(value & 1)]),
            ),
            1 => ("cancel_at_period_end", json!(value & 1 == 1)),
            _ => ("metadata", json!({"version": (value & 3).to_string()})),
        };
        let was = std::mem::replace(&mut object[name], now);
        if was != object[name] {
            let was = match &was {
                Value::Object(was) => json!({"version": was.get("version")}),
                was => was.clone(),
            };
            let previous = json!({name: was});
            events.push(event(
                ids,
                n + 1,
                "updated",
                created,
                &object,
                Some(&previous),
            ));
        }
    }
    if ends {
        object["status"] = json!("canceled");
        let last = changes.len() + 1;
        events.push(event(ids, last, "deleted", created, &object, None));
    }
    events
}

fn event(
    ids: u64,
    n: usize,
    told: &str,
    created: i64,
    object: &Value,
    previous: Option<&Value>,
) -> StoredEvent {
    let mut data = json!({"object": object});
    if let Some(previous) = previous {
        data["previous_attributes"] = previous.clone();
    }
    StoredEvent {
        bucket: 0,
        id: format!("evt_{:016x}", mixed(ids.wrapping_add(n as u64))),
        event_type: format!("customer.subscription.{told}"),
        api_version: None,
        livemode: false,
        account: None,
        created: Timestamp::from_second(created).unwrap(),
        payload: json!({"data": data}).to_string(),
    }
}

fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn shuffled<T: Copy>(items: &[T], seed: u64) -> Vec<T> {
    let mut items = items.to_vec();
    for i in (1..items.len()).rev() {
        let j = mixed(seed.wrapping_add(i as u64)) % (i as u64 + 1);
        items.swap(i, usize::try_from(j).unwrap());
    }
    items
}

/// A row, as batches of events write it.
#[derive(Default)]
struct Row {
    version: Option<Version>,
    snapshot: Option<Subscription>,
}

impl Row {
    fn apply(&mut self, batch: &[&Decoded<'_>], all: &[Decoded<'_>]) {
        let tied = self.version.iter().flat_map(|v| &v.tied_event_ids);
        let earlier = tied.map(|id| {
            let event = all.iter().find(|e| e.stored.id == *id).unwrap();
            let data = (event.stored.event_type.clone(), event.data.clone());
            (id.clone(), data)
        });
        let earlier = Earlier(earlier.collect());
        let mut merge = ObjectMerge::<Subscription>::new(self.version.clone());
        for event in batch {
            let object = Subscription::of(&event.object).unwrap();
            merge.merge(event, object, &earlier);
        }
        if merge.changed {
            self.version = merge.version;
            self.snapshot = merge.snapshot;
        }
    }

    fn shows(&self) -> (Option<&Version>, &str, bool, &Map<String, Value>) {
        let snapshot = self.snapshot.as_ref().unwrap();
        (
            self.version.as_ref(),
            snapshot.status.as_str(),
            snapshot.cancel_at_period_end,
            &snapshot.metadata,
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_order_in_any_batches_with_repetitions_makes_the_same_row(
        changes in prop::collection::vec((any::<u8>(), any::<u8>(), any::<bool>()), 1..7),
        ends: bool,
        seed: u64,
    ) {
        let catalogue = Catalogue::load(None).unwrap();
        let context = Context {
            catalogue: &catalogue,
            key_is_live: None,
            unknown_customers: Default::default(),
            account: crate::stripe::account::Account::NotAsked,
        };
        let stored = events(&changes, ends, seed);
        let decoded: Vec<Decoded<'_>> = stored
            .iter()
            .enumerate()
            .map(|(index, event)| decode(&context, index, event).unwrap())
            .collect();
        let mut expected = Row::default();
        for event in &decoded {
            expected.apply(&[event], &decoded);
        }
        let twice: Vec<&Decoded<'_>> = decoded.iter().chain(&decoded[..decoded.len() / 2]).collect();
        for order in 0..ORDERS {
            let seed = mixed(seed ^ order);
            let order = shuffled(&twice, seed);
            let (first, rest) = order.split_at(usize::try_from(seed >> 32).unwrap() % order.len());
            let (second, third) = rest.split_at(usize::try_from(seed >> 16).unwrap() % rest.len());
            let mut row = Row::default();
            for batch in [first, second, third] {
                row.apply(batch, &decoded);
            }
            prop_assert_eq!(row.shows(), expected.shows());
        }
    }
}
