//! `figures`

use billing_domain::money;
use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::Failure;
use super::database::on_database;
use super::output::{self, Format, counted, table};
use crate::config::GlobalArgs;
use crate::db::{self, WorkerTx};
use crate::reporting::figures::{self, CustomerCount, Month};
use crate::reporting::{csv, journal};

#[derive(Debug, Subcommand)]
pub enum Figures {
    /// Who pays, and how much a month; trials, and what is past due.
    Show {
        #[command(flatten)]
        format: Format,
    },
    /// How many organizations pay, are past due, try or are free, by plan.
    Standings {
        #[command(flatten)]
        format: Format,
    },
    /// Write the journal of recurring revenue anew, from the events that are still stored.
    Rebuild {
        /// Accept that what is older than the stored events is dated by when subscriptions began.
        #[arg(long, required = true)]
        yes: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Monthly recurring revenue by month and currency, newest first.
    Months {
        /// How many months, this one included.
        #[arg(long, value_name = "N", default_value_t = figures::MONTHS,
              value_parser = clap::value_parser!(u32).range(1..=i64::from(figures::MOST_MONTHS)))]
        count: u32,
        /// Print CSV, with amounts in minor units.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        #[command(flatten)]
        format: Format,
    },
}

impl Figures {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            if let Self::Rebuild { format, .. } = self {
                let Some(movements) = journal::rebuild(&pool).await? else {
                    return Err(Failure::failed(
                        "another process books just now: run it again",
                    ));
                };
                let rebuilt = Rebuilt { movements };
                return format.print(&rebuilt, |one| counted(one.movements, "movement"));
            }
            // `serve` may not run: what moved since is booked first.
            journal::run(&pool).await?;
            let now = Timestamp::now();
            let mut tx = WorkerTx::begin(&pool).await?;
            match self {
                Self::Show { format } => {
                    let read = figures::read(tx.conn(), now).await?;
                    format.print(&read, describe)
                }
                Self::Rebuild { .. } => Ok(()),
                Self::Standings { format } => {
                    let counts = figures::standings(tx.conn()).await?;
                    format.print(&counts, |counts| describe_standings(counts))
                }
                Self::Months { count, csv, format } => {
                    let months = figures::months(tx.conn(), now, count).await?;
                    match csv {
                        true => {
                            let lines = csv::MONTHS.to_owned() + &csv::months(&months);
                            output::print(lines.replace("\r\n", "\n").trim_end())
                        }
                        false => format.print(&months, |months| describe_months(months)),
                    }
                }
            }
        })
        .await
    }
}

/// What was booked anew.
#[derive(Serialize)]
struct Rebuilt {
    movements: i64,
}

fn describe(read: &figures::Figures) -> String {
    let mut lines = Vec::new();
    for one in &read.recurring_revenue {
        let mrr = money::display(one.mrr_amount, &one.currency);
        let customers = counted(one.customers, "customer");
        lines.push(format!("{mrr} a month from {customers}"));
    }
    if lines.is_empty() {
        lines.push("nobody pays".to_owned());
    }
    let trials = &read.trials;
    lines.push(format!(
        "{} running, {} of them within seven days of their end",
        counted(trials.running, "trial"),
        trials.ending
    ));
    for one in &read.past_due {
        let owed = money::display(one.owed_amount, &one.currency);
        let subscriptions = counted(one.subscriptions, "subscription");
        lines.push(format!("{owed} past due of {subscriptions}"));
    }
    for one in &read.usage_at_risk {
        let amount = money::display(one.amount, &one.currency);
        let organizations = counted(one.organizations, "organization");
        lines.push(format!(
            "{amount} of usage on no invoice yet, of {organizations} past due"
        ));
    }
    lines.join("\n")
}

fn describe_standings(counts: &[CustomerCount]) -> String {
    let rows: Vec<Vec<String>> = counts
        .iter()
        .map(|one| {
            vec![
                one.plan_tier.clone(),
                one.standing.clone(),
                one.organizations.to_string(),
            ]
        })
        .collect();
    table(&["PLAN", "STANDING", "ORGANIZATIONS"], &rows)
}

fn describe_months(months: &[Month]) -> String {
    if months.is_empty() {
        return "nothing was ever paid".to_owned();
    }
    let rows: Vec<Vec<String>> = months
        .iter()
        .map(|one| {
            let amount = |minor: i64| money::display(minor, &one.currency);
            let percent = one.customer_churn_percent.as_deref();
            vec![
                one.month.clone(),
                amount(one.opening_amount),
                amount(one.new_amount),
                amount(one.reactivation_amount),
                amount(one.expansion_amount),
                amount(one.contraction_amount),
                amount(one.churn_amount),
                amount(one.closing_amount),
                one.closing_customers.to_string(),
                percent.map_or_else(String::new, |percent| format!("{percent} %")),
            ]
        })
        .collect();
    let headings = [
        "MONTH",
        "OPENING",
        "NEW",
        "REACTIVATED",
        "EXPANSION",
        "CONTRACTION",
        "CHURN",
        "CLOSING",
        "CUSTOMERS",
        "CHURNED",
    ];
    table(&headings, &rows)
}
