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
use crate::tenancy::auth::{
    self, ApiKey, By, NewApiKey, NewOperatorKey, NewServiceKey, OperatorKey, Part, Permission,
    Role, ServiceKey,
};

#[derive(Debug, Subcommand)]
pub enum ApiKeys {
    /// Create a key. It is shown only once.
    Create {
        #[command(flatten)]
        owner: Owner,
        /// billing.read, billing.manage, billing.audit, usage.write or agents.execute; of a
        /// service key also organizations.manage and portal.create. May be repeated.
        #[arg(long = "scope", value_name = "SCOPE", value_parser = scope,
              required_unless_present = "operator", conflicts_with = "operator")]
        scopes: Vec<Permission>,
        /// What an operators' key does: operator, or operator.read, which looks at everything
        /// and changes nothing.
        #[arg(long, value_parser = role, requires = "operator", required_if_eq("operator", "true"))]
        role: Option<Role>,
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
    /// The operators' own: it does what an operator does by /api/operator.
    #[arg(long)]
    operator: bool,
}

/// The same, found.
enum Whose {
    Organization(Uuid),
    Product,
    Operators,
}

impl Owner {
    async fn found(&self, pool: &PgPool) -> Result<Whose, Failure> {
        let named = organization::found_if_named(pool, self.organization.as_deref()).await?;
        Ok(match named {
            Some(organization) => Whose::Organization(organization),
            None if self.operator => Whose::Operators,
            None => Whose::Product,
        })
    }
}

fn role(text: &str) -> Result<Role, String> {
    let role = Role::named(text).filter(|role| role.is_operator());
    role.ok_or_else(|| "expected operator or operator.read".to_owned())
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
                role,
                name,
                expires,
                format,
            } => {
                let new = New {
                    scopes,
                    role,
                    name,
                    expires_at: expires,
                };
                new.create(pool, owner.found(pool).await?, &format).await
            }
            Self::Revoke { id, owner } => {
                let by = &By::SYSTEM;
                match owner.found(pool).await? {
                    Whose::Organization(of) => auth::revoke_api_key(pool, of, id, by).await?,
                    Whose::Product => auth::revoke_service_key(pool, id, by).await?,
                    Whose::Operators => auth::revoke_operator_key(pool, id, by).await?,
                }
                Ok(())
            }
            Self::List { owner, format } => match owner.found(pool).await? {
                Whose::Organization(of) => {
                    let keys = auth::list_api_keys(pool, of, Part::default()).await?;
                    format.print(&keys, |keys| describe(keys.iter().map(Row::from)))
                }
                Whose::Product => {
                    let keys = auth::list_service_keys(pool, Part::default()).await?;
                    format.print(&keys, |keys| describe(keys.iter().map(Row::from)))
                }
                Whose::Operators => {
                    let keys = auth::list_operator_keys(pool, Part::default()).await?;
                    format.print(&keys, |keys| describe(keys.iter().map(Row::from)))
                }
            },
        }
    }
}

/// What a key is to be.
struct New {
    scopes: Vec<Permission>,
    role: Option<Role>,
    name: String,
    expires_at: Option<Timestamp>,
}

impl New {
    async fn create(self, pool: &PgPool, whose: Whose, format: &Format) -> Result<(), Failure> {
        let (now, by) = (Timestamp::now(), &By::SYSTEM);
        match whose {
            Whose::Organization(organization_id) => {
                let new = NewApiKey {
                    organization_id,
                    name: self.name,
                    scopes: self.scopes,
                    expires_at: self.expires_at,
                };
                let made = auth::create_api_key(pool, new, now, by).await?;
                show(format, made.0.id, made)
            }
            Whose::Product => {
                let new = NewServiceKey {
                    name: self.name,
                    scopes: self.scopes,
                    expires_at: self.expires_at,
                };
                let made = auth::create_service_key(pool, new, now, by).await?;
                show(format, made.0.id, made)
            }
            Whose::Operators => {
                let role = self.role.ok_or(auth::ApiKeyError::OperatorRole)?;
                let new = NewOperatorKey {
                    name: self.name,
                    role,
                    created_by: None,
                    expires_at: self.expires_at,
                };
                let made = auth::create_operator_key(pool, new, now, by).await?;
                show(format, made.0.id, made)
            }
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

impl<'a> From<&'a OperatorKey> for Row<'a> {
    fn from(key: &'a OperatorKey) -> Self {
        Self {
            id: key.id,
            prefix: &key.prefix,
            name: &key.name,
            scopes: std::slice::from_ref(&key.role),
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
            expires_at: key.expires_at,
        }
    }
}

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
