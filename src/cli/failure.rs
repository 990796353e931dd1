//! Failures of commands and their exit statuses.

use crate::app::StartError;
use crate::catalogue::CatalogueError;
use crate::config::ConfigError;
use crate::db::{self, DatabaseError, SchemaOutdated};
use crate::maintenance::PushUrlError;
use crate::migrations::MigrationError;
use crate::stripe::client::StripeError;
use crate::tenancy::auth::{ApiKeyError, UserError};
use crate::tenancy::organizations::CreateError;

/// Exit status 1: the work failed, or a check did not hold. 2: bad usage or
/// configuration. 3: a service that the command needs cannot be reached.
#[derive(Debug)]
pub struct Failure {
    pub status: u8,
    /// `None` if the output has said it already.
    pub message: Option<String>,
}

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            status: 1,
            message: Some(message.into()),
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            status: 2,
            message: Some(message.into()),
        }
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self {
            status: 3,
            message: Some(message.into()),
        }
    }

    /// The failure of a command that needs the owner's login.
    pub fn of_owner(self) -> Self {
        let refused = self
            .message
            .as_deref()
            .and_then(|m| m.strip_prefix(REFUSED_LOGIN));
        let Some(why) = refused else { return self };
        Self::usage(format!(
            "MIGRATION_DATABASE_URL, else DATABASE_URL: the database refuses this login{why}; this command \
             needs the login of the tables' owner"
        ))
    }

    /// For failures that the output has already described.
    pub fn silent() -> Self {
        Self {
            status: 1,
            message: None,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<CatalogueError> for Failure {
    fn from(error: CatalogueError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<PushUrlError> for Failure {
    fn from(error: PushUrlError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Configuration(cause) = &error
            && let Some(outdated) = cause.downcast_ref::<SchemaOutdated>()
        {
            return Self::failed(format!(
                "the database is older than this program; nothing was done. {outdated}"
            ));
        }
        let error = db::opening_refusal(error);
        let code = db::sql_state(&error);
        let said = db::said(&error);
        let refused = matches!(code.as_deref(), Some("28P01" | "28000" | "3D000"));
        if code.as_deref() == Some("25006") {
            return Self::unreachable(format!(
                "the database is read-only ({said}): it is a standby, or default_transaction_read_only is \
                 on; name the primary"
            ));
        }
        if db::is_outage(&error) && !refused {
            return Self::unreachable(format!("the database cannot be reached: {said}"));
        }
        match code.as_deref() {
            // No such table, column, function or role.
            Some("42P01" | "42703" | "42883" | "22023" | "42704") => Self::failed(format!(
                "the database's schema is not as expected ({said}); see `migrate status` and `migrate verify`"
            )),
            Some("28P01" | "28000" | "3D000" | "42501") => {
                Self::usage(format!("{REFUSED_LOGIN}: {said}"))
            }
            Some("55P03" | "40001" | "40P01") => Self::failed(format!(
                "another transaction holds what this command needs; run it again ({said})"
            )),
            _ => Self::failed(format!("the database reports: {said}")),
        }
    }
}

/// How a refused login is reported; [`Failure::of_owner`] names the owner's variable instead.
const REFUSED_LOGIN: &str = "DATABASE_URL: the database refuses this login";

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Unreachable(error) => error.into(),
            DatabaseError::Privileged(_)
            | DatabaseError::NotDurable(_)
            | DatabaseError::Pooled(_) => Self::usage(error.to_string()),
            DatabaseError::Query(error) => error.into(),
        }
    }
}

impl From<MigrationError> for Failure {
    fn from(error: MigrationError) -> Self {
        match error {
            MigrationError::Database(error) => error.into(),
            MigrationError::UnknownVersion(_) => Self::usage(error.to_string()),
            MigrationError::Failed {
                error: ref cause, ..
            } if db::is_outage(cause) => Self::unreachable(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Database(error) => error.into(),
            StartError::Migration(error) => error.into(),
            StartError::Catalogue(error) => error.into(),
            StartError::Setting(error) => error.into(),
            StartError::Embedded(error) => Self::unreachable(error.to_string()),
            StartError::Client(_) => Self::failed(error.to_string()),
            StartError::VanishedPlans(_)
            | StartError::NoDatabase(_)
            | StartError::Listen { .. }
            | StartError::Secret { .. } => Self::usage(error.to_string()),
        }
    }
}

impl From<StripeError> for Failure {
    fn from(error: StripeError) -> Self {
        if error.is_outage() {
            Self::unreachable(error.to_string())
        } else {
            Self::failed(error.to_string())
        }
    }
}

impl From<UserError> for Failure {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Database(error) => error.into(),
            UserError::Exists(_)
            | UserError::Unknown(_)
            | UserError::Organization(_)
            | UserError::Erased(_) => Self::failed(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}

impl From<ApiKeyError> for Failure {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::Database(error) => error.into(),
            ApiKeyError::Unknown
            | ApiKeyError::UnknownServiceKey
            | ApiKeyError::UnknownOperatorKey
            | ApiKeyError::Organization(_)
            | ApiKeyError::Erased(_) => Self::failed(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Database(error) => error.into(),
            CreateError::CustomerTaken(_)
            | CreateError::ExternalIdTaken(_)
            | CreateError::ExternalIdReserved(_) => Self::failed(error.to_string()),
            _ => Self::usage(error.to_string()),
        }
    }
}
