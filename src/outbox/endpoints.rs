//! Endpoints: operators make, rotate, disable, enable, remove and test them. Every act is
//! entered in the audit log, with its change; a secret never is.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPool};
use utoipa::ToSchema;
use uuid::Uuid;

use super::address::{self, Refused};
use super::event::{NewEvent, SOURCE};
use super::post::{Answer, Message, Poster};
use super::signature;
use super::store::changes;
use super::store::endpoints::{self as store, NewRow, Row};
use super::types::{EventType, TEST};
use crate::audit::{self, Actor, Client, NewEntry, OPERATORS};
use crate::config::{AllowedAddresses, WebhookSecret};
use crate::db::WorkerTx;

pub const CREATED: &str = "event_endpoint_created";
pub const ROTATED: &str = "event_endpoint_rotated";
pub const DISABLED: &str = "event_endpoint_disabled";
pub const ENABLED: &str = "event_endpoint_enabled";
pub const REMOVED: &str = "event_endpoint_removed";
pub const TESTED: &str = "event_endpoint_tested";

/// The endpoint that the settings name.
pub const OF_CONFIGURATION: Uuid = Uuid::from_u128(1);
/// How long a former secret still signs, unless a command says otherwise.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3_600);
/// More endpoints than this are refused: each event is stored and sent once for each.
const MOST: usize = 64;
const DESCRIPTION_CHARS: usize = 500;

/// An endpoint as it is shown: without its secrets.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventEndpoint)]
pub struct Endpoint {
    pub id: Uuid,
    pub url: String,
    #[schema(required)]
    pub description: Option<String>,
    /// Empty: all types.
    pub types: Vec<String>,
    /// Null: the events of all organizations.
    #[schema(required)]
    pub organization_id: Option<Uuid>,
    /// `operator`, `configuration` or `listen`.
    pub source: String,
    /// `enabled`, `failing` or `disabled`.
    #[schema(value_type = String, example = "enabled")]
    pub status: &'static str,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    #[schema(required)]
    pub last_error: Option<String>,
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub disabled_at: Option<Timestamp>,
    #[schema(required)]
    pub disabled_reason: Option<String>,
    /// Until then the former secret signs as well.
    #[schema(required, value_type = Option<String>, format = DateTime)]
    pub previous_secret_until: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl From<&Row> for Endpoint {
    fn from(row: &Row) -> Self {
        let status = match (row.disabled_at, row.failing_since) {
            (Some(_), _) => "disabled",
            (None, Some(_)) => "failing",
            (None, None) => "enabled",
        };
        Self {
            id: row.id,
            url: address::shown(&row.url),
            description: row.description.clone(),
            types: row.types.clone(),
            organization_id: row.organization_id,
            source: row.source.clone(),
            status,
            failing_since: row.failing_since,
            last_error: row.last_error.clone(),
            disabled_at: row.disabled_at,
            disabled_reason: row.disabled_reason.clone(),
            previous_secret_until: row.previous_secret_until,
            created_at: row.created_at,
        }
    }
}

/// An endpoint and its secret, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventEndpointWithSecret)]
pub struct WithSecret {
    #[serde(flatten)]
    pub endpoint: Endpoint,
    pub secret: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("there is no event type {0:?}; `events types` lists them")]
    UnknownType(String),
    #[error("the description may have {DESCRIPTION_CHARS} characters, and no control characters")]
    Description,
    #[error("there is no organization {0}; `organizations list` shows them")]
    UnknownOrganization(Uuid),
    #[error("there are {MOST} endpoints already; remove one by `events endpoints remove`")]
    TooMany,
    #[error("there is no endpoint {0}; `events endpoints list` shows them")]
    Unknown(Uuid),
    #[error(
        "this is the endpoint of the settings: change APPLICATION_WEBHOOK_URL and \
         APPLICATION_WEBHOOK_SECRET instead, and restart `serve`"
    )]
    OfConfiguration,
    #[error(
        "this endpoint is that of a running `events listen`, which alone sends to it; change \
         something in the sandbox instead to see an event"
    )]
    Listening,
    #[error("the endpoint is disabled already; `events endpoints enable` undoes it")]
    Disabled,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// An endpoint as an operator asks for it.
pub struct NewEndpoint {
    pub url: String,
    pub description: Option<String>,
    pub types: Vec<String>,
    pub organization_id: Option<Uuid>,
}

/// Who acts.
#[derive(Debug, Clone)]
pub struct By {
    pub actor: Actor,
    /// Set if a request asked for it.
    pub client: Option<Client>,
}

impl By {
    /// What else the audit log shows of it.
    pub(super) fn metadata(&self) -> Value {
        match self.client {
            Some(_) => json!({"operator": true}),
            None => json!({}),
        }
    }

    /// A command, or the service itself.
    pub const SYSTEM: Self = Self {
        actor: Actor::System,
        client: None,
    };
}

/// What an endpoint is made for.
pub enum Kind {
    Operator,
    /// `events listen` sends to it, and removes it when it ends.
    Listen {
        lease: Duration,
    },
}

