//! The table: what strangers and tenants may take of this process, and why so
//! much. What holds to a limit stands beside the feature; the number is here.

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

/// Answers of upstreams on their way to clients of the gateway. What a connection
/// reads at once grows with the answer, up to 400 KiB, which a client that reads
/// slowly leaves with us.
pub const FORWARDED: usize = 32 * MIB;
/// Those of one organization.
pub const FORWARDED_OF_ORGANIZATION: usize = FORWARDED / 4;
/// A read takes at least as much.
pub const FORWARDED_READ: usize = 16 * KIB;
/// Forwarded calls at once: each is a connection from a client and one to an
/// upstream.
pub const CALLS: usize = 1_024;
/// A quarter of them, so that no organization takes all.
pub const CALLS_OF_ORGANIZATION: usize = CALLS / 4;

/// Lanes of usage that is counted, at most.
pub const USAGE_LANES: usize = 4;
/// What waits to be counted in a lane: requests, …
pub const USAGE_REQUESTS: usize = 4_096;
/// … events, half a second of counting, …
pub const USAGE_EVENTS: usize = 64_000;
/// … and their bytes. An organization alone has half of each.
pub const USAGE_BYTES: usize = 16 * MIB;

/// Deliveries that wait to be stored; their bodies are counted above.
pub const DELIVERIES: usize = 1_024;
/// Events that a worker processes together…
pub const PROCESSED_EVENTS: i64 = 256;
/// …and their payloads: what is made of one takes many times its bytes. One
/// event is processed however large it is.
pub const PROCESSED_BYTES: i64 = 2 * MIB as i64;

/// What one organization has under way at once, and what waits beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfOrganization {
    pub units: u32,
    pub waiting: usize,
}

/// Checks and events, by the size of their bodies: a unit, and one for each
/// [`USAGE_UNIT`]. 256 small ones fill a group's half; eight of the largest are
/// 8 MiB.
pub const USAGE: OfOrganization = OfOrganization {
    units: 256,
    waiting: 2_048,
};
pub const USAGE_UNIT: u64 = 4 * KIB as u64;
/// Of the largest body.
pub const USAGE_UNITS_OF_REQUEST: u32 = 32;
/// Five of the eight connections that requests share. With those that change
/// something one stays for others.
pub const READS: OfOrganization = OfOrganization {
    units: 5,
    waiting: 512,
};
/// Idempotency keys that are claimed or settled, by the same connections.
pub const KEYS: OfOrganization = READS;
/// Previews have connections of their own, and share what they read.
pub const PREVIEWS: OfOrganization = OfOrganization {
    units: 16,
    waiting: 128,
};
/// Changes ask Stripe, and of one organization one at a time is made.
pub const CHANGES: OfOrganization = OfOrganization {
    units: 2,
    waiting: 64,
};
/// An export is under way until its last byte is sent.
pub const EXPORTS: OfOrganization = OfOrganization {
    units: 2,
    waiting: 16,
};
/// How long a request waits for those of its organization before it.
pub const WAIT_OF_ORGANIZATION: Duration = Duration::from_secs(2);

/// Bytes of answers that are kept for their idempotency keys, for an organization
/// within a day, by each replica.
pub const KEPT_ANSWERS: u64 = 64 * MIB as u64;
/// Larger answers are passed on and not kept.
pub const KEPT_ANSWER: usize = MIB;
/// Copies of answers on their way through the gateway, until they are kept.
pub const COPIES: usize = 12 * MIB;
/// Those of one organization.
pub const COPIES_OF_ORGANIZATION: usize = COPIES / 3;
/// What a copy takes at least: most answers are smaller.
pub const COPY_STEP: usize = 4 * KIB;

/// Logins at once: those that are hashed, and those that wait for it.
pub const LOGINS: usize = 34;
/// Of one address, which may be an office's.
pub const LOGINS_OF_ADDRESS: usize = 16;

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
    /// At rest, and what is made of the batches that are processed.
    const OTHERS: usize = (48 + 64) * MIB;

    #[test]
    fn all_floods_at_once_fit_the_manifests_limit() {
        let bodies = INTAKE + 3 * API + ANONYMOUS;
        let usage = USAGE_LANES * USAGE_BYTES;
        let foreign = CONNECTIONS * CONNECTION + HEADS + bodies + usage + FORWARDED + COPIES;
        assert!(
            foreign + OTHERS <= LIMIT,
            "{} MiB",
            (foreign + OTHERS) / MIB
        );
    }
}
