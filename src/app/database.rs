//! Finding the database that a process uses, and preparing it.

use embedded_postgres::{EmbeddedPostgres, Owner};
use sqlx::postgres::PgConnectOptions;

use super::StartError;
use crate::config::{DatabaseConfig, DatabaseLocation, Start};
use crate::db::{self, DatabaseError};
use crate::migrations;

/// The login that the service uses on the embedded cluster.
const EMBEDDED_LOGIN: &str = "billing_service";

/// The owner of the embedded cluster.
pub const EMBEDDED: Owner = Owner {
    program: "valuecanvas-billing",
    short_name: "valuecanvas",
    database: "valuecanvas_billing",
};

/// The database, ready to be used.
pub struct Database {
    /// For `serve` and the jobs.
    pub service: PgConnectOptions,
    /// For migrations.
    pub owner: PgConnectOptions,
    pub embedded: Option<EmbeddedPostgres>,
    allow_privileged: bool,
}

impl Database {
    /// Finds the database. Processes that may start the embedded one also migrate it;
    /// others only connect to it.
    pub async fn open(config: &DatabaseConfig) -> Result<Self, StartError> {
        let database = Self::locate(config).await?;
        let may_start = matches!(config.location, DatabaseLocation::Embedded(Start::Allowed));
        if may_start && let Err(error) = prepare_embedded(&database.owner).await {
            database.close().await;
            return Err(error);
        }
        Ok(database)
    }

    /// Finds the database without migrating it. Starts the embedded one if allowed;
    /// otherwise it must be running.
    pub async fn locate(config: &DatabaseConfig) -> Result<Self, StartError> {
        match &config.location {
            DatabaseLocation::Url(url) => {
                let owner = config.migration.clone().unwrap_or_else(|| url.clone());
                let allow_privileged = config.allow_privileged_role;
                Ok(Self {
                    allow_privileged,
                    ..Self::external(url.clone(), owner)
                })
            }
            DatabaseLocation::Embedded(start) => {
                let data_dir = &config.data_dir;
                if *start == Start::Refused
                    && EmbeddedPostgres::running(EMBEDDED, data_dir)
                        .await?
                        .is_none()
                {
                    return Err(StartError::NoDatabase(data_dir.clone()));
                }
                let embedded = EmbeddedPostgres::start(EMBEDDED, &config.data_dir).await?;
                let owner = options(&embedded.admin_url());
                let service = options(&embedded.url_for(EMBEDDED_LOGIN, EMBEDDED.database));
                Ok(Self {
                    service,
                    owner,
                    embedded: Some(embedded),
                    allow_privileged: false,
                })
            }
        }
    }

    /// An existing database: `service` for serving, `owner` for migrating.
    pub fn external(service: PgConnectOptions, owner: PgConnectOptions) -> Self {
        Self {
            service,
            owner,
            embedded: None,
            allow_privileged: false,
        }
    }

    /// A description of the owner's database, without the password.
    pub fn description(&self) -> String {
        let name = self.owner.get_database().unwrap_or("(the login's own)");
        match &self.embedded {
            Some(_) => format!("{name} of the embedded PostgreSQL"),
            None => format!(
                "{name} at {}:{}",
                self.owner.get_host(),
                self.owner.get_port()
            ),
        }
    }

    /// Refuses a login that bypasses row-level security, and a pooler that shares
    /// sessions.
    pub async fn check_login(&self) -> Result<(), DatabaseError> {
        // There is no pooler in front of our own socket.
        if self.embedded.is_none() {
            db::check_sessions("DATABASE_URL", &self.service).await?;
        }
        let mut conn = db::connect(&self.service).await?;
        db::check_login(&mut conn, self.allow_privileged).await
    }

    /// Refuses a schema that lacks migrations of this program.
    pub async fn check_schema(&self) -> Result<(), DatabaseError> {
        let pool = db::pool(self.service.clone(), 1);
        let checked = migrations::Gate::default().check(&pool).await;
        pool.close().await;
        Ok(checked?)
    }

    /// Refuses a pooler that shares sessions for the owner's connection.
    pub async fn check_owner(&self) -> Result<(), DatabaseError> {
        if self.embedded.is_some() {
            return Ok(());
        }
        db::check_sessions("MIGRATION_DATABASE_URL, else DATABASE_URL", &self.owner).await
    }

    /// Releases the embedded cluster; the last process to do so stops it.
    pub async fn close(self) {
        if let Some(embedded) = self.embedded
            && let Err(error) = embedded.stop().await
        {
            tracing::warn!(%error, "the embedded database could not be stopped");
        }
    }
}

fn options(url: &str) -> PgConnectOptions {
    let options: PgConnectOptions = url
        .parse()
        .expect("the embedded database's URL is well formed");
    // A private socket needs no TLS, whatever PGSSLMODE says.
    options.ssl_mode(sqlx::postgres::PgSslMode::Disable)
}

async fn prepare_embedded(owner: &PgConnectOptions) -> Result<(), StartError> {
    let mut conn = db::connect(owner).await?;
    migrations::up(&mut conn, |migration| {
        tracing::info!(
            version = migration.version,
            name = migration.name,
            "applying migration"
        );
    })
    .await?;
    sqlx::raw_sql(
        "DO $$ BEGIN
           IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'billing_service') THEN
             CREATE ROLE billing_service LOGIN NOINHERIT;
           END IF;
           IF NOT (pg_has_role('billing_service', 'billing_app', 'MEMBER')
                   AND pg_has_role('billing_service', 'billing_worker', 'MEMBER')) THEN
             GRANT billing_app, billing_worker TO billing_service;
           END IF;
         END $$",
    )
    .execute(&mut conn)
    .await
    .map_err(DatabaseError::from)?;
    Ok(())
}
