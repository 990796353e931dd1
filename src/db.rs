//! Connections, and transactions whose type says what they may do.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Postgres, Transaction};
use uuid::Uuid;

/// How long a request for a connection waits before it gives up.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    #[error("{0}")]
    Privileged(String),
    #[error("{0}")]
    NotDurable(String),
    #[error(transparent)]
    Query(#[from] sqlx::Error),
}

/// What bounds the statements of pooled connections: all are short, and none
/// may outlive the lease it works under.
const LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "60s"),
];

/// What every connection of ours says when it opens.
pub fn prepare(options: PgConnectOptions) -> PgConnectOptions {
    options
        .application_name("valuecanvas-billing")
        // Lets SET LOCAL reach the shards on Citus; one PostgreSQL ignores it.
        .options([("citus.propagate_set_commands", "local")])
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
}

/// A pool that connects when it is first used.
pub fn pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(prepare(options).options(LIMITS))
}

/// A pool whose connections are billing_worker from the start, for statements
/// that are transactions of their own. Those that died are not told apart
/// before they are used, which would cost a round trip each time.
pub fn worker_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_lazy_with(
            prepare(options)
                .options(LIMITS)
                .options([("role", "billing_worker")]),
        )
}

/// The same for reading rows by their keys: a plan that was made while there
/// were few of them is not to read all of them later.
pub fn lookup_pool(options: PgConnectOptions, connections: u32) -> PgPool {
    worker_pool(options.options([("enable_seqscan", "off")]), connections)
}

/// One connection, of which the caller is the only user.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, DatabaseError> {
    let options = prepare(options.clone());
    let connecting = PgConnection::connect_with(&options);
    match tokio::time::timeout(ACQUIRE_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(DatabaseError::Unreachable),
        Err(_) => Err(DatabaseError::Unreachable(sqlx::Error::PoolTimedOut)),
    }
}

/// Background work, across organizations: billing_worker without an
/// organization.
pub struct WorkerTx(Transaction<'static, Postgres>);

impl WorkerTx {
    pub async fn begin(pool: &PgPool) -> Result<Self, sqlx::Error> {
        pool.begin_with("BEGIN; SET LOCAL ROLE billing_worker")
            .await
            .map(Self)
    }

    /// For claiming work: the planner takes a queue's conditions for selective
    /// and would sort the whole backlog for each batch, where the index has its
    /// head.
    pub async fn begin_claim(pool: &PgPool) -> Result<Self, sqlx::Error> {
        let opening = "BEGIN; SET LOCAL ROLE billing_worker; \
                       SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off";
        pool.begin_with(opening).await.map(Self)
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.0
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.0.commit().await
    }

    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.0.rollback().await
    }
}

/// One organization's work: billing_worker confined to it.
pub struct TenantTx {
    tx: Transaction<'static, Postgres>,
    organization_id: Uuid,
}

impl TenantTx {
    pub async fn begin(pool: &PgPool, organization_id: Uuid) -> Result<Self, sqlx::Error> {
        // A uuid prints as hexadecimal digits and hyphens only.
        let opening = format!(
            "BEGIN; SET LOCAL ROLE billing_worker; SET LOCAL app.current_org_id = '{organization_id}'"
        );
        let tx = pool.begin_with(AssertSqlSafe(opening)).await?;
        Ok(Self {
            tx,
            organization_id,
        })
    }

    pub fn organization_id(&self) -> Uuid {
        self.organization_id
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }

    pub async fn commit(self) -> Result<(), sqlx::Error> {
        self.tx.commit().await
    }
}

/// A request that reads: billing_app, which sees its organization's rows only.
pub struct RequestTx {
    tx: Transaction<'static, Postgres>,
    organization_id: Uuid,
}

impl RequestTx {
    pub async fn begin(pool: &PgPool, organization_id: Uuid) -> Result<Self, sqlx::Error> {
        let opening = format!(
            "BEGIN READ ONLY; SET LOCAL ROLE billing_app; SET LOCAL app.current_org_id = '{organization_id}'"
        );
        let tx = pool.begin_with(AssertSqlSafe(opening)).await?;
        Ok(Self {
            tx,
            organization_id,
        })
    }

    pub fn organization_id(&self) -> Uuid {
        self.organization_id
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.tx
    }
}

/// What is known of the login that the service uses.
struct Login {
    name: String,
    superuser: bool,
    bypasses_rls: bool,
    owner: bool,
    may_serve: bool,
    fsync: bool,
    synchronous_commit: bool,
}

