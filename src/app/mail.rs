//! Mails to customers, as parts of `serve`.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::background::Next;
use crate::catalogue::Catalogue;
use crate::config::{ConfigError, ServeConfig};
use crate::mail::{self, Mailer, SendError, Sent, Site};

/// Time between searches for facts that no change tells of.
pub const SEARCH: Duration = Duration::from_secs(5);
/// Time between looks for mails that are due.
pub const SEND: Duration = Duration::from_secs(2);

/// What sends mails; `None` where the settings name no server.
pub fn mailer(
    serve: &ServeConfig,
    catalogue: Arc<Catalogue>,
) -> Result<Option<Mailer>, ConfigError> {
    let Some(config) = &serve.mail else {
        return Ok(None);
    };
    let addresses = &serve.surface.addresses;
    let portal_url = addresses.public.as_ref().map(|url| {
        let base = url.as_str().trim_end_matches('/');
        format!("{base}/portal")
    });
    let application_url = addresses.application.as_ref().map(ToString::to_string);
    let site = Site {
        product: serve.surface.portal.name.clone(),
        manage_url: portal_url.clone().or_else(|| application_url.clone()),
        portal_url,
        application_url,
    };
    Mailer::new(config, site, catalogue).map(Some)
}

pub async fn search(pool: PgPool) -> Result<Next, sqlx::Error> {
    let found = mail::search(&pool).await?;
    if found > 0 {
        tracing::debug!(found, "Facts are told by mails");
    }
    Ok(Next::AfterPeriod)
}

pub async fn send(
    mailer: Mailer,
    pool: PgPool,
    stop: CancellationToken,
) -> Result<Next, SendError> {
    Ok(match mailer.send_due(&pool, &stop).await? {
        Sent::All => Next::AfterPeriod,
        Sent::Some => Next::AtOnce,
    })
}
