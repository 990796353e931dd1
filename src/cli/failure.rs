//! Failures of commands and their exit statuses.

use crate::app::StartError;
use crate::catalogue::CatalogueError;
use crate::config::ConfigError;
use crate::db::{self, DatabaseError};
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
        let error = db::opening_refusal(error);
        let code = error
            .as_database_error()
            .and_then(|e| e.code().map(String::from));
        let refused = matches!(code.as_deref(), Some("28P01" | "28000" | "3D000"));
        if db::is_outage(&error) && !refused {
            return Self::unreachable(format!("the database cannot be reached: {error}"));
        }
        match code.as_deref() {
            // No such table, column, function or role.
            Some("42P01" | "42703" | "42883" | "22023" | "42704") => Self::failed(format!(
                "the database's schema is not as expected ({error}); see `migrate status` and `migrate verify`"
            )),
            Some("28P01" | "28000" | "3D000" | "42501") => Self::usage(format!(
                "DATABASE_URL: the database refuses this login: {error}"
            )),
            _ => Self::failed(format!("the database reports: {error}")),
        }
    }
}

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
            UserError::Exists(_) | UserError::Unknown(_) | UserError::Organization(_) => {
                Self::failed(error.to_string())
            }
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
            | ApiKeyError::Organization(_) => Self::failed(error.to_string()),
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
