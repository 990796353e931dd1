//! Looks up credentials, many in one query. Nothing is cached, so that a revoked
//! credential stops working at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::store::operator_keys::{self, OperatorKeyRow};
use super::store::portal_sessions::{self, PortalRow};
use super::store::service_keys::{self, ServiceKeyRow};
use super::store::{self, KeyRow, SessionRow};
use super::token::{Credential, Hash};
use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;
use crate::tenancy::names::{Named, own_id};

/// How many uses wait to be recorded at most, and how many one statement
/// records.
const USES: usize = 4_096;
const MOST_USES: usize = 1_024;

/// A valid credential's row.
#[derive(Debug, Clone)]
pub enum ValidCredential {
    Session(SessionRow),
    Key(KeyRow),
    /// With the organization that the request names, if there is one of that name.
    ServiceKey(ServiceKeyRow, Option<Named>),
    Portal(PortalRow),
    OperatorKey(OperatorKeyRow),
}

/// A credential, and what its request calls the organization that it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Presented {
    pub credential: Credential,
    /// Of a service key's request only.
    pub organization: Option<Arc<str>>,
}

/// The batched lookup of credentials.
#[derive(Clone)]
pub struct Lookup(Grouped<Presented, ValidCredential>);

impl Lookup {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        let (uses, used) = mpsc::channel(USES);
        tokio::spawn(record_uses(pool.clone(), used));
        Self(Grouped::new(move |presented: Vec<Presented>| {
            let (pool, uses) = (pool.clone(), uses.clone());
            Box::pin(async move {
                let found = look_up(&pool, &presented).await?;
                for stale in found.iter().filter_map(stale_use) {
                    // One without room is recorded when it is used again.
                    let _ = uses.try_send(stale);
                }
                Ok(found)
            })
        }))
    }

    /// Returns what the credential stands for, or `None` if it is not valid.
    pub async fn find(&self, presented: Presented) -> Result<Option<ValidCredential>, Problem> {
        let found = self.0.find(presented).await;
        found.map_err(|error| Problem::from(&*error))
    }
}

/// The use of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Session(Hash),
    /// Its organization and id.
    Key(Uuid, Uuid),
    ServiceKey(Uuid),
    OperatorKey(Uuid),
}

/// The use of a credential whose recorded last use is out of date.
fn stale_use((presented, found): (&Presented, &ValidCredential)) -> Option<Use> {
    match found {
        ValidCredential::Session(row) => {
            row.stale.then(|| Use::Session(presented.credential.hash()))
        }
        ValidCredential::Key(row) => row.stale.then_some(Use::Key(row.organization_id, row.id)),
        ValidCredential::ServiceKey(row, _) => row.stale.then_some(Use::ServiceKey(row.id)),
        ValidCredential::Portal(_) => None,
        ValidCredential::OperatorKey(row) => row.stale.then_some(Use::OperatorKey(row.id)),
    }
}

type FoundCredentials = HashMap<Presented, ValidCredential>;