/// Refuses a login that row-level security does not bind, and a server that
/// may lose what it acknowledged; with `allow`, warns instead.
pub async fn check_login(conn: &mut PgConnection, allow: bool) -> Result<(), DatabaseError> {
    let login = inspect_login(conn).await?;
    if let Some(reason) = login.privilege() {
        let Login { name, .. } = &login;
        if !allow {
            return Err(DatabaseError::Privileged(format!(
                "DATABASE_URL: the login role {name:?} {reason}, so row-level security would not bind it. \
                 Make one that it binds:\n  \
                 CREATE ROLE billing_service LOGIN NOINHERIT PASSWORD '…';\n  \
                 GRANT billing_app, billing_worker TO billing_service;\n\
                 then use it in DATABASE_URL and this one in MIGRATION_DATABASE_URL \
                 (ALLOW_PRIVILEGED_DATABASE_ROLE=true lets it pass, for development)"
            )));
        }
        tracing::warn!(
            role = name,
            "the login role {reason}: row-level security does not bind it (ALLOW_PRIVILEGED_DATABASE_ROLE)"
        );
    }
    if !login.may_serve {
        return Err(DatabaseError::Privileged(format!(
            "DATABASE_URL: the login role {name:?} may not become billing_app and billing_worker. \
             Run as the owner: GRANT billing_app, billing_worker TO \"{name}\";",
            name = login.name
        )));
    }
    if !(login.fsync && login.synchronous_commit) {
        let setting = if login.fsync {
            "synchronous_commit"
        } else {
            "fsync"
        };
        if !allow {
            return Err(DatabaseError::NotDurable(format!(
                "DATABASE_URL: the server has {setting} off and may lose events that Stripe was told are stored; \
                 turn it on (ALLOW_PRIVILEGED_DATABASE_ROLE=true lets it pass, for development)"
            )));
        }
        tracing::warn!(
            "the server has {setting} off: a crash may lose events that were acknowledged"
        );
    }
    Ok(())
}

impl Login {
    fn privilege(&self) -> Option<&'static str> {
        if self.superuser {
            Some("is a superuser")
        } else if self.bypasses_rls {
            Some("has BYPASSRLS, by itself or through a role it belongs to")
        } else if self.owner {
            Some("owns billing objects, by itself or through a role it belongs to")
        } else {
            None
        }
    }
}

async fn inspect_login(conn: &mut PgConnection) -> Result<Login, DatabaseError> {
    // Not checked at compile time: the roles may not exist yet, and
    // to_regrole() answers null then.
    let row = sqlx::query(
        "SELECT r.rolname, r.rolsuper,
                EXISTS (SELECT FROM pg_roles unbound
                         WHERE (unbound.rolbypassrls OR unbound.rolsuper)
                           AND pg_has_role(session_user, unbound.oid, 'MEMBER')) AS rolbypassrls,
                coalesce(pg_has_role(session_user, to_regrole('billing_owner')::oid, 'MEMBER'), false)
                  OR EXISTS (SELECT FROM pg_class c
                              WHERE c.relname IN ('webhook_events', 'billing_audit_log')
                                AND c.relkind IN ('r', 'p')
                                AND pg_has_role(session_user, c.relowner, 'MEMBER')) AS owner,
                coalesce(pg_has_role(session_user, to_regrole('billing_app')::oid, 'MEMBER'), true)
                  AND coalesce(pg_has_role(session_user, to_regrole('billing_worker')::oid, 'MEMBER'), true)
                  AS may_serve,
                current_setting('fsync') = 'on' AS fsync,
                current_setting('synchronous_commit') <> 'off' AS synchronous_commit
           FROM pg_roles r WHERE r.rolname = session_user",
    )
    .fetch_one(conn)
    .await?;
    use sqlx::Row as _;
    Ok(Login {
        name: row.try_get("rolname")?,
        superuser: row.try_get("rolsuper")?,
        bypasses_rls: row.try_get("rolbypassrls")?,
        owner: row.try_get("owner")?,
        may_serve: row.try_get("may_serve")?,
        fsync: row.try_get("fsync")?,
        synchronous_commit: row.try_get("synchronous_commit")?,
    })
}

/// The database's clock, in seconds since 1970.
pub async fn clock_secs(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT extract(epoch FROM clock_timestamp())::bigint AS "secs!""#)
        .fetch_one(conn)
        .await
}

/// Whether the error says that the database itself is gone, rather than that
/// it refused a statement.
pub fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection exceptions, operator intervention, insufficient
            // resources, system errors, read-only standbys.
            ["08", "57P", "53", "58"]
                .iter()
                .any(|class| code.starts_with(class))
                || code == "25006"
                // The database takes no connections at the moment.
                || code == "55000"
        }),
        _ => false,
    }
}

/// Whether the same statement may succeed when it is run again.
pub fn is_conflict(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

/// Whether the statement, or its wait for another's lock, took too long.
pub fn is_timeout(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "55P03" | "57014"))
}

/// Whether a row is there already that the statement would have made.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code == "23505")
}

/// Whether a value of the statement is what PostgreSQL refused, which it will
/// refuse again. (22023 also tells of a role that does not exist yet.)
pub fn is_bad_value(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code.starts_with("22") && code != "22023")
}

/// Whether a text holds what PostgreSQL keeps in none: NUL, or what is no
/// character.
pub fn is_unstorable_text(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "22021" | "22P05"))
}

/// Whether a time is one that PostgreSQL does not have.
pub fn is_time_out_of_range(error: &sqlx::Error) -> bool {
    sql_state(error).is_some_and(|code| code == "22008")
}

/// Whether a row breaks a rule of its own, rather than one that other rows
/// decide.
pub fn is_broken_row(error: &sqlx::Error) -> bool {
    // not_null_violation and check_violation.
    sql_state(error).is_some_and(|code| matches!(code.as_str(), "23502" | "23514"))
}

/// The SQLSTATE of a refusal.
fn sql_state(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(String::from)
}
