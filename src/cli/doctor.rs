//! `doctor`

use clap::Args;

use super::Failure;
use super::output::Format;
use crate::app::Database;
use crate::config::{GlobalArgs, StripeArgs};
use crate::db;
use crate::doctor::{self, Check, Verdict};
use crate::plans::Catalogue;
use crate::stripe::client::Client;

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

impl Doctor {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let stripe = self.stripe.check()?;
        let catalogue = Catalogue::load(stripe.plans_file.as_deref())?;
        let client = stripe
            .api
            .clone()
            .map(|api| Client::new(api.base, api.key, api.patience))
            .transpose()
            .map_err(|error| Failure::failed(error.to_string()))?;
        // It looks, and migrates nothing.
        let database = Database::locate(&config).await?;
        let mut checks = doctor::check_database(&database).await;
        let pool = db::pool(database.service.clone(), 1);
        checks.extend(doctor::check_stripe(&stripe, client.as_ref(), &catalogue, &pool).await);
        pool.close().await;
        database.close().await;
        self.format.print(&checks, |checks| describe(checks))?;
        if checks.iter().any(|check| check.verdict == Verdict::Failed) {
            return Err(Failure::silent());
        }
        Ok(())
    }
}

fn describe(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "WARNING",
            Verdict::Failed => "FAILED ",
            Verdict::Skipped => "skipped",
        };
        lines.push(format!("{verdict} {}: {}", check.name, check.detail));
        lines.extend(check.fix.as_ref().map(|fix| format!("        {fix}")));
    }
    lines.join("\n")
}
