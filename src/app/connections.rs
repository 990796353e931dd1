//! The database connections of a replica: its pools, and whether the server has as
//! many as it may open.

use sqlx::postgres::{PgConnectOptions, PgPool};

use crate::db::{self, DatabaseError};

/// Shared by requests and background parts.
const API: u32 = 8;
/// For looking up credentials and features.
const CREDENTIALS: u32 = 2;
/// For logins, which anybody can attempt.
const LOGINS: u32 = 2;
/// For what previews read.
const PREVIEWS: u32 = 2;
/// For scrapes, and for probes while new connections are scarce.
const PROBES: u32 = 2;
/// Outside pools: intake's writer, the listener for notifications, and a probe.
const ALONE: u32 = 3;

/// Every pool of this process.
#[derive(Clone)]
pub struct Pools {
    pub api: PgPool,
    pub credentials: PgPool,
    pub logins: PgPool,
    pub previews: PgPool,
    pub probes: PgPool,
    /// `None` if this replica does not process events.
    pub processing: Option<PgPool>,
}

impl Pools {
    /// Connects nothing yet. Each of `workers` may hold a connection, and the check of
    /// due times another.
    pub fn new(options: &PgConnectOptions, workers: u32) -> Self {
        Self {
            api: db::pool(options.clone(), API),
            credentials: db::lookup_pool(options.clone(), CREDENTIALS),
            logins: db::pool(options.clone(), LOGINS),
            previews: db::lookup_pool(options.clone(), PREVIEWS),
            probes: db::pool(options.clone(), PROBES),
            processing: (workers > 0).then(|| db::pool(options.clone(), workers + 1)),
        }
    }

    /// Those that may do without what they do not use. Probes may not: theirs are for when
    /// new connections are scarce.
    pub fn yielding(&self) -> Vec<PgPool> {
        let named = self.named().into_iter();
        let yielding = named.filter(|(name, _)| *name != "probes");
        yielding.map(|(_, pool)| pool).collect()
    }

    /// The pools by name.
    pub fn named(&self) -> Vec<(&'static str, PgPool)> {
        let always = [
            ("api", &self.api),
            ("credentials", &self.credentials),
            ("logins", &self.logins),
            ("previews", &self.previews),
            ("probes", &self.probes),
        ];
        let processing = self.processing.iter().map(|pool| ("processing", pool));
        let all = always.into_iter().chain(processing);
        all.map(|(name, pool)| (name, pool.clone())).collect()
    }
}

/// The most connections that a replica opens. Each lane has two: one that counts, and
/// one for requests that wait for an account that another session holds.
pub fn needed(workers: u32, lanes: usize) -> u32 {
    let processing = if workers > 0 { workers + 1 } else { 0 };
    let lanes = u32::try_from(lanes).unwrap_or(u32::MAX);
    API + CREDENTIALS + LOGINS + PREVIEWS + PROBES + ALONE + processing + 2 * lanes
}

/// How many of the connections that this replica may open the server, or a pooler in
/// front of it, lacks. Logs a warning if any.
pub async fn missing(options: &PgConnectOptions, needed: u32) -> Result<u32, DatabaseError> {
    let room = db::room(&mut db::connect(options).await?).await?;
    if let Some(reason) = room.too_small_for(needed) {
        db::waiting_is_refusal();
        let free = u32::try_from(room.free()).unwrap_or(0);
        tracing::warn!(needed, free, "{reason}");
        return Ok(needed.saturating_sub(free));
    }
    match db::short_pooler(options, needed).await? {
        None => Ok(0),
        Some(short) => {
            let given = short.given;
            tracing::warn!(needed, given, "DATABASE_URL: {short}: {}", db::RAISE);
            Ok(needed - given)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_takes_what_the_documentation_says() {
        // docs/database.md, Connections.
        assert_eq!(needed(0, 1), 21);
        assert_eq!(needed(2, 2), 26);
        assert_eq!(needed(8, 4), 36);
        let page = include_str!("../../docs/database.md");
        let said = format!(
            "that is {} with two cores and two workers, {} with eight of both.",
            needed(2, 2),
            needed(8, 4)
        );
        assert!(page.contains(&said), "{said}");
        let rows: Vec<&str> = page
            .lines()
            .skip_while(|line| !line.starts_with("| connections | for |"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .filter_map(|line| line.split('|').nth(1))
            .collect();
        let fixed = rows.iter().filter_map(|row| row.trim().parse::<u32>().ok());
        assert_eq!(fixed.sum::<u32>(), needed(0, 0));
        let others: Vec<&str> = rows
            .iter()
            .map(|row| row.trim())
            .filter(|row| row.parse::<u32>().is_err())
            .collect();
        assert_eq!(
            others,
            [
                "two for each core, up to 4 cores",
                "`WORKER_CONCURRENCY` + 1 (0: none)"
            ]
        );
    }
}
