//! Gaps that a server may have beside row-level security.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{Connection as _, Executor as _};

/// Whether others on the network can read a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// A socket, or an address of this host.
    Local,
    /// Encrypted; `verified` if the server's certificate is checked.
    Encrypted {
        verified: bool,
    },
    Plain,
}

/// How `options` reach the server.
pub async fn wire(options: &PgConnectOptions) -> Result<Wire, super::DatabaseError> {
    if is_local(options) {
        return Ok(Wire::Local);
    }
    let mut conn = super::connect(options).await?;
    // Not checked at compile time: not every server that speaks the protocol has
    // the view.
    let encrypted: Option<bool> =
        sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_optional(&mut conn)
            .await?;
    let _ = conn.close().await;
    let verified = matches!(
        options.get_ssl_mode(),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    Ok(match encrypted {
        Some(true) => Wire::Encrypted { verified },
        _ => Wire::Plain,
    })
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether the service's roles may create large objects, which belong to no
/// organization.
pub async fn may_make_large_objects(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(bool_or(has_function_privilege(r.oid, p.oid, 'EXECUTE')), false)
           FROM pg_proc p, pg_roles r
          WHERE p.pronamespace = 'pg_catalog'::regnamespace
            AND p.proname IN ('lo_creat', 'lo_create', 'lo_from_bytea')
            AND r.rolname IN ('billing_app', 'billing_worker')",
    )
    .fetch_one(conn)
    .await
}

/// Revokes the right to create them, as far as this login may; the same as the
/// migration `no_large_objects`.
pub async fn close_large_objects(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    conn.execute(
        "DO $$
         DECLARE
           called regprocedure;
         BEGIN
           FOR called IN
             SELECT oid FROM pg_proc
              WHERE pronamespace = 'pg_catalog'::regnamespace
                AND proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_export', 'lo_open',
                                'lo_put', 'lo_get', 'lo_truncate', 'lo_truncate64', 'lo_unlink', 'loread', 'lowrite')
                AND pg_has_role(current_user, proowner, 'USAGE')
           LOOP
             EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC, billing_app, billing_worker', called);
           END LOOP;
         END
         $$",
    )
    .await?;
    Ok(())
}

/// Whether this login may revoke that right.
pub async fn may_close_large_objects(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(bool_and(pg_has_role(current_user, proowner, 'USAGE')), false) FROM pg_proc
          WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'lo_create'",
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_and_this_hosts_own_addresses_are_local() {
        let local = |url: &str| is_local(&url.parse().unwrap());
        for url in [
            "postgresql://me@localhost/db",
            "postgresql://me@127.0.0.1/db",
            "postgresql://me@127.8.9.1:6432/db",
            "postgresql://me@[::1]/db",
            "postgresql://me@%2Ftmp%2Fx:5432/db",
            "postgresql:///db?host=/var/run/postgresql",
        ] {
            assert!(local(url), "{url}");
        }
        for url in [
            "postgresql://me@10.0.0.7/db",
            "postgresql://me@db.internal/db?sslmode=require",
            "postgresql://me@localhost.example.com/db",
        ] {
            assert!(!local(url), "{url}");
        }
    }
}
