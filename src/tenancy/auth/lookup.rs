//! Looks up credentials, many in one query. Nothing is cached, so that a revoked
//! credential stops working at once.

use std::collections::{BTreeSet, HashMap};

use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::store::{self, KeyRow, SessionRow};
use super::token::{Credential, Hash};
use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;

/// How many uses wait to be recorded at most, and how many one statement
/// records.
const USES: usize = 4_096;
const MOST_USES: usize = 1_024;

/// A valid credential's row.
#[derive(Debug, Clone)]
pub enum ValidCredential {
    Session(SessionRow),
    Key(KeyRow),
}

/// The batched lookup of credentials.
#[derive(Clone)]
pub struct Lookup(Grouped<Credential, ValidCredential>);

impl Lookup {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        let (uses, used) = mpsc::channel(USES);
        tokio::spawn(record_uses(pool.clone(), used));
        Self(Grouped::new(move |credentials| {
            let (pool, uses) = (pool.clone(), uses.clone());
            Box::pin(async move {
                let found = look_up(&pool, &credentials).await?;
                for stale in found.iter().filter_map(stale_use) {
                    // One without room is recorded when it is used again.
                    let _ = uses.try_send(stale);
                }
                Ok(found)
            })
        }))
    }

    /// Returns what the credential stands for, or `None` if it is not valid.
    pub async fn find(&self, credential: Credential) -> Result<Option<ValidCredential>, Problem> {
        let found = self.0.find(credential).await;
        found.map_err(|error| Problem::from(&*error))
    }
}

/// The use of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    Session(Hash),
    /// Its organization and id.
    Key(Uuid, Uuid),
}

/// The use of a credential whose recorded last use is out of date.
fn stale_use((credential, found): (&Credential, &ValidCredential)) -> Option<Use> {
    match found {
        ValidCredential::Session(row) => row.stale.then(|| Use::Session(credential.hash())),
        ValidCredential::Key(row) => row.stale.then_some(Use::Key(row.organization_id, row.id)),
    }
}

type FoundCredentials = HashMap<Credential, ValidCredential>;

async fn look_up(
    pool: &PgPool,
    credentials: &[Credential],
) -> Result<FoundCredentials, sqlx::Error> {
    let (mut sessions, mut keys) = (Vec::new(), Vec::new());
    for credential in credentials {
        match credential {
            Credential::Session(hash) => sessions.push(*hash),
            Credential::Key(hash) => keys.push(*hash),
        }
    }
    let mut conn = db::acquire(pool).await?;
    let mut found = FoundCredentials::new();
    if !sessions.is_empty() {
        let rows = store::sessions(&mut conn, &sessions).await?;
        let rows = rows.into_iter();
        found.extend(
            rows.map(|(hash, row)| (Credential::Session(hash), ValidCredential::Session(row))),
        );
    }
    if !keys.is_empty() {
        let rows = store::keys_of_hashes(&mut conn, &keys).await?;
        let rows = rows.into_iter();
        found.extend(rows.map(|(hash, row)| (Credential::Key(hash), ValidCredential::Key(row))));
    }
    Ok(found)
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
    for used in distinct {
        match used {
            Use::Session(hash) => sessions.push(*hash),
            Use::Key(organization_id, id) => keys.push((*organization_id, *id)),
        }
    }
    let mut conn = db::acquire(pool).await?;
    let recorded = async {
        store::touch_sessions(&mut conn, &sessions).await?;
        store::touch_keys(&mut conn, &keys).await
    }
    .await;
    // The connection is dead or can no longer write.
    if recorded.as_ref().is_err_and(db::is_outage) {
        conn.close_on_drop();
    }
    recorded
}
