//! `subscriptions end-doubles`

use std::sync::Arc;

use billing_domain::money;
use clap::Args;
use serde::Serialize;

use crate::catalogue::Catalogue;
use crate::cli::backfill::{PATIENCE, stripe_client};
use crate::cli::database::on_database;
use crate::cli::output::{Format, counted, table};
use crate::cli::{Failure, arguments, organization};
use crate::config::{GlobalArgs, StripeArgs};
use crate::db;
use crate::subscriptions::{Looked, Several, Subscriptions, Surplus};

/// Without --apply nothing is changed. One that is paid for stays before one that is not,
/// then that of the highest plan, then one that was made or changed here, then the oldest.
/// The others end at once; an open invoice of theirs is voided, and usage stays with the one
/// that goes on. Where the catalogue does not know the plan of one, nothing ends until --keep
/// names the one that stays.
#[derive(Debug, Args)]
pub struct EndDoubles {
    /// Look at this organization only.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// Which subscription of the organization stays, whatever the rules say.
    #[arg(long, value_name = "SUB", requires = "organization")]
    keep: Option<String>,
    /// Give back what was paid for the last period of those that end.
    #[arg(long, requires = "apply")]
    refund: bool,
    /// End them.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    applied: bool,
    #[serde(flatten)]
    several: Several,
}

impl EndDoubles {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let catalogue = Catalogue::load(self.stripe.check()?.plans_file.as_deref())?;
        let client = stripe_client(&self.stripe, PATIENCE)?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 2);
            let named = self.organization.as_deref();
            let organization_id = organization::found_if_named(&pool, named).await?;
            let subscriptions = Subscriptions::new(
                pool.clone(),
                db::lookup_pool(database.service.clone(), 1),
                Arc::new(catalogue),
                Some(client),
            );
            let looked = Looked {
                organization_id,
                keep: self.keep.as_deref(),
            };
            let several = subscriptions.doubles(looked).await?;
            if let (Some(keep), true) = (&self.keep, several.doubles.is_empty()) {
                return Err(Failure::usage(format!(
                    "--keep: {keep:?} is none of several running subscriptions of the \
                     organization; run it without --keep to see them"
                )));
            }
            self.act(&subscriptions, several).await
        })
        .await
    }

    async fn act(
        &self,
        subscriptions: &Subscriptions,
        mut several: Several,
    ) -> Result<(), Failure> {
        let mut stopped = Ok(());
        if self.apply {
            for one in &mut several.doubles {
                stopped = subscriptions.end_doubles(one, self.refund).await;
                if stopped.is_err() {
                    break;
                }
            }
        }
        let found = Found {
            applied: self.apply,
            several,
        };
        self.format.print(&found, describe)?;
        stopped?;
        let Several { doubles, undecided } = &found.several;
        let mut ends = doubles.iter().flat_map(|one| &one.ends);
        let is_left = ends.any(|one| !one.ended) || !undecided.is_empty();
        match self.apply && is_left {
            true => Err(Failure::silent()),
            false => Ok(()),
        }
    }
}

fn describe(found: &Found) -> String {
    let Several { doubles, undecided } = &found.several;
    if doubles.is_empty() && undecided.is_empty() {
        return "no organization pays for several subscriptions, as far as they are mirrored: \
                `subscriptions reconcile --apply` mirrors what Stripe has"
            .to_owned();
    }
    let mut text = String::new();
    let mut surplus = 0;
    for one in doubles {
        let stays = &one.stays;
        text += &format!(
            "{} ({})\n{} stays ({}, {}): {}\n",
            one.name,
            one.organization_id,
            stays.stripe_subscription_id,
            stays.plan_tier.as_deref().unwrap_or("no plan"),
            stays.status,
            one.because.as_text(),
        );
        let rows: Vec<Vec<String>> = one.ends.iter().map(|one| row(found, one)).collect();
        surplus += rows.len();
        let headings = [
            "ENDS", "CUSTOMER", "PLAN", "STATUS", "CREATED", "PAID", "OUTCOME",
        ];
        text += &table(&headings, &rows);
        text += "\n\n";
    }
    for one in undecided {
        text += &format!("{} ({})\n", one.name, one.organization_id);
        for one in &one.running {
            text += &format!(
                "{} ({}, {})\n",
                one.stripe_subscription_id,
                one.plan_tier
                    .as_deref()
                    .unwrap_or("a plan that the catalogue does not know"),
                one.status,
            );
        }
        text += &format!(
            "nothing ends here: name the one that stays with --organization {} --keep SUB\n\n",
            one.organization_id
        );
    }
    let summary = match found.applied {
        true => "",
        false => "; nothing was changed: --apply ends them",
    };
    format!("{text}{} to end{summary}", counted(surplus, "subscription"))
}

fn row(found: &Found, surplus: &Surplus) -> Vec<String> {
    let one = &surplus.subscription;
    let outcome = match (&surplus.problem, surplus.ended, surplus.refunded) {
        (Some(problem), ..) => problem.as_str(),
        (None, true, true) => "ended, refunded",
        (None, true, false) => "ended",
        (None, false, _) if found.applied => "not reached",
        (None, false, _) => "would end",
    };
    let currency = surplus.currency.as_deref().unwrap_or("usd");
    vec![
        one.stripe_subscription_id.clone(),
        one.stripe_customer_id.clone(),
        one.plan_tier.clone().unwrap_or_else(|| "-".to_owned()),
        one.status.to_string(),
        one.created_at.map_or("-".to_owned(), |at| at.to_string()),
        match surplus.paid_amount {
            0 => "-".to_owned(),
            paid => money::display(paid, currency),
        },
        outcome.to_owned(),
    ]
}
