//! `explain`

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, printable};
use crate::catalogue::Catalogue;
use crate::config::{GlobalArgs, StripeArgs, UsageConfig};
use crate::db;
use crate::explain::{Explanation, Question, explain};
use crate::metering::ledger::Rules;

#[derive(Debug, Args)]
pub struct Explain {
    /// A webhook event (evt_…) or an invoice (in_…).
    #[arg(value_name = "EVT|INVOICE", required_unless_present_any = ["organization", "request_id"],
          conflicts_with_all = ["organization", "metric", "feature", "at"])]
    subject: Option<String>,
    /// The `X-Request-Id` of an answer that refused a use.
    #[arg(long, value_name = "ID",
          conflicts_with_all = ["subject", "organization", "metric", "feature", "at"])]
    request_id: Option<String>,
    /// The organization whose plan is explained, or a metric or feature of it.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// A metric of the catalogue: what may be used of it, and why.
    #[arg(long, value_name = "M", requires = "organization")]
    metric: Option<String>,
    /// A feature of the catalogue.
    #[arg(long, value_name = "F", requires = "organization", conflicts_with_all = ["metric", "at"])]
    feature: Option<String>,
    /// As of when a plan or a metric is explained, such as 2026-11-22T17:00:00Z.
    #[arg(long, value_name = "T", requires = "organization")]
    at: Option<Timestamp>,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

impl Explain {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let catalogue = Catalogue::load(self.stripe.check()?.plans_file.as_deref())?;
        let rules = Rules {
            catalogue: Arc::new(catalogue),
            // Grace is read as it began.
            grace_hours: UsageConfig::default().grace_hours,
        };
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            let question = match (self.request_id, self.subject, &self.organization) {
                (Some(id), _, _) => Question::Denial(id),
                (None, Some(id), _) if id.starts_with("in_") => Question::Invoice(id),
                (None, Some(id), _) if id.starts_with("evt_") => Question::Event(id),
                (None, Some(id), _) => {
                    return Err(Failure::usage(format!(
                        "{id:?} is neither an event (evt_…) nor an invoice (in_…); for an \
                         organization, say --organization"
                    )));
                }
                (None, None, named) => {
                    let named = named.as_deref().unwrap_or_default();
                    let organization_id = organization::found(&pool, named).await?;
                    let at = self.at;
                    match (self.metric, self.feature) {
                        (Some(metric), _) => Question::Metric {
                            organization_id,
                            metric,
                            at,
                        },
                        (None, Some(feature)) => Question::Feature {
                            organization_id,
                            feature,
                        },
                        (None, None) => Question::Plan {
                            organization_id,
                            at,
                        },
                    }
                }
            };
            let explained = explain(&pool, &rules, &question, Timestamp::now()).await;
            let explained = explained.map_err(|error| Failure::failed(error.to_string()))?;
            self.format.print(&explained, describe)
        })
        .await
    }
}

fn describe(explained: &Explanation) -> String {
    let mut text = printable(&explained.answer);
    for cause in &explained.causes {
        text += "\n  - ";
        text += &printable(&cause.sentence);
    }
    text
}