/// Makes an endpoint. It gets what happens from now on.
pub async fn create(
    pool: &PgPool,
    new: NewEndpoint,
    kind: Kind,
    allowed: &AllowedAddresses,
    by: &By,
) -> Result<WithSecret, EndpointError> {
    let unknown = new
        .types
        .iter()
        .find(|name| EventType::parse(name).is_none());
    if let Some(unknown) = unknown {
        return Err(EndpointError::UnknownType(unknown.clone()));
    }
    let described = new.description.as_deref().unwrap_or_default();
    if described.chars().count() > DESCRIPTION_CHARS || described.contains(char::is_control) {
        return Err(EndpointError::Description);
    }
    let (source, url, lease) = match kind {
        Kind::Operator => {
            let url = address::read_url(&new.url, allowed)?;
            ("operator", url.to_string(), None)
        }
        Kind::Listen { lease } => ("listen", new.url, Some(lease.as_secs_f64())),
    };
    let (id, secret) = (Uuid::now_v7(), signature::new_secret());
    let mut tx = WorkerTx::begin(pool).await?;
    if let Some(only) = new.organization_id
        && changes::named(tx.conn(), &[only]).await?.is_empty()
    {
        return Err(EndpointError::UnknownOrganization(only));
    }
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    if store::list(tx.conn(), None).await?.len() >= MOST {
        return Err(EndpointError::TooMany);
    }
    let row = NewRow {
        id,
        organization_id: new.organization_id,
        source,
        url: &url,
        description: new.description.as_deref(),
        types: &new.types,
        secret: Some(&secret),
        lease_secs: lease,
    };
    store::insert(tx.conn(), &row).await?;
    let made = found(tx.conn(), id).await?;
    let after =
        json!({"url": address::shown(&made.url), "types": made.types, "source": made.source});
    let entry = entry(CREATED, &made, None, Some(after), by);
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    Ok(WithSecret {
        endpoint: Endpoint::from(&made),
        secret,
    })
}

/// All endpoints.
pub async fn list(pool: &PgPool) -> Result<Vec<Endpoint>, EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let rows = store::list(tx.conn(), None).await?;
    Ok(rows.iter().map(Endpoint::from).collect())
}

/// Gives an endpoint a new secret; the former signs beside it for `overlap`.
pub async fn rotate(
    pool: &PgPool,
    id: Uuid,
    overlap: Duration,
    by: &By,
) -> Result<WithSecret, EndpointError> {
    let secret = signature::new_secret();
    let act = Act::Rotate(&secret, overlap);
    let endpoint = perform(pool, id, &act, by).await?;
    Ok(WithSecret { endpoint, secret })
}

/// Sends nothing to it until it is enabled; what waits stays.
pub async fn disable(
    pool: &PgPool,
    id: Uuid,
    reason: &str,
    by: &By,
) -> Result<Endpoint, EndpointError> {
    perform(pool, id, &Act::Disable(reason), by).await
}

/// Sends to it again, what waited first.
pub async fn enable(pool: &PgPool, id: Uuid, by: &By) -> Result<Endpoint, EndpointError> {
    perform(pool, id, &Act::Enable, by).await
}

/// Removes an endpoint with its deliveries.
pub async fn remove(pool: &PgPool, id: Uuid, by: &By) -> Result<Endpoint, EndpointError> {
    perform(pool, id, &Act::Remove, by).await
}

/// What is done with an endpoint.
enum Act<'a> {
    Rotate(&'a str, Duration),
    Disable(&'a str),
    Enable,
    Remove,
    Test(&'a Answer),
}

impl Act<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Rotate(..) => ROTATED,
            Self::Disable(_) => DISABLED,
            Self::Enable => ENABLED,
            Self::Remove => REMOVED,
            Self::Test(_) => TESTED,
        }
    }

    /// Whether it changes deliveries.
    fn moves_deliveries(&self) -> bool {
        matches!(self, Self::Enable)
    }

    /// Does it, and says what the audit log should show.
    async fn apply(&self, conn: &mut PgConnection, row: &Row) -> Result<Value, EndpointError> {
        let of_settings = row.id == OF_CONFIGURATION;
        let url = address::shown(&row.url);
        match self {
            Self::Rotate(..) | Self::Remove if of_settings => Err(EndpointError::OfConfiguration),
            Self::Rotate(secret, overlap) => {
                store::rotate(conn, row.id, secret, overlap.as_secs_f64()).await?;
                Ok(json!({"url": url, "overlapSeconds": overlap.as_secs()}))
            }
            Self::Disable(reason) => match store::disable(conn, row.id, reason).await? {
                true => Ok(json!({"url": url, "reason": reason})),
                false => Err(EndpointError::Disabled),
            },
            Self::Enable => {
                store::enable(conn, row.id).await?;
                Ok(json!({"url": url}))
            }
            Self::Remove => {
                store::remove(conn, row.id).await?;
                Ok(json!({"url": url}))
            }
            Self::Test(answer) => {
                if answer.error.is_none() {
                    store::succeeded(conn, &[row.id]).await?;
                }
                Ok(json!({
                    "url": url, "responseStatus": answer.status, "error": answer.error,
                }))
            }
        }
    }
}

