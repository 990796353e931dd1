//! The table: what strangers and tenants may take, and why so much.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Connections of the API's listener. Each may hold two reads, an answer's
/// head and its task: about 48 KiB at most, 144 MiB for all of them.
pub const CONNECTIONS: usize = 3_072;
/// Connections of a listener for scrapes only.
pub const METRICS_CONNECTIONS: usize = 64;
/// Those of one address: a third, so that two of them leave room for others.
/// No limit for addresses of this host, or behind `TRUSTED_PROXIES`: they
/// stand for many.
pub const CONNECTIONS_OF_ADDRESS: usize = CONNECTIONS / 3;
/// From how many on an address is the first to lose connections.
pub const MANY_OF_ADDRESS: u32 = 64;
/// Descriptors kept for PostgreSQL's connections, files, listeners, and for
/// connections that are closed but not gone yet.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// A forwarded call takes one descriptor for the client and one for the
/// upstream.
pub const DESCRIPTORS_OF_CONNECTION: u64 = 2;

/// What one read takes at most. Less than hyper's second size of its buffer,
/// which therefore never grows for a body.
pub const READ: usize = 16 * KIB - 1;
/// The largest head. A signature header has 68 bytes for each secret; more
/// than this is nobody's.
pub const HEAD: usize = MIB;
/// What each head may take without being counted; in the 48 KiB above.
pub const HEAD_FREE: usize = 16 * KIB;
/// What all heads may take beyond that: a few of the largest, or many of 64 KiB.
pub const HEADS: usize = 16 * MIB;
/// A buffer that grows has up to twice what is in it.
pub const HEAD_FACTOR: usize = 2;

/// What each body may take without being counted: it lies in its connection's
/// last read. Events and checks are smaller, and never wait for a share.
pub const BODY_FREE: usize = 16 * KIB;
/// How much more a body without a length is counted for at a time.
pub const BODY_STEP: usize = 64 * KIB;

/// Bodies of Stripe's deliveries, from their first byte until they are stored.
/// Nothing else takes from it.
pub const INTAKE: usize = 32 * MIB;
/// Those of one address. Stripe delivers from a dozen.
pub const INTAKE_OF_ADDRESS: usize = 8 * MIB;
/// Bodies of requests with a credential, until they are read; what is made of
/// them takes about twice as much again.
pub const API: usize = 32 * MIB;
/// Those of one credential: twelve of the largest batches at a time.
pub const API_OF_CREDENTIAL: usize = 12 * MIB;
/// Bodies of requests without a credential: logins, which are small.
pub const ANONYMOUS: usize = 4 * MIB;
/// Those of one address.
pub const ANONYMOUS_OF_ADDRESS: usize = 2 * MIB;

/// How long a body waits for its share before it is refused…
pub const WAIT: Duration = Duration::from_secs(1);
/// …and a delivery's: those who forge its signature keep a share for
/// [`BODY_STALL`] each.
pub const WAIT_OF_DELIVERY: Duration = Duration::from_secs(4);
/// When whoever was refused may come back.
pub const RETRY_AFTER_SECS: u32 = 2;
/// While a share is short, a body must go on within this…
pub const BODY_STALL: Duration = Duration::from_millis(300);
/// …and come at this rate: the largest takes eight seconds.
pub const BODY_BYTES_PER_SEC: u64 = 128 * KIB as u64;
/// A delivery whose signature has the right form and time keeps its connection
/// for as long, whoever else wants one.
pub const DELIVERY_GRACE: Duration = Duration::from_secs(1);
/// How long a client may read nothing of its answer.
pub const ANSWER_STALL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// What one connection holds at most: see the module's sum.
    const CONNECTION: usize = 48 * KIB;
    const LIMIT: usize = 512 * MIB;
    /// At rest, the ledger's queue, and batches that are processed.
    const OTHERS: usize = (64 + 64 + 64) * MIB;

    #[test]
    fn all_floods_at_once_fit_the_manifests_limit() {
        let bodies = INTAKE + 3 * API + ANONYMOUS;
        let foreign = CONNECTIONS * CONNECTION + HEADS + bodies;
        assert!(
            foreign + OTHERS <= LIMIT,
            "{} MiB",
            (foreign + OTHERS) / MIB
        );
    }
}
