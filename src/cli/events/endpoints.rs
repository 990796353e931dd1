//! `events endpoints`

use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::Types;
use crate::cli::database::on_database;
use crate::cli::output::{Format, table};
use crate::cli::running_demo::Running;
use crate::cli::{Failure, arguments, organization};
use crate::config::{
    AllowedAddressArgs, AllowedAddresses, ApplicationArgs, DatabaseLocation, GlobalArgs,
    WebhookSecret,
};
use crate::db;
use crate::outbox::endpoints::{self, By, Endpoint, Kind, NewEndpoint, OVERLAP, WithSecret};

#[derive(Debug, Subcommand)]
pub enum Endpoints {
    /// Create an endpoint. Its secret is printed once.
    Create {
        /// Where events are sent: an https:// address that others can reach too.
        #[arg(long, value_name = "URL")]
        url: String,
        #[command(flatten)]
        types: Types,
        /// Only the events of this organization: its id, or the product's id for it.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        addresses: AllowedAddressArgs,
    },
    /// List the endpoints.
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Give an endpoint a new secret, which is printed once. The former one signs beside
    /// it for a while.
    Rotate {
        /// The endpoint's id.
        #[arg(value_parser = endpoint)]
        endpoint: Uuid,
        /// For how many hours the former secret still signs; 0: from now on it does not.
        #[arg(long, value_name = "N", default_value_t = OVERLAP.as_secs() / 3_600,
              value_parser = clap::value_parser!(u64).range(0..=720))]
        overlap_hours: u64,
        #[command(flatten)]
        format: Format,
    },
    /// Send nothing to an endpoint until it is enabled. What waits stays.
    Disable {
        /// The endpoint's id.
        #[arg(value_parser = endpoint)]
        endpoint: Uuid,
        #[command(flatten)]
        format: Format,
    },
    /// Send to an endpoint again, what waited first. What happened while it was disabled:
    /// `events deliveries recover`.
    Enable {
        /// The endpoint's id.
        #[arg(value_parser = endpoint)]
        endpoint: Uuid,
        #[command(flatten)]
        format: Format,
    },
    /// Remove an endpoint with its deliveries.
    Remove {
        /// The endpoint's id.
        #[arg(value_parser = endpoint)]
        endpoint: Uuid,
        #[command(flatten)]
        format: Format,
    },
    /// Send an event of the type endpoint.test at once, and show the answer.
    Test {
        /// The endpoint's id.
        #[arg(value_parser = endpoint)]
        endpoint: Uuid,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        application: ApplicationArgs,
        #[command(flatten)]
        addresses: AllowedAddressArgs,
    },
}

pub fn endpoint(text: &str) -> Result<Uuid, String> {
    text.parse()
        .map_err(|_| "expected an endpoint's id, as shown by `events endpoints list`".to_owned())
}

