//! What happened to an organization, by time: entries of its audit log, Stripe's events, those
//! that became dead letters, requests to Stripe, and deliveries of events out, in one list. It reads what other rooms
//! wrote.

pub mod routes;
mod store;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

/// The audit action of a look.
pub const LISTED: &str = "timeline_listed";

pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [LISTED].into_iter()
}

/// What kind of thing happened. What happened at the same moment stands in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = TimelineKind)]
pub enum Kind {
    /// An entry of the audit log: who changed or looked at what.
    AuditEntry,
    /// A webhook event.
    StripeEvent,
    /// A webhook event that was given up, when it was.
    DeadLetter,
    /// A request that changes something in Stripe.
    StripeRequest,
    /// An event of ours for an endpoint of the product.
    Delivery,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::AuditEntry,
        Self::StripeEvent,
        Self::DeadLetter,
        Self::StripeRequest,
        Self::Delivery,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuditEntry => "audit_entry",
            Self::StripeEvent => "stripe_event",
            Self::DeadLetter => "dead_letter",
            Self::StripeRequest => "stripe_request",
            Self::Delivery => "delivery",
        }
    }

    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TimelineEntry)]
pub struct Happened {
    pub at: Timestamp,
    #[schema(inline)]
    pub kind: Kind,
    /// Of the entry, the event, the request or the delivery.
    pub id: String,
    /// The action, the event's type, or what was requested.
    #[schema(example = "invoice.paid")]
    pub what: String,
    /// What it was about.
    #[schema(required)]
    pub about: Option<String>,
    /// The type of actor and its id, as in the audit log.
    #[schema(required)]
    pub by: Option<String>,
    /// The outcome, the state, or how often it was tried.
    #[schema(required)]
    pub state: Option<String>,
}

/// Where something is in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    at: Timestamp,
    kind: Kind,
    id: String,
}

impl Happened {
    pub fn position(&self) -> Position {
        Position {
            at: self.at,
            kind: self.kind,
            id: self.id.clone(),
        }
    }
}

/// Where the rows of one kind begin.
#[derive(Debug, Clone)]
struct Bound {
    /// Nothing later.
    at: Option<Timestamp>,
    /// Of what happened at that moment: nothing, what is below this id, or everything.
    below: Option<String>,
    with: bool,
}

impl Bound {
    fn of(kind: Kind, before: Option<&Position>) -> Self {
        let Some(before) = before else {
            return Self {
                at: None,
                below: None,
                with: true,
            };
        };
        Self {
            at: Some(before.at),
            below: (kind == before.kind).then(|| before.id.clone()),
            // Those of earlier kinds came before it.
            with: kind > before.kind,
        }
    }
}

/// Up to `limit` of what happened, the newest first, from behind `before`; of one kind, if it
/// is named.
pub async fn page(
    conn: &mut PgConnection,
    organization_id: Uuid,
    only: Option<Kind>,
    before: Option<&Position>,
    limit: i64,
) -> Result<Vec<Happened>, sqlx::Error> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        if only.is_some_and(|only| only != kind) {
            continue;
        }
        let bound = Bound::of(kind, before);
        let of = (organization_id, &bound);
        all.extend(match kind {
            Kind::AuditEntry => store::audit_entries(conn, of, limit).await?,
            Kind::StripeEvent => store::stripe_events(conn, of, limit).await?,
            Kind::DeadLetter => store::dead_letters(conn, of, limit).await?,
            Kind::StripeRequest => store::stripe_requests(conn, of, limit).await?,
            Kind::Delivery => store::deliveries(conn, of, limit).await?,
        });
    }
    all.sort_by(|a, b| {
        let order = b.at.cmp(&a.at).then(a.kind.cmp(&b.kind));
        order.then_with(|| b.id.cmp(&a.id))
    });
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_left_out_kept_or_cut_by_kind() {
        let before = Position {
            at: Timestamp::UNIX_EPOCH,
            kind: Kind::StripeEvent,
            id: "evt_1".to_owned(),
        };
        let bound = |kind| {
            let bound = Bound::of(kind, Some(&before));
            (bound.below, bound.with)
        };
        assert_eq!(bound(Kind::AuditEntry), (None, false));
        let evt = Some("evt_1".to_owned());
        assert_eq!(bound(Kind::StripeEvent), (evt, false));
        assert_eq!(bound(Kind::Delivery), (None, true));
    }
}
