//! What the demo shows: the addresses and credentials, and a few lines a minute
//! about what happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Zoned;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::tenants::Login;
use super::traffic::Counts;
use crate::cli::{Failure, output};
use crate::db::WorkerTx;
use crate::telemetry::terminal::counted;
use crate::webhooks;

/// Time between two lines about what happens.
const LINE_EVERY: Duration = Duration::from_secs(20);
/// Lines until the addresses would leave a small terminal.
const LINES_IN_VIEW: u32 = 15;
/// Time between two banners where all log lines are shown.
const BANNER_EVERY: Duration = Duration::from_secs(60);
/// How long the first events of a new demo fill the log.
const START_UP: Duration = Duration::from_secs(10);

/// Where the demo is and how to use it.
pub struct Banner {
    pub address: SocketAddr,
    pub stripe: String,
    pub login: Login,
    pub database_url: String,
}

impl Banner {
    /// The addresses and credentials.
    pub fn addresses(&self) -> String {
        let Self {
            address,
            stripe,
            login,
            database_url,
        } = self;
        let Login {
            operator,
            operator_password,
            email,
            password,
            api_key,
        } = login;
        format!(
            "\n  ValueCanvas Billing demo\n\n  \
             Console    http://{address}/console ({operator} / {operator_password})\n  \
             Customers  http://{address}/portal (with the login below)\n  \
             API        http://{address}\n  \
             Docs       http://{address}/docs\n  \
             Webhooks   http://{address}/api/billing/webhooks/stripe\n  \
             Health     http://{address}/readyz\n  \
             Metrics    http://{address}/metrics\n  \
             Login      {email} / {password}\n  \
             API key    {api_key}\n  \
             Stripe     {stripe} (a stand-in; any sk_test_… key)\n  \
             Database   {database_url}\n\n  \
             `valuecanvas-billing status` shows this again. ^C stops it.\n"
        )
    }

    /// Commands to start with, for another terminal.
    fn commands(&self) -> String {
        let address = self.address;
        let Login {
            email, password, ..
        } = &self.login;
        format!(
            "\n  Subscriptions change, their events arrive, and agents are used. In another terminal:\n\n    \
             TOKEN=$(curl -s http://{address}/api/auth/login -H 'Content-Type: application/json' \\\n      \
             -d '{{\"email\":\"{email}\",\"password\":\"{password}\"}}' | jq -r .token)\n    \
             curl -s http://{address}/api/billing/subscription/preview -H \"Authorization: Bearer $TOKEN\" \\\n      \
             -H 'Content-Type: application/json' -d '{{\"planTier\":\"standard\"}}' | jq\n    \
             curl -s -X PUT http://{address}/api/billing/subscription -H \"Authorization: Bearer $TOKEN\" \\\n      \
             -H 'Content-Type: application/json' -d '{{\"planTier\":\"standard\"}}' | jq\n    \
             eval \"$(valuecanvas-billing status --output env)\"\n    \
             psql $DATABASE_URL -c \"SELECT action, actor_type, created_at FROM billing_audit_log ORDER BY created_at DESC LIMIT 10;\"\n    \
             curl -s http://{address}/api/billing/usage -H \"Authorization: Bearer $TOKEN\" | jq\n    \
             valuecanvas-billing webhooks list\n    \
             valuecanvas-billing webhooks dead-letters\n    \
             valuecanvas-billing audit verify\n"
        )
    }

    /// Prints the commands and, below them, the addresses.
    pub fn print(&self) -> Result<(), Failure> {
        output::print(&(self.commands() + &self.addresses()))
    }
}

/// Keeps the addresses in view while log lines pass, until `stop`.
pub async fn beside_the_log(banner: Banner, stop: CancellationToken) {
    let mut pause = START_UP;
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        show(banner.addresses()).await;
        pause = BANNER_EVERY;
    }
}

/// Prints a line about what happens now and then, and the addresses before they
/// are out of view and when the database is back, until `stop`.
pub async fn instead_of_the_log(
    banner: Banner,
    counts: Arc<Counts>,
    pool: PgPool,
    stop: CancellationToken,
) {
    let (mut lines, mut reachable) = (0, true);
    while stop
        .run_until_cancelled(tokio::time::sleep(LINE_EVERY))
        .await
        .is_some()
    {
        let backlog = backlog(&pool).await;
        let was_reachable = std::mem::replace(&mut reachable, backlog.is_ok());
        if lines >= LINES_IN_VIEW || (reachable && !was_reachable) {
            show(banner.addresses()).await;
            lines = 0;
        }
        let events = match backlog {
            Ok(backlog) => format!(
                "{} waiting, {}",
                counted(backlog.unprocessed, "event"),
                counted(backlog.dead_letters, "dead letter")
            ),
            Err(_) => "the database cannot be reached".to_owned(),
        };
        let now = Zoned::now().strftime("%H:%M:%S");
        show(format!("  {now}  {}, {events}", counts.take())).await;
        lines += 1;
    }
    pool.close().await;
}

async fn backlog(pool: &PgPool) -> Result<webhooks::Backlog, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    webhooks::backlog(tx.conn()).await
}

/// Prints from a thread that may wait for the terminal.
async fn show(text: String) {
    // A closed terminal is no error.
    let _ = tokio::task::spawn_blocking(move || output::print(&text)).await;
}