impl Endpoints {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let mut allowed = match &self {
            Self::Create { addresses, .. } | Self::Test { addresses, .. } => addresses.check()?,
            _ => AllowedAddresses::default(),
        };
        let embedded = matches!(config.location, DatabaseLocation::Embedded(_));
        // As the demo itself does.
        allowed.loopback |= embedded && Running::find(&config.data_dir).is_some();
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 2);
            self.run_on(&pool, &allowed).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, allowed: &AllowedAddresses) -> Result<(), Failure> {
        match self {
            Self::Create {
                url,
                types,
                organization,
                description,
                format,
                ..
            } => {
                let organization = organization.as_deref();
                let new = NewEndpoint {
                    url,
                    description,
                    types: types.types,
                    organization_id: organization::found_if_named(pool, organization).await?,
                };
                let made =
                    endpoints::create(pool, new, Kind::Operator, allowed, &By::SYSTEM).await?;
                with_secret(&made, format)
            }
            Self::List { format } => {
                let all = endpoints::list(pool).await?;
                format.print(&all, |all| match all.as_slice() {
                    [] => "none; `events endpoints create --url URL` makes one".to_owned(),
                    all => describe(all),
                })
            }
            Self::Rotate {
                endpoint,
                overlap_hours,
                format,
            } => {
                let overlap = Duration::from_secs(overlap_hours * 3_600);
                let rotated = endpoints::rotate(pool, endpoint, overlap, &By::SYSTEM).await?;
                with_secret(&rotated, format)
            }
            Self::Disable { endpoint, format } => {
                let reason = "by an operator";
                let disabled = endpoints::disable(pool, endpoint, reason, &By::SYSTEM).await?;
                one(&disabled, format)
            }
            Self::Enable { endpoint, format } => one(
                &endpoints::enable(pool, endpoint, &By::SYSTEM).await?,
                format,
            ),
            Self::Remove { endpoint, format } => {
                let removed = endpoints::remove(pool, endpoint, &By::SYSTEM).await?;
                format.print(&removed, |removed| format!("removed {}", removed.id))
            }
            Self::Test {
                endpoint,
                format,
                application,
                ..
            } => {
                let secret = match endpoint == endpoints::OF_CONFIGURATION {
                    true => application.check()?.map(|application| application.secret),
                    false => None,
                };
                test(pool, endpoint, allowed, secret.as_ref(), format).await
            }
        }
    }
}

async fn test(
    pool: &PgPool,
    endpoint: Uuid,
    allowed: &AllowedAddresses,
    secret: Option<&WebhookSecret>,
    format: Format,
) -> Result<(), Failure> {
    let answer = endpoints::test(
        pool,
        endpoint,
        allowed,
        secret,
        Timestamp::now(),
        &By::SYSTEM,
    )
    .await?;
    let shown = serde_json::json!({
        "delivered": answer.error.is_none(),
        "responseStatus": answer.status,
        "responseExcerpt": answer.excerpt,
        "error": answer.error,
    });
    format.print(&shown, |_| {
        let said = answer.excerpt.as_deref().unwrap_or_default();
        match (&answer.error, answer.status) {
            (Some(error), _) => format!("failed: {error}\n{said}"),
            (None, status) => format!("taken ({})\n{said}", status.unwrap_or_default()),
        }
    })?;
    match answer.error {
        None => Ok(()),
        Some(_) => Err(Failure::silent()),
    }
}

fn with_secret(made: &WithSecret, format: Format) -> Result<(), Failure> {
    let id = made.endpoint.id;
    format.print_made(
        made,
        &format!("endpoint {id}; `rotate` it for a secret"),
        |made| {
            format!(
                "{}\n\nSecret, shown this once (docs/events.md says how to verify with it):\n{}",
                describe(std::slice::from_ref(&made.endpoint)),
                made.secret
            )
        },
    )
}

fn one(endpoint: &Endpoint, format: Format) -> Result<(), Failure> {
    format.print(endpoint, |endpoint| {
        describe(std::slice::from_ref(endpoint))
    })
}

fn describe(endpoints: &[Endpoint]) -> String {
    let rows: Vec<Vec<String>> = endpoints
        .iter()
        .map(|endpoint| {
            let types = match endpoint.types.as_slice() {
                [] => "all".to_owned(),
                types => types.join(", "),
            };
            let reason = endpoint.disabled_reason.as_ref();
            let whose = endpoint.organization_id.map(|id| id.to_string());
            vec![
                endpoint.id.to_string(),
                endpoint.status.to_owned(),
                endpoint.url.clone(),
                types,
                whose.unwrap_or_else(|| "all".to_owned()),
                endpoint.description.clone().unwrap_or_default(),
                reason
                    .or(endpoint.last_error.as_ref())
                    .cloned()
                    .unwrap_or_default(),
            ]
        })
        .collect();
    let headings = [
        "ID",
        "STATUS",
        "URL",
        "TYPES",
        "ORGANIZATIONS",
        "DESCRIPTION",
        "PROBLEM",
    ];
    table(&headings, &rows)
}