/// Locks an endpoint, does it, and enters it. The chain comes first, as always.
async fn perform(
    pool: &PgPool,
    id: Uuid,
    act: &Act<'_>,
    by: &By,
) -> Result<Endpoint, EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    found(tx.conn(), id).await?;
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    if act.moves_deliveries() {
        store::lock_lanes(tx.conn(), id).await?;
    }
    let row = match act {
        Act::Remove => store::lock_to_remove(tx.conn(), id).await?,
        _ => store::lock(tx.conn(), id).await?,
    };
    let row = row.ok_or(EndpointError::Unknown(id))?;
    let after = act.apply(tx.conn(), &row).await?;
    let entry = entry(act.name(), &row, None, Some(after), by);
    audit::record(&mut tx, &locked, &[entry]).await?;
    let shown = store::list(tx.conn(), Some(&[id]))
        .await?
        .pop()
        .unwrap_or(row);
    tx.commit().await?;
    if matches!(act, Act::Remove) {
        clear(pool, id).await?;
    }
    Ok(Endpoint::from(&shown))
}

/// Rows of a removed endpoint that go in one transaction.
const CLEARED: i64 = 1_000;

/// Clears what a removed endpoint leaves. What a crash leaves, a later sweep clears.
pub(super) async fn clear(pool: &PgPool, id: Uuid) -> Result<(), sqlx::Error> {
    while clear_batch(pool, id).await? {}
    Ok(())
}

/// Clears a batch of it. Returns whether there may be more.
pub(super) async fn clear_batch(pool: &PgPool, id: Uuid) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let gone = store::clear(tx.conn(), id, CLEARED).await?;
    tx.commit().await?;
    Ok(gone >= CLEARED.unsigned_abs())
}

pub(super) async fn found(conn: &mut PgConnection, id: Uuid) -> Result<Row, EndpointError> {
    let row = store::list(conn, Some(&[id])).await?.pop();
    row.ok_or(EndpointError::Unknown(id))
}

pub(super) fn entry(
    action: &'static str,
    row: &Row,
    before: Option<Value>,
    after: Option<Value>,
    by: &By,
) -> NewEntry {
    let mut metadata = by.metadata();
    if let Some(organization_id) = row.organization_id {
        metadata["organizationId"] = json!(organization_id);
    }
    NewEntry {
        // An organization's own log is its members', who have no part in this.
        organization_id: OPERATORS,
        action,
        actor: by.actor,
        resource_type: "event_endpoint",
        resource_id: row.id.to_string(),
        before,
        after,
        metadata,
        client: by.client.clone(),
        reason: None,
    }
}

/// Sends an event of its own type, once and at once, and says what came of it.
pub async fn test(
    pool: &PgPool,
    id: Uuid,
    allowed: &AllowedAddresses,
    of_configuration: Option<&WebhookSecret>,
    now: Timestamp,
    by: &By,
) -> Result<Answer, EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let row = found(tx.conn(), id).await?;
    tx.commit().await?;
    let secrets = secrets(&row, of_configuration, now);
    if secrets.is_empty() {
        return Err(EndpointError::OfConfiguration);
    }
    let event_id = Uuid::now_v7();
    let data = json!({"message": "A test: nothing happened.", "endpointId": row.id});
    let body = NewEvent::new(event_id, TEST, now, &data).and_then(|event| event.body(SOURCE, 0));
    let body = body.map_err(|error| sqlx::Error::Encode(error.into()))?;
    // Its address is meant for the process that listens.
    let poster = match row.source.as_str() {
        "listen" => return Err(EndpointError::Listening),
        "configuration" => Poster::trusting(),
        _ => Poster::guarded(allowed),
    };
    let poster = poster.map_err(|error| sqlx::Error::Configuration(error.into()))?;
    let url = Url::parse(&row.url).map_err(|_| Refused::NoUrl)?;
    let message = Message {
        id: &event_id.to_string(),
        body: &body,
    };
    let answer = poster.post(&url, &secrets, &message, now).await;
    perform(pool, id, &Act::Test(&answer), by).await?;
    Ok(answer)
}

/// What signs at `now`.
pub fn secrets(
    row: &Row,
    of_configuration: Option<&WebhookSecret>,
    now: Timestamp,
) -> Vec<WebhookSecret> {
    if row.id == OF_CONFIGURATION {
        return of_configuration.cloned().into_iter().collect();
    }
    let former = row.previous_secret_until.filter(|until| now < *until);
    let former = former.and(row.previous_secret.as_deref());
    let all = row.secret.as_deref().into_iter().chain(former);
    all.filter_map(WebhookSecret::parse).collect()
}

/// Endpoints that were given up, with their addresses and why.
pub async fn given_up(pool: &PgPool) -> Result<Vec<(Uuid, String, Option<String>)>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let rows = store::given_up(tx.conn()).await?.into_iter();
    Ok(rows
        .map(|(id, url, reason)| (id, address::shown(&url), reason))
        .collect())
}
