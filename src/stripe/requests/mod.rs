//! The stored requests to Stripe that change something.
//!
//! 1. [`begin`] stores the request and commits. Its id is the idempotency key.
//!    While it is open, no other request of the organization for the same
//!    subject can begin; [`begin`] returns the open one instead.
//! 2. Any replica makes the call, any number of times. For Stripe it is one
//!    call.
//! 3. [`succeeded`] or [`failed`] closes the request, in the transaction that
//!    mirrors its effects.
//!
//! Without a response, the request stays open. (A 5xx counts as none, and Stripe
//! replays it for the same key, so only Stripe's state shows the outcome.) The
//! next change, or `subscriptions reconcile`, repeats the call with the same key
//! and parameters while Stripe remembers the key
//! ([`Request::key_is_valid`]); later it checks Stripe's state first.
//!
//! Recovery handles open requests one by one. One that fails is postponed
//! ([`postpone`]) and delays no other; one that no retry can settle is closed for
//! an operator to see ([`abandon`]).

mod store;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::client::Params;
use crate::db::TenantTx;
use crate::db::words::words;
pub use store::{
    Which, abandon, acknowledge, failed, find, has_abandoned_creation, hold_unarchived, postpone,
    succeeded, unsettled,
};

/// Stripe forgets keys after 24 hours at the earliest; one hour is the margin for
/// clock differences and retries.
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(23);

/// How long a caller's `Idempotency-Key` stands for the same change.
const REQUEST_KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(24);

words! {
    /// What a request is about.
    pub enum Subject {
        Customer = "customer",
        Subscription = "subscription",
        /// Which payment method is charged, or the end of one.
        PaymentMethod = "payment_method",
    }
}

/// A request to store.
#[derive(Debug, Clone)]
pub struct NewRequest {
    pub subject: Subject,
    /// Such as `create`, `update`, `cancel`.
    pub operation: &'static str,
    /// The object to change.
    pub target_id: Option<String>,
    pub params: Params,
    /// What settling it needs besides, such as the initiator and the plan.
    pub context: Value,
}

/// A stored request.
#[derive(Debug, Clone)]
pub struct Request {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub subject: Subject,
    pub operation: String,
    pub target_id: Option<String>,
    pub params: Params,
    pub context: Value,
    pub created_at: Timestamp,
    /// When the latest call began.
    pub called_at: Option<Timestamp>,
    /// Failed attempts to recover it.
    pub recovery_attempts: i32,
}

/// A request whose row cannot be read.
#[derive(Debug, Clone)]
pub struct Unreadable {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub recovery_attempts: i32,
    pub error: String,
}

/// How often an open request may be closed concurrently.
const ROUNDS: u32 = 5;

const KEY_PREFIX: &str = "vcb-";

/// The length of a request's id in a key.
const ID_CHARS: usize = 36;

/// The request of one of our idempotency keys, whichever of its calls it is of. Later
/// requests have greater ids.
pub fn request_of_key(key: &str) -> Option<Uuid> {
    let id = key.strip_prefix(KEY_PREFIX)?;
    match id.get(ID_CHARS..) {
        Some(step) if step.is_empty() || step.starts_with('-') => id[..ID_CHARS].parse().ok(),
        _ => None,
    }
}

impl Request {
    /// The idempotency key of its call.
    pub fn key(&self) -> String {
        format!("{KEY_PREFIX}{}", self.id)
    }

    /// The idempotency key of a further call that the request needs.
    pub fn key_of(&self, step: &str) -> String {
        format!("{}-{step}", self.key())
    }

    /// Whether Stripe still remembers the key, so that the call can be repeated
    /// without a second effect.
    pub fn key_is_valid(&self, now: Timestamp) -> bool {
        now.duration_since(self.created_at) < KEY_LIFETIME
    }
}

words! {
    /// What a request came to.
    pub enum State {
        Open = "open",
        Succeeded = "succeeded",
        /// It was closed as not carried out. Stripe may have done so since.
        Failed = "failed",
    }
}

/// The result of [`begin`].
#[derive(Debug, Clone)]
pub enum Begun {
    /// Stored; the caller makes the call.
    New(Request),
    /// A request for the same subject is open and must be settled first.
    Open(Request),
}

/// Stores a request, unless one for the same subject is open, and commits.
pub async fn begin(
    pool: &PgPool,
    organization_id: Uuid,
    new: NewRequest,
) -> Result<Begun, sqlx::Error> {
    for _ in 0..ROUNDS {
        let mut tx = TenantTx::begin(pool, organization_id).await?;
        // It was archived since the request was let in: sent again, that is the answer.
        if !store::hold_unarchived(&mut tx).await? {
            return Err(sqlx::Error::PoolTimedOut);
        }
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
        // The open request was closed between the two statements.
    }
    Err(sqlx::Error::RowNotFound)
}

/// The open request for `subject`, if there is one.
pub async fn open_about(
    pool: &PgPool,
    organization_id: Uuid,
    subject: Subject,
) -> Result<Option<Request>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::open_about(&mut tx, subject).await
}

/// The recorded command (`wish` in the context) of a request that succeeded within
/// a day and came with this `Idempotency-Key` (`requestKey`).
pub async fn completed_command(
    pool: &PgPool,
    organization_id: Uuid,
    request_key: &str,
) -> Result<Option<Value>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::completed_command(&mut tx, request_key, REQUEST_KEY_LIFETIME).await
}

/// The recorded command of the change with this id, if its request succeeded.
pub async fn command_of(
    pool: &PgPool,
    organization_id: Uuid,
    change_id: &str,
) -> Result<Option<Value>, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, organization_id).await?;
    store::command_of(&mut tx, change_id).await
}

/// What a request came to. Locks it until the transaction ends, so that only one
/// transaction closes it and mirrors its effects.
pub async fn lock(conn: &mut PgConnection, request: &Request) -> Result<State, sqlx::Error> {
    store::lock(conn, request).await
}

/// Adds `members` to the context of an open request, and commits: what recovery must know
/// of calls that are about to be made.
pub async fn note(pool: &PgPool, request: &Request, members: &Value) -> Result<(), sqlx::Error> {
    let mut tx = TenantTx::begin(pool, request.organization_id).await?;
    store::note(&mut tx, request, members).await?;
    tx.commit().await
}

/// Notes that a call of the request begins now, and commits. Returns false if it was
/// closed meanwhile: then nothing must be called.
pub async fn begin_call(pool: &PgPool, request: &Request) -> Result<bool, sqlx::Error> {
    let mut tx = TenantTx::begin(pool, request.organization_id).await?;
    let open = store::mark_called(&mut tx, request).await?;
    tx.commit().await?;
    Ok(open)
}
