//! Whether row-level security applies to the service's login.

use sqlx::postgres::PgConnection;

use super::DatabaseError;

/// The login that the service uses, and the server's durability.
struct Login {
    name: String,
    superuser: bool,
    bypasses_rls: bool,
    owner: bool,
    may_serve: bool,
    fsync: bool,
    synchronous_commit: bool,
}

/// Refuses a login that bypasses row-level security, and a server that may lose
/// acknowledged commits; with `allow`, only warns.
pub async fn check_login(conn: &mut PgConnection, allow: bool) -> Result<(), DatabaseError> {
    let login = inspect_login(conn).await?;
    if let Some(reason) = login.privilege() {
        let Login { name, .. } = &login;
        if !allow {
            return Err(DatabaseError::Privileged(format!(
                "DATABASE_URL: the login role {name:?} {reason}, so row-level security would not apply to it. \
                 Create one for the service:\n  \
                 CREATE ROLE billing_service LOGIN NOINHERIT PASSWORD '…';\n  \
                 GRANT billing_app, billing_worker TO billing_service;\n\
                 then use it in DATABASE_URL and this one in MIGRATION_DATABASE_URL \
                 (ALLOW_PRIVILEGED_DATABASE_ROLE=true allows it, for development)"
            )));
        }
        tracing::warn!(
            role = name,
            "the login role {reason}: row-level security does not apply to it (ALLOW_PRIVILEGED_DATABASE_ROLE)"
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
                 turn it on (ALLOW_PRIVILEGED_DATABASE_ROLE=true allows it, for development)"
            )));
        }
        tracing::warn!("the server has {setting} off: a crash may lose acknowledged events");
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
    // Not checked at compile time: the roles may not exist yet; to_regrole() is then
    // null.
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
                -- What our sessions would have, had they not set it themselves.
                (SELECT reset_val <> 'off' FROM pg_settings WHERE name = 'synchronous_commit') AS synchronous_commit
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
