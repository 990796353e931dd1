//! How many connections the server has left.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

/// The connections left under each limit on our login; `None` without such a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub server: i64,
    pub role: Option<i64>,
    pub database: Option<i64>,
}

impl Room {
    /// The connections left under the tightest limit.
    pub fn free(&self) -> i64 {
        self.tightest().max(0)
    }

    fn tightest(&self) -> i64 {
        let others = [self.role, self.database].into_iter().flatten();
        others.fold(self.server, i64::min)
    }

    /// Which limit to raise if `needed` connections do not fit.
    pub fn too_small_for(&self, needed: u32) -> Option<String> {
        let free = self.free();
        if free >= i64::from(needed) {
            return None;
        }
        let tightest = self.tightest();
        let limit = if self.role == Some(tightest) {
            "the login role's CONNECTION LIMIT"
        } else if self.database == Some(tightest) {
            "the database's CONNECTION LIMIT"
        } else {
            "max_connections"
        };
        Some(format!(
            "PostgreSQL has {free} connections left and a replica takes up to {needed}: \
             raise {limit}, or lower WORKER_CONCURRENCY (docs/database.md, Connections)"
        ))
    }
}

/// Reads how many connections are left, not counting this one.
pub async fn room(conn: &mut PgConnection) -> Result<Room, sqlx::Error> {
    // Not checked at compile time: PostgreSQL 15 has no reserved_connections.
    // Every login sees that other sessions exist, if not what they do.
    let row = sqlx::query(
        "SELECT current_setting('max_connections')::bigint
                  - current_setting('superuser_reserved_connections')::bigint
                  - coalesce(current_setting('reserved_connections', true)::bigint, 0)
                  - count(*) AS server,
                (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user)::bigint
                  - count(*) FILTER (WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = session_user)) AS role,
                (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user) >= 0 AS role_limited,
                (SELECT datconnlimit FROM pg_database WHERE datname = current_database())::bigint
                  - count(*) FILTER (WHERE datname = current_database()) AS database,
                (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) >= 0 AS database_limited
           FROM pg_stat_activity
          WHERE usesysid IS NOT NULL AND pid <> pg_backend_pid()",
    )
    .fetch_one(conn)
    .await?;
    let limited = |limited: &str, free: &str| -> Result<Option<i64>, sqlx::Error> {
        let free = row.try_get(free)?;
        Ok(row.try_get::<bool, _>(limited)?.then_some(free))
    };
    Ok(Room {
        server: row.try_get("server")?,
        role: limited("role_limited", "role")?,
        database: limited("database_limited", "database")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts_and_is_named() {
        let room = Room {
            server: 90,
            role: Some(20),
            database: Some(-3),
        };
        assert_eq!(room.free(), 0);
        let said = room.too_small_for(1).unwrap();
        assert!(said.contains("the database's CONNECTION LIMIT"), "{said}");
        let room = Room {
            database: None,
            ..room
        };
        assert_eq!(room.too_small_for(20), None);
        assert!(room.too_small_for(21).unwrap().contains("login role"));
        let room = Room { role: None, ..room };
        assert_eq!(room.too_small_for(90), None);
        assert!(room.too_small_for(91).unwrap().contains("max_connections"));
    }
}
