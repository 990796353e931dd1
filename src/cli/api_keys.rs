//! `api-keys`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, table};
use crate::config::GlobalArgs;
use crate::db;
use crate::tenancy::auth::{self, ApiKey, By, NewApiKey, NewServiceKey, Permission, ServiceKey};

#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Create a key. It is shown only once.
    Create {
        #[command(flatten)]
        owner: Owner,
        /// billing.read, billing.manage, billing.audit, usage.write or agents.execute; of a
        /// service key also organizations.manage and portal.create. May be repeated.
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
        #[command(flatten)]
        owner: Owner,
    },
    /// List keys, including revoked and expired ones.
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        format: Format,
    },
}

/// Whose key it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Owner {
    /// An organization's: its id, or the product's id for it.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// The product's own: each request names the organization that it is for.
    #[arg(long)]
    service: bool,
}

impl Owner {
    async fn found(&self, pool: &PgPool) -> Result<Option<Uuid>, Failure> {
        organization::found_if_named(pool, self.organization.as_deref()).await
    }
}

fn scope(text: &str) -> Result<Permission, String> {
    let names = || Permission::OF_SERVICE.map(Permission::as_str).join(", ");
    Permission::named(text).ok_or_else(|| format!("expected one of {}", names()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Created<T> {
    key: String,
    #[serde(flatten)]
    about: T,
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
                owner,
                scopes,
                name,
                expires,
                format,
            } => match owner.found(pool).await? {
                Some(organization_id) => {
                    let new = NewApiKey {
                        organization_id,
                        name,
                        scopes,
                        expires_at: expires,
                    };
                    let made =
                        auth::create_api_key(pool, new, Timestamp::now(), &By::SYSTEM).await?;
                    show(&format, made.0.id, made)
                }
                None => {
                    let new = NewServiceKey {
                        name,
                        scopes,
                        expires_at: expires,
                    };
                    let made =
                        auth::create_service_key(pool, new, Timestamp::now(), &By::SYSTEM).await?;
                    show(&format, made.0.id, made)
                }
            },
            Self::Revoke { id, owner } => {
                match owner.found(pool).await? {
                    Some(organization) => {
                        auth::revoke_api_key(pool, organization, id, &By::SYSTEM).await?
                    }
                    None => auth::revoke_service_key(pool, id, &By::SYSTEM).await?,
                }
                Ok(())
            }
            Self::List { owner, format } => match owner.found(pool).await? {
                Some(organization) => {
                    let keys = auth::list_api_keys(pool, organization).await?;
                    format.print(&keys, |keys| describe(keys.iter().map(Row::from)))
                }
                None => {
                    let keys = auth::list_service_keys(pool).await?;
                    format.print(&keys, |keys| describe(keys.iter().map(Row::from)))
                }
            },
        }
    }
}

fn show<T: Serialize>(format: &Format, id: Uuid, (about, key): (T, String)) -> Result<(), Failure> {
    let made = format!("key {id}, whose secret is lost: revoke it");
    format.print_made(&Created { key, about }, &made, |created| {
        created.key.clone()
    })
}

/// A key in a list.
struct Row<'a> {
    id: Uuid,
    prefix: &'a str,
    name: &'a str,
    scopes: &'a [String],
    last_used_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
}

macro_rules! row {
    ($key:ty) => {
        impl<'a> From<&'a $key> for Row<'a> {
            fn from(key: &'a $key) -> Self {
                Self {
                    id: key.id,
                    prefix: &key.prefix,
                    name: &key.name,
                    scopes: &key.scopes,
                    last_used_at: key.last_used_at,
                    revoked_at: key.revoked_at,
                    expires_at: key.expires_at,
                }
            }
        }
    };
}
row!(ApiKey);
row!(ServiceKey);

fn describe<'a>(keys: impl Iterator<Item = Row<'a>>) -> String {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let rows: Vec<Vec<String>> = keys
        .map(|key| {
            let state = match (key.revoked_at, key.expires_at) {
                (Some(_), _) => "revoked".to_owned(),
                (None, Some(at)) => format!("until {at}"),
                (None, None) => String::new(),
            };
            vec![
                key.id.to_string(),
                format!("{}…", key.prefix),
                key.name.to_owned(),
                key.scopes.join(" "),
                time(key.last_used_at),
                state,
            ]
        })
        .collect();
    table(&["ID", "KEY", "NAME", "SCOPES", "LAST USED", ""], &rows)
}
