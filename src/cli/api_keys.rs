//! `api-keys`

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::output::{Format, table};
use crate::config::GlobalArgs;
use crate::db;
use crate::tenancy::auth::{self, ApiKey, NewApiKey, Permission};

#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Create a key. It is shown only once.
    Create {
        /// The organization's id, as shown by `organizations list`.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Uuid,
        /// billing.read, billing.manage, billing.audit, usage.write or agents.execute;
        /// may be repeated.
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_parser = scope)]
        scopes: Vec<Permission>,
        /// A name to recognize the key by.
        #[arg(long, default_value = "api key")]
        name: String,
        /// When the key expires (RFC 3339).
        #[arg(long, value_name = "TIME", value_parser = arguments::time)]
        expires: Option<Timestamp>,
        #[command(flatten)]
        format: Format,
    },
    /// Revoke a key, immediately and on every replica.
    Revoke {
        /// The key's id, as shown by `api-keys list`.
        #[arg(value_name = "KEY_ID", value_parser = arguments::key)]
        id: Uuid,
        /// The organization's id, as shown by `organizations list`.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Uuid,
    },
    /// List an organization's keys, including revoked and expired ones.
    List {
        /// The organization's id, as shown by `organizations list`.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Uuid,
        #[command(flatten)]
        format: Format,
    },
}

fn scope(text: &str) -> Result<Permission, String> {
    let names = || Permission::ALL.map(Permission::as_str).join(", ");
    Permission::named(text).ok_or_else(|| format!("expected one of {}", names()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created {
    key: String,
    #[serde(flatten)]
    about: ApiKey,
}

impl ApiKeys {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        on_database(&config, async |database| {
            self.run_on(&db::pool(database.service.clone(), 1)).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool) -> Result<(), Failure> {
        match self {
            Self::Create {
                organization,
                scopes,
                name,
                expires,
                format,
            } => {
                let new = NewApiKey {
                    organization_id: organization,
                    name,
                    scopes,
                    expires_at: expires,
                };
                let (about, key) = auth::create_api_key(pool, new, Timestamp::now()).await?;
                format.print(&Created { key, about }, |created| created.key.clone())
            }
            Self::Revoke { id, organization } => {
                Ok(auth::revoke_api_key(pool, organization, id).await?)
            }
            Self::List {
                organization,
                format,
            } => {
                let keys = auth::list_api_keys(pool, organization).await?;
                format.print(&keys, |keys| describe(keys))
            }
        }
    }
}

fn describe(keys: &[ApiKey]) -> String {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let state = match (key.revoked_at, key.expires_at) {
                (Some(_), _) => "revoked".to_owned(),
                (None, Some(at)) => format!("until {at}"),
                (None, None) => String::new(),
            };
            vec![
                key.id.to_string(),
                format!("{}…", key.prefix),
                key.name.clone(),
                key.scopes.join(" "),
                time(key.last_used_at),
                state,
            ]
        })
        .collect();
    table(&["ID", "KEY", "NAME", "SCOPES", "LAST USED", ""], &rows)
}
