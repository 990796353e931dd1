//! Usage of many organizations in one request: a service key's, each of whose events
//! names its own. Each organization is counted by itself, and at the same time as the
//! others: one that is held, or refused, keeps none of them waiting.

use std::collections::HashMap;
use std::sync::Arc;

use axum::response::Response;
use futures_util::future::join_all;
use uuid::Uuid;

use super::events::{self, Batch, Outcome, RecordedBatch};
use super::input::{Fault, ParsedEvent};
use super::routes::Usage;
use crate::metering::ledger::NewEvent;
use crate::server::layers::rate_limit::Meter;
use crate::server::problem::Problem;
use crate::tenancy::names;

/// Counts the event of a request that has no other.
pub async fn record_one(
    usage: &Usage,
    meter: Option<&Meter>,
    event: ParsedEvent,
    bytes: usize,
) -> Result<Response, Problem> {
    let name = event.organization.clone().ok_or_else(Problem::internal)?;
    let found = usage.organizations.find([name.clone()].into()).await?;
    let named = found.get(&name).copied();
    let organization_id = named.ok_or_else(names::not_found)?.organization(true)?;
    charge(meter, organization_id, 1, bytes)?;
    events::record_one(usage, organization_id, event).await
}

fn charge(
    meter: Option<&Meter>,
    organization_id: Uuid,
    events: usize,
    bytes: usize,
) -> Result<(), Problem> {
    meter.map_or(Ok(()), |meter| {
        meter.charge_organization(organization_id, events, bytes)
    })
}

/// The events of one organization, and where they are in their batch.
#[derive(Default)]
struct Part {
    places: Vec<usize>,
    events: Vec<NewEvent>,
    bytes: usize,
}

/// What came of each valid event of a batch, in their order; `None` as long as nothing did.
type Outcomes = Vec<Option<Outcome>>;

/// Counts the valid events of a batch. Only if no organization's could be counted at all
/// is the request refused as a whole.
pub async fn record(
    usage: &Usage,
    meter: Option<&Meter>,
    mut batch: Batch,
) -> Result<RecordedBatch, Problem> {
    let (mut outcomes, mut parts) = divide(usage, &mut batch).await?;
    parts.retain(|organization_id, part| {
        let charged = charge(meter, *organization_id, part.events.len(), part.bytes);
        if let Err(problem) = &charged {
            refuse(&mut outcomes, &part.places, problem);
        }
        charged.is_ok()
    });
    let recording = parts.into_iter().map(|(organization_id, part)| async move {
        let recorded = usage.ledger.record(organization_id, part.events).await;
        (part.places, recorded)
    });
    let recorded = join_all(recording).await;
    let failure = recorded.iter().find_map(|(_, part)| part.as_ref().err());
    if let Some(error) = failure
        && recorded.iter().all(|(_, part)| part.is_err())
    {
        return Err(error.clone().into());
    }
    for (places, part) in recorded {
        match part {
            Ok(items) => {
                for (place, item) in places.into_iter().zip(items) {
                    outcomes[place] = Some(Outcome::Item(item));
                }
            }
            Err(error) => refuse(&mut outcomes, &places, &error.into()),
        }
    }
    Ok(batch.recorded(outcomes.into_iter().flatten().collect()))
}

/// Divides the valid events by their organizations, which are looked up together.
async fn divide(
    usage: &Usage,
    batch: &mut Batch,
) -> Result<(Outcomes, HashMap<Uuid, Part>), Problem> {
    let valid = std::mem::take(&mut batch.valid);
    let named = std::mem::take(&mut batch.named);
    let mut names: Vec<Arc<str>> = named.iter().map(|(name, _)| name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let found = match names.is_empty() {
        true => Arc::default(),
        false => usage.organizations.find(names.into()).await?,
    };
    let mut outcomes: Outcomes = valid.iter().map(|_| None).collect();
    let mut parts = HashMap::<Uuid, Part>::new();
    for (place, (event, (name, bytes))) in valid.into_iter().zip(named).enumerate() {
        let named = found.get(&name).copied().ok_or_else(names::not_found);
        match named.and_then(|named| named.organization(true)) {
            Ok(organization_id) => {
                let part = parts.entry(organization_id).or_default();
                part.places.push(place);
                part.events.push(event);
                part.bytes += bytes;
            }
            Err(problem) => outcomes[place] = Some(refused(&problem, false)),
        }
    }
    Ok((outcomes, parts))
}

/// Events that may be counted later.
fn refuse(outcomes: &mut Outcomes, places: &[usize], problem: &Problem) {
    for place in places {
        outcomes[*place] = Some(refused(problem, true));
    }
}

fn refused(problem: &Problem, retryable: bool) -> Outcome {
    Outcome::Refused {
        fault: Fault::new(problem.code(), problem.detail()),
        retryable,
    }
}
