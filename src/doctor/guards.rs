//! What row-level security does not cover, and whether audit chains are whole.

use sqlx::postgres::{PgConnection, PgPool};

use super::{Check, Subject};
use crate::audit;
use crate::db::guards::{self, Wire};
use crate::db::{DatabaseError, WorkerTx};
use crate::migrations::verify;
use crate::projection;

/// Maximum number of items that a check names.
const NAMED: i64 = 10;

/// Whether others on the network can read the connection to the database.
pub async fn wire(database: &impl Subject) -> Check {
    let name = "connection";
    match guards::wire(database.service()).await {
        Ok(wire) => judge(wire),
        Err(DatabaseError::Query(error) | DatabaseError::Unreachable(error)) => {
            Check::unanswered(name, error)
        }
        Err(error) => Check::failed(name, error.to_string(), "see docs/database.md"),
    }
}

fn judge(wire: Wire) -> Check {
    let name = "connection";
    match wire {
        Wire::Local => Check::ok(name, "the database is on this host"),
        Wire::Encrypted { verified: true } => {
            Check::ok(name, "encrypted, and the certificate is verified")
        }
        Wire::Encrypted { verified: false } => Check::ok(
            name,
            "encrypted, but the certificate is not verified; sslmode=verify-full would",
        ),
        Wire::Plain => Check::warning(
            name,
            "not encrypted, and the database is on another host",
            "enable TLS on the server, and add sslmode=verify-full (and sslrootcert) to DATABASE_URL and \
             MIGRATION_DATABASE_URL; without it the connection falls back to plain text",
        ),
    }
}

/// Large objects, which no policy covers. Needs the owner's login, or one that may
/// become billing_worker.
pub async fn large_objects(conn: &mut PgConnection) -> Check {
    let name = "large objects";
    match guards::may_make_large_objects(conn).await {
        Ok(false) => Check::ok(name, "the service's login may not create any"),
        Ok(true) => Check::warning(
            name,
            "the service's login may create large objects, which row-level security does not cover",
            "as a superuser, run psql -f supabase/migrations/20260109020000_no_large_objects.sql; if the \
             host gives you none, this can be ignored: the service uses no large objects",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Whether log_billing_action() is the latest version.
pub async fn appending(conn: &mut PgConnection) -> Check {
    let name = "audit function";
    match verify::appends_by_newest(conn).await {
        Ok(true) => Check::ok(name, "entries by any login continue their chain"),
        Ok(false) => Check::warning(
            name,
            "log_billing_action() is the deployment guide's version: entries by other SQL may block a chain, and \
             their addresses cannot be erased",
            "psql -f supabase/migrations/20260109010000_audit_chains.sql -f \
             supabase/migrations/20260119010000_audit_personal_data.sql",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Chains whose head does not match their entries.
pub async fn chains(pool: &PgPool) -> Check {
    let name = "audit chains";
    let found = async {
        let mut tx = WorkerTx::begin(pool).await?;
        audit::stray_heads(tx.conn(), NAMED + 1).await
    };
    match found.await {
        Ok(found) if found.is_empty() => Check::ok(name, "every head matches the last entry"),
        Ok(found) => Check::warning(
            name,
            format!(
                "the head does not match the entries: {}",
                named(found.iter().map(ToString::to_string))
            ),
            "see `audit verify --organization ORG`, then run `audit repair --organization ORG`",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

/// Customers that joined, by their metadata, an organization that had another.
pub async fn customers(pool: &PgPool) -> Check {
    let name = "second customers";
    let found = async {
        let mut tx = WorkerTx::begin(pool).await?;
        projection::second_customers(tx.conn(), NAMED + 1).await
    };
    match found.await {
        Ok(found) if found.is_empty() => Check::ok(name, "none"),
        Ok(found) => Check::warning(
            name,
            named(found.iter().map(|(organization, customer)| {
                format!(
                    "{customer} joined {organization} by its metadata, which has another customer"
                )
            })),
            "correct their metadata in Stripe, or confirm it: `organizations link-customer ORG \
             --stripe-customer CUS`",
        ),
        Err(error) => Check::unanswered(name, error),
    }
}

fn named(all: impl Iterator<Item = String>) -> String {
    let mut named: Vec<String> = all.collect();
    if named.len() as i64 > NAMED {
        named.truncate(NAMED as usize);
        named.push("…".to_owned());
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn plain_text_to_another_host_is_a_warning() {
        let plain = judge(Wire::Plain);
        assert_eq!(plain.verdict, Verdict::Warning);
        assert!(plain.fix.unwrap().contains("sslmode=verify-full"));
        for wire in [
            Wire::Local,
            Wire::Encrypted { verified: false },
            Wire::Encrypted { verified: true },
        ] {
            assert_eq!(judge(wire).verdict, Verdict::Ok, "{wire:?}");
        }
    }

    #[test]
    fn many_are_not_all_named() {
        let all = (0..12).map(|n| n.to_string());
        assert_eq!(named(all), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …");
    }
}
