//! What a group's requests touch, need and name.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

use super::queue::QueuedRequest;
use super::{NewEvent, Op};

/// An organization and a metric.
pub type Key = (Uuid, String);

/// The accounts that a group touches, in the order in which they are locked.
pub fn keys(requests: &[QueuedRequest]) -> Vec<Key> {
    requests
        .iter()
        .flat_map(touched)
        .collect::<BTreeSet<Key>>()
        .into_iter()
        .collect()
}

/// The accounts that a request touches.
pub fn touched(request: &QueuedRequest) -> BTreeSet<Key> {
    let metrics: BTreeSet<&str> = match &request.op {
        Op::Record(events) => events.iter().map(|event| event.metric.as_str()).collect(),
        Op::Check(question) => [question.event.metric.as_str()].into(),
        Op::Reserve { metric, .. } | Op::TakeDue { metric } => [metric.as_str()].into(),
        Op::Settle { reservation, .. } => [reservation.metric.as_str()].into(),
        Op::Hold { hold, .. } => [hold.metric.as_str()].into(),
        Op::SettleHold(settling) => [settling.hold.metric.as_str()].into(),
        Op::TakeBack(taken) => [taken.metric.as_str()].into(),
    };
    let key = |metric: &str| (request.organization_id, metric.to_owned());
    metrics.into_iter().map(key).collect()
}

/// Of which accounts the organization's features are needed.
pub fn featured(requests: &[QueuedRequest], keys: &[Key]) -> Vec<bool> {
    let needing = requests.iter().filter_map(|request| match &request.op {
        Op::Check(question) if question.needs.is_some() => {
            Some((request.organization_id, question.event.metric.clone()))
        }
        _ => None,
    });
    let needing: BTreeSet<Key> = needing.collect();
    keys.iter().map(|key| needing.contains(key)).collect()
}

/// The uses that settled reservations are, by reservation.
pub type Settled = HashMap<Uuid, NewEvent>;

pub fn settled_events(requests: &[QueuedRequest]) -> Settled {
    let of_request = |request: &QueuedRequest| match &request.op {
        Op::Settle { reservation, .. } => Some((reservation.id, reservation.event())),
        _ => None,
    };
    requests.iter().filter_map(of_request).collect()
}

/// The events whose ids may have come before.
pub fn named_events<'a>(
    requests: &'a [QueuedRequest],
    settled: &'a Settled,
) -> Vec<(Uuid, &'a NewEvent)> {
    let mut named = Vec::new();
    for request in requests {
        let events = match &request.op {
            Op::Record(events) => events.as_slice(),
            // One without a name of its own came before only if an answer was lost.
            Op::Check(question) if question.consume => std::slice::from_ref(&question.event),
            Op::Settle {
                reservation,
                used: true,
            } => settled
                .get(&reservation.id)
                .map(std::slice::from_ref)
                .unwrap_or_default(),
            Op::SettleHold(settling) => settling.event().map(std::slice::from_ref).unwrap_or(&[]),
            _ => &[],
        };
        named.extend(events.iter().map(|event| (request.organization_id, event)));
    }
    named
}

/// The holds that are made or settled, by organization and id.
pub fn hold_ids(requests: &[QueuedRequest]) -> (Vec<Uuid>, Vec<Uuid>) {
    let of_request = |request: &QueuedRequest| match &request.op {
        Op::Hold { id, .. } => Some((request.organization_id, *id)),
        Op::SettleHold(settling) => Some((request.organization_id, settling.hold.id)),
        _ => None,
    };
    requests.iter().filter_map(of_request).unzip()
}

/// The accounts in which something is to be held, each once.
pub fn held_accounts(requests: &[QueuedRequest]) -> BTreeSet<(Uuid, &str)> {
    let of_request = |request| match request {
        &QueuedRequest {
            organization_id,
            op: Op::Hold { ref hold, .. },
            ..
        } => Some((organization_id, hold.metric.as_str())),
        _ => None,
    };
    requests.iter().filter_map(of_request).collect()
}

/// The uses that are to be taken back, by organization and event.
pub fn taken_back(requests: &[QueuedRequest]) -> (Vec<Uuid>, Vec<&str>) {
    let of_request = |request| match request {
        &QueuedRequest {
            organization_id,
            op: Op::TakeBack(ref taken),
            ..
        } => Some((organization_id, taken.event_id.as_str())),
        _ => None,
    };
    requests.iter().filter_map(of_request).unzip()
}
