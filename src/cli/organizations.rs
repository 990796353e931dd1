//! `organizations`

use clap::Subcommand;
use sqlx::postgres::PgPool;

use super::Failure;
use super::database::on_database;
use super::output::{Format, table};
use crate::config::{GlobalArgs, StripeArgs};
use crate::db::{self, WorkerTx};
use crate::organizations::{self, NewOrganization, Organization};
use crate::plans::{Catalogue, FREE_TIER};

#[derive(Debug, Subcommand)]
pub enum Organizations {
    /// Create an organization.
    Create {
        #[arg(long)]
        name: String,
        /// The plan while no subscription says otherwise.
        #[arg(long, value_name = "TIER", default_value = FREE_TIER)]
        plan: String,
        /// Its customer in Stripe (cus_…).
        #[arg(long, value_name = "CUS")]
        stripe_customer: Option<String>,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// List the organizations.
    List {
        #[command(flatten)]
        format: Format,
    },
}

impl Organizations {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let plans_file = match &self {
            Self::Create { stripe, .. } => stripe.check()?.plans_file,
            Self::List { .. } => None,
        };
        let catalogue = Catalogue::load(plans_file.as_deref())?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool, &catalogue).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, catalogue: &Catalogue) -> Result<(), Failure> {
        match self {
            Self::Create {
                name,
                plan,
                stripe_customer,
                format,
                ..
            } => {
                let new = NewOrganization {
                    name,
                    plan_tier: plan,
                    stripe_customer_id: stripe_customer,
                };
                let created = organizations::create(pool, catalogue, new).await?;
                format.print(&created, |created| created.id.to_string())
            }
            Self::List { format } => {
                let mut tx = WorkerTx::begin(pool).await?;
                let list = organizations::list(tx.conn()).await?;
                format.print(&list, |list| describe(list))
            }
        }
    }
}

fn describe(list: &[Organization]) -> String {
    let rows: Vec<Vec<String>> = list
        .iter()
        .map(|organization| {
            vec![
                organization.id.to_string(),
                organization.plan_tier.clone(),
                organization.stripe_customer_id.clone().unwrap_or_default(),
                organization.name.clone(),
            ]
        })
        .collect();
    table(&["ID", "PLAN", "STRIPE CUSTOMER", "NAME"], &rows)
}
