//! Credentials looked up together. Nothing is remembered, so that what is
//! revoked is refused at once.

use std::collections::HashMap;

use sqlx::postgres::{PgConnection, PgPool};

use super::store::{self, KeyRow, SessionRow};
use super::token::Presented;
use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;

/// What a credential stands for.
#[derive(Debug, Clone)]
pub enum Found {
    Session(SessionRow),
    Key(KeyRow),
}

/// Where credentials are asked about.
#[derive(Clone)]
pub struct Lookup(Grouped<Presented, Found>);

impl Lookup {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        Self(Grouped::new(move |presented| {
            let pool = pool.clone();
            Box::pin(async move {
                let found = look_up(&pool, &presented).await?;
                if found.values().any(Found::is_stale) {
                    tokio::spawn(note_use(pool, found.clone()));
                }
                Ok(found)
            })
        }))
    }

    /// What the credential stands for now; None: nothing.
    pub async fn find(&self, presented: Presented) -> Result<Option<Found>, Problem> {
        let found = self.0.find(presented).await;
        found.map_err(|error| Problem::from(&*error))
    }
}

impl Found {
    /// Whether its last use was noted long ago.
    fn is_stale(&self) -> bool {
        match self {
            Self::Session(row) => row.stale,
            Self::Key(row) => row.stale,
        }
    }
}

type Finds = HashMap<Presented, Found>;

async fn look_up(pool: &PgPool, presented: &[Presented]) -> Result<Finds, sqlx::Error> {
    let (mut sessions, mut keys) = (Vec::new(), Vec::new());
    for presented in presented {
        match presented {
            Presented::Session(hash) => sessions.push(*hash),
            Presented::Key(hash) => keys.push(*hash),
        }
    }
    let mut conn = pool.acquire().await?;
    let mut found = Finds::new();
    if !sessions.is_empty() {
        let rows = store::sessions(&mut conn, &sessions).await?;
        let rows = rows.into_iter();
        found.extend(rows.map(|(hash, row)| (Presented::Session(hash), Found::Session(row))));
    }
    if !keys.is_empty() {
        let rows = store::keys_of_hashes(&mut conn, &keys).await?;
        let rows = rows.into_iter();
        found.extend(rows.map(|(hash, row)| (Presented::Key(hash), Found::Key(row))));
    }
    Ok(found)
}

/// Notes the use of those whose last one is long ago.
async fn note_use(pool: PgPool, found: Finds) {
    let stale = found.iter().filter(|(_, found)| found.is_stale());
    if let Err(error) = try_note_use(&pool, stale).await {
        tracing::warn!(%error, "the use of credentials could not be noted");
    }
}

async fn try_note_use(
    pool: &PgPool,
    stale: impl Iterator<Item = (&Presented, &Found)>,
) -> Result<(), sqlx::Error> {
    let mut pooled = pool.acquire().await?;
    for (presented, found) in stale {
        let conn: &mut PgConnection = &mut pooled;
        let noted = match found {
            Found::Session(_) => store::touch_session(conn, &presented.hash()).await,
            Found::Key(row) => store::touch_key(conn, row.organization_id, row.id).await,
        };
        if let Err(error) = noted {
            // It died, or can no longer write.
            if db::is_outage(&error) {
                pooled.close_on_drop();
            }
            return Err(error);
        }
    }
    Ok(())
}