async fn look_up(pool: &PgPool, presented: &[Presented]) -> Result<FoundCredentials, sqlx::Error> {
    let (mut sessions, mut keys) = (Vec::new(), Vec::new());
    let (mut of_service, mut of_operators, mut of_portal) = (Vec::new(), Vec::new(), Vec::new());
    for one in presented {
        match one.credential {
            Credential::Session(hash) => sessions.push(hash),
            Credential::Key(hash) => keys.push(hash),
            Credential::ServiceKey(_) => of_service.push(one),
            Credential::Portal(hash) => of_portal.push(hash),
            Credential::OperatorKey(hash) => of_operators.push(hash),
        }
    }
    let alone = |credential| Presented {
        credential,
        organization: None,
    };
    let mut conn = db::acquire(pool).await?;
    let mut found = FoundCredentials::new();
    if !sessions.is_empty() {
        let rows = store::sessions::find(&mut conn, &sessions)
            .await?
            .into_iter();
        found.extend(rows.map(|(hash, row)| {
            let presented = alone(Credential::Session(hash));
            (presented, ValidCredential::Session(row))
        }));
    }
    if !keys.is_empty() {
        let rows = store::keys_of_hashes(&mut conn, &keys).await?.into_iter();
        found.extend(rows.map(|(hash, row)| {
            let presented = alone(Credential::Key(hash));
            (presented, ValidCredential::Key(row))
        }));
    }
    if !of_portal.is_empty() {
        let rows = portal_sessions::sessions(&mut conn, &of_portal).await?;
        found.extend(rows.into_iter().map(|(hash, row)| {
            let presented = alone(Credential::Portal(hash));
            (presented, ValidCredential::Portal(row))
        }));
    }
    if !of_operators.is_empty() {
        let rows = operator_keys::of_hashes(&mut conn, &of_operators).await?;
        found.extend(rows.into_iter().map(|(hash, row)| {
            let presented = alone(Credential::OperatorKey(hash));
            (presented, ValidCredential::OperatorKey(row))
        }));
    }
    if !of_service.is_empty() {
        found.extend(look_up_service_keys(&mut conn, &of_service).await?);
    }
    Ok(found)
}

/// Service keys, each with what its request calls the organization.
async fn look_up_service_keys(
    conn: &mut PgConnection,
    presented: &[&Presented],
) -> Result<FoundCredentials, sqlx::Error> {
    let hashes: BTreeSet<Hash> = presented.iter().map(|one| one.credential.hash()).collect();
    let names = presented
        .iter()
        .filter_map(|one| one.organization.as_deref());
    let names: BTreeSet<&str> = names.collect();
    let ids: Vec<Uuid> = names.iter().filter_map(|name| own_id(name)).collect();
    let (hashes, names) = (Vec::from_iter(hashes), Vec::from_iter(names));
    let (valid, named) = service_keys::keys_and_names(conn, &hashes, &names, &ids).await?;
    let found = presented.iter().filter_map(|one| {
        let key = valid.get(&one.credential.hash())?.clone();
        let organization = one
            .organization
            .as_deref()
            .and_then(|name| named.named(name));
        Some((
            (*one).clone(),
            ValidCredential::ServiceKey(key, organization),
        ))
    });
    Ok(found.collect())
}

/// Records uses, those that came meanwhile in one statement: a commit for each
/// would keep those who look up waiting for a connection.
async fn record_uses(pool: PgPool, mut used: mpsc::Receiver<Use>) {
    let mut uses = Vec::new();
    while used.recv_many(&mut uses, MOST_USES).await > 0 {
        if let Err(error) = try_record(&pool, &uses).await {
            tracing::warn!(%error, "could not record the use of credentials");
        }
        uses.clear();
    }
}

async fn try_record(pool: &PgPool, uses: &[Use]) -> Result<(), sqlx::Error> {
    let distinct: BTreeSet<&Use> = uses.iter().collect();
    let (mut sessions, mut keys) = (Vec::new(), Vec::new());
    let (mut of_service, mut of_operators) = (Vec::new(), Vec::new());
    for used in distinct {
        match used {
            Use::Session(hash) => sessions.push(*hash),
            Use::Key(organization_id, id) => keys.push((*organization_id, *id)),
            Use::ServiceKey(id) => of_service.push(*id),
            Use::OperatorKey(id) => of_operators.push(*id),
        }
    }
    let mut conn = db::acquire(pool).await?;
    let recorded = async {
        store::sessions::touch(&mut conn, &sessions).await?;
        store::touch_keys(&mut conn, &keys).await?;
        service_keys::touch(&mut conn, &of_service).await?;
        operator_keys::touch(&mut conn, &of_operators).await
    }
    .await;
    // The connection is dead or can no longer write.
    if recorded.as_ref().is_err_and(db::is_outage) {
        conn.close_on_drop();
    }
    recorded
}
