//! Looks up credentials, many in one query. Nothing is cached, so that a revoked
//! credential stops working at once.

use std::collections::HashMap;

use sqlx::postgres::{PgConnection, PgPool};

use super::store::{self, KeyRow, SessionRow};
use super::token::Credential;
use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;

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
        Self(Grouped::new(move |credentials| {
            let pool = pool.clone();
            Box::pin(async move {
                let found = look_up(&pool, &credentials).await?;
                if found.values().any(ValidCredential::is_stale) {
                    tokio::spawn(note_use(pool, found.clone()));
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

impl ValidCredential {
    /// Whether its recorded last use is out of date.
    fn is_stale(&self) -> bool {
        match self {
            Self::Session(row) => row.stale,
            Self::Key(row) => row.stale,
        }
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
    let mut conn = pool.acquire().await?;
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

/// Records the use of credentials whose recorded last use is out of date.
async fn note_use(pool: PgPool, found: FoundCredentials) {
    let stale = found.iter().filter(|(_, found)| found.is_stale());
    if let Err(error) = try_note_use(&pool, stale).await {
        tracing::warn!(%error, "could not record the use of credentials");
    }
}

async fn try_note_use(
    pool: &PgPool,
    stale: impl Iterator<Item = (&Credential, &ValidCredential)>,
) -> Result<(), sqlx::Error> {
    let mut pooled = pool.acquire().await?;
    for (credential, found) in stale {
        let conn: &mut PgConnection = &mut pooled;
        let noted = match found {
            ValidCredential::Session(_) => store::touch_session(conn, &credential.hash()).await,
            ValidCredential::Key(row) => store::touch_key(conn, row.organization_id, row.id).await,
        };
        if let Err(error) = noted {
            // The connection is dead or can no longer write.
            if db::is_outage(&error) {
                pooled.close_on_drop();
            }
            return Err(error);
        }
    }
    Ok(())
}
