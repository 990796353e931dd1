//! Requests to Stripe that change something, and what becomes of them.
//!
//! 1. [`begin`] enters the request and commits. Its id is the idempotency key.
//!    While it is open, no other request of the organization about the same
//!    subject begins: who finds one open gets that one.
//! 2. The call is made, by whoever holds the request; any number of times and
//!    by any replica, it is one call for Stripe.
//! 3. [`succeeded`] or [`failed`] closes it, in the transaction that has its
//!    effects.
//!
//! Where no answer came, the request stays open. (A 5xx is no answer either, and
//! Stripe repeats it for the same key: then only looking at Stripe tells.) The
//! next one who begins, or `subscriptions reconcile`, makes the call again with
//! the same key and parameters while Stripe remembers the key
//! ([`Request::key_is_good`]); later it looks at Stripe first.
//!
//! Recovery takes open requests one by one. One that fails is put off
//! ([`postpone`]) and holds up no other; one that no retry can settle is closed
//! for an operator to see ([`abandon`]).

mod store;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::client::Params;
use crate::db::TenantTx;
pub use store::{
    Which, abandon, acknowledge, failed, find, has_abandoned_creation, postpone, succeeded,
    unsettled,
};

/// Stripe forgets keys after 24 hours at the earliest; an hour is left for
/// clocks and repetitions.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(23);

/// How long a caller's `Idempotency-Key` names the same change.
const REQUEST_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Customer,
    Subscription,
}

impl Subject {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Subscription => "subscription",
        }
    }
}

/// A request that is to be made.
#[derive(Debug, Clone)]
pub struct NewRequest {
    pub subject: Subject,
    /// Such as `create`, `update`, `cancel`.
    pub operation: &'static str,
    /// The object that is changed.
    pub target_id: Option<String>,
    pub params: Params,
    /// What settling it needs besides: who asked, for which plan.
    pub context: Value,
}

/// A request that was entered.
#[derive(Debug, Clone)]
pub struct Request {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub subject: String,
    pub operation: String,
    pub target_id: Option<String>,
    pub params: Params,
    pub context: Value,
    pub created_at: Timestamp,
    /// How often recovery has failed.
    pub recovery_attempts: i32,
}

/// A request whose row makes no sense.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub recovery_attempts: i32,
    pub error: String,
}

/// How often an open request may be closed under our eyes.
const ROUNDS: u32 = 5;

const KEY_PREFIX: &str = "vcb-";

/// The request that a key of ours is of. Ids of later requests are greater.
pub fn request_of_key(key: &str) -> Option<Uuid> {
    key.strip_prefix(KEY_PREFIX)?.parse().ok()
}

impl Request {
    /// The idempotency key of its call.
    pub fn key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.id)
    }

    /// Whether Stripe still knows the key, so that the call can be repeated
    /// without doing it twice.
    pub fn key_is_good(&self, now: Timestamp) -> bool {
        now.duration_since(self.created_at) < KEY_LIFETIME
    }
}

/// What [`begin`] found.
#[derive(Debug, Clone)]
pub enum Begun {
    /// Entered, and ours to make.
    New(Request),
    /// One about the same subject is open: it must be settled first, by making
    /// its call again.
    Open(Request),
}

/// Enters a request, unless one about the same subject is open, and commits.
pub async fn begin(
    pool: &PgPool,
    organization_id: Uuid,
    new: NewRequest,
) -> Result<Begun, sqlx::Error> {
    for _ in 0..ROUNDS {
        let mut tx = TenantTx::begin(pool, organization_id).await?;
        let id = Uuid::now_v7();
        let found = if store::insert(&mut tx, id, &new).await? {
            store::by_id(&mut tx, id).await?.map(Begun::New)
        } else {
            let open = store::open_about(&mut tx, new.subject).await?;
            open.map(Begun::Open)
        };
        tx.commit().await?;
        if let Some(found) = found {
            return Ok(found);
        }
        // The open one was closed between the two statements.
    }
    Err(sqlx::Error::RowNotFound)
}

/// The open request about `subject`, if there is one.
pub async fn open_about(
    pool: &PgPool,
    organization_id: Uuid,
    subject: Subject,
) -> Result<Option<Request>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::open_about(&mut tx, subject).await
}

/// The wish (`wish` of the context) of a request that succeeded within a day and
/// came with this `Idempotency-Key` (`requestKey`).
pub async fn wish_done(
    pool: &PgPool,
    organization_id: Uuid,
    request_key: &str,
) -> Result<Option<Value>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::wish_done(&mut tx, request_key, REQUEST_KEY_LIFETIME).await
}

/// Whether the request is still open, locking it until the transaction ends:
/// who closes it is the one whose effects count.
pub async fn lock_open(conn: &mut PgConnection, request: &Request) -> Result<bool, sqlx::Error> {
    store::lock_open(conn, request).await
}
