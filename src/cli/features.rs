//! `features`

use clap::Subcommand;
use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, table};
use crate::audit::Actor;
use crate::catalogue::Catalogue;
use crate::config::{GlobalArgs, StripeArgs};
use crate::db::{self, TenantTx};
use crate::features::{self, FeatureRow, Given, SetError, SetFeature, UnsetFeature};

#[derive(Debug, Subcommand)]
pub enum Features {
    /// List an organization's features, and where each value comes from.
    List {
        /// The organization's id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: String,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Override a feature of an organization's plan.
    ///
    /// The value holds from the next request on, whatever the plan says, until it is
    /// removed or its end has come.
    Set {
        /// The organization's id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: String,
        /// A feature of the catalogue, such as sso.
        #[arg(long, value_name = "F")]
        feature: String,
        /// true or false for a flag, a whole number, or a word; an empty word is off.
        #[arg(long, value_name = "V", allow_hyphen_values = true)]
        value: String,
        /// Why, for the audit log and for the next operator.
        #[arg(long, value_name = "R")]
        reason: String,
        /// When the override ends by itself, in RFC 3339; unset: when it is removed.
        #[arg(long, value_name = "T", value_parser = arguments::time)]
        expires_at: Option<Timestamp>,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Remove an override: the plan's value holds again.
    Unset {
        /// The organization's id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: String,
        /// A feature of the catalogue, such as sso.
        #[arg(long, value_name = "F")]
        feature: String,
        /// Why, for the audit log.
        #[arg(long, value_name = "R")]
        reason: Option<String>,
        #[command(flatten)]
        stripe: StripeArgs,
        #[command(flatten)]
        format: Format,
    },
}

impl Features {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let (Self::List { stripe, .. } | Self::Set { stripe, .. } | Self::Unset { stripe, .. }) =
            &self;
        let catalogue = Catalogue::load(stripe.check()?.plans_file.as_deref())?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool, &catalogue).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, catalogue: &Catalogue) -> Result<(), Failure> {
        let (changed, format) = match self {
            Self::List {
                organization,
                format,
                ..
            } => return list(pool, catalogue, &organization, format).await,
            Self::Set {
                organization,
                feature,
                value,
                reason,
                expires_at,
                format,
                ..
            } => {
                let command = SetFeature {
                    organization_id: organization::found(pool, &organization).await?,
                    feature,
                    value: Given::Text(value),
                    reason,
                    expires_at,
                    actor: Actor::System,
                    client: None,
                };
                (features::set(pool, catalogue, &command).await?, format)
            }
            Self::Unset {
                organization,
                feature,
                reason,
                format,
                ..
            } => {
                let command = UnsetFeature {
                    organization_id: organization::found(pool, &organization).await?,
                    feature,
                    reason,
                    actor: Actor::System,
                    client: None,
                };
                (features::unset(pool, catalogue, &command).await?, format)
            }
        };
        format.print(&changed, |row| describe(std::slice::from_ref(row)))
    }
}

async fn list(
    pool: &PgPool,
    catalogue: &Catalogue,
    organization: &str,
    format: Format,
) -> Result<(), Failure> {
    let organization = organization::found(pool, organization).await?;
    let mut tx = TenantTx::begin(pool, organization).await?;
    let rows = features::list(tx.conn(), catalogue, organization).await?;
    format.print(&rows, |rows| match rows.as_slice() {
        [] => "the catalogue has no [features]".to_owned(),
        rows => describe(rows),
    })
}

fn describe(rows: &[FeatureRow]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let set = row.r#override.as_ref();
            let end = set.and_then(|set| set.expires_at);
            vec![
                row.feature.clone(),
                row.name.clone(),
                row.value
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), ToString::to_string),
                row.source.as_str().to_owned(),
                end.map(|at| at.to_string()).unwrap_or_default(),
                set.map(|set| set.reason.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    table(
        &["FEATURE", "NAME", "VALUE", "BY", "UNTIL", "REASON"],
        &rows,
    )
}

impl From<SetError> for Failure {
    fn from(error: SetError) -> Self {
        match error {
            SetError::Database(error) => error.into(),
            SetError::Organization(_) | SetError::Erased(_) | SetError::NoOverride(_) => {
                Self::failed(error.to_string())
            }
            SetError::Feature(problem) => Self::usage(format!("--feature: {problem}")),
            SetError::Value(problem) => Self::usage(format!("--value: {problem}")),
            SetError::Reason => Self::usage(format!("--reason: {error}")),
            SetError::Changed => Self::failed(error.to_string()),
            SetError::Past(_) => Self::usage(format!("--expires-at: {error}")),
        }
    }
}
