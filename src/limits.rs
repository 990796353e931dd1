//! All limits on what clients and tenants may use of this process, each with its
//! reason. The features enforce them; the numbers are here.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Connections of the API's listener. Each may hold two reads, or a read and an answer, a
/// response's head and a task: about 48 KiB at most, 144 MiB in all.
pub const CONNECTIONS: usize = 3_072;
/// Connections of the separate listener for scrapes.
pub const METRICS_CONNECTIONS: usize = 64;
/// Connections of one address: a third, so that two of them leave room for others. No
/// limit for addresses of this host, or behind `TRUSTED_PROXIES`: they stand for many
/// clients.
pub const CONNECTIONS_OF_ADDRESS: usize = CONNECTIONS / 3;
/// An address with more connections than this is the first to lose some.
pub const MANY_OF_ADDRESS: u32 = 64;
/// An address is busy once polls of its connections took so long…
pub const BUSY_AFTER: Duration = Duration::from_millis(2);
/// …beyond this part of the time: a tenth. A customer's 500 checks a second take less.
pub const BUSY_SHARE: u32 = 10;
/// What all busy addresses together take of a pass of the runtime's queue, so that each
/// of a delivery's five steps waits that long for them.
pub const BUSY_TURN: Duration = Duration::from_millis(1);
/// How many of their connections are called for it: a poll takes some 50 µs.
pub const BUSY_CALLED: usize = 32;
/// Connections that are accepted in one turn.
pub const ACCEPTED_IN_TURN: u64 = 16;
/// Descriptors reserved for connections to PostgreSQL, files, listeners, and
/// connections that are closing.
pub const DESCRIPTORS_RESERVED: u64 = 256;
/// A forwarded call takes one descriptor for the client and one for the
/// upstream.
pub const DESCRIPTORS_OF_CONNECTION: u64 = 2;

/// Maximum size of a read. It is below the second size of hyper's buffer, which
/// therefore never grows for a body.
pub const READ: usize = 16 * KIB - 1;
/// Maximum size of a head. A signature header has 68 bytes for each secret; no honest
/// client needs more.
pub const HEAD: usize = MIB;
/// Size up to which a head is not counted; part of the 48 KiB above.
pub const HEAD_FREE: usize = 16 * KIB;
/// Memory of all heads beyond that: a few of the largest, or many of 64 KiB.
pub const HEADS: usize = 16 * MIB;
/// A growing buffer has up to twice the size of its content.
pub const HEAD_FACTOR: usize = 2;

/// Size up to which a body is not counted: it fits in its connection's last read.
/// Events and checks are smaller, and never wait for a share.
pub const BODY_FREE: usize = 16 * KIB;
/// The steps in which a body without a length is counted.
pub const BODY_STEP: usize = 64 * KIB;

/// Memory of the bodies of Stripe's deliveries, from their first byte until they are
/// stored. Used by nothing else.
pub const INTAKE: usize = 32 * MIB;
/// Of one address. Stripe delivers from a dozen.
pub const INTAKE_OF_ADDRESS: usize = 8 * MIB;
/// Memory of the bodies of requests with a credential, until they are parsed; the
/// result takes about twice as much again.
pub const API: usize = 24 * MIB;
/// Of one credential: eight of the largest batches at a time.
pub const API_OF_CREDENTIAL: usize = 8 * MIB;
/// Memory of the bodies of requests without a credential: logins, which are small.
pub const ANONYMOUS: usize = 4 * MIB;
/// Of one address.
pub const ANONYMOUS_OF_ADDRESS: usize = 2 * MIB;

/// Size up to which an answer is not counted: it takes the place of a read.
pub const ANSWER_FREE: usize = 16 * KIB;
/// Memory of larger answers, until their last byte is written.
pub const ANSWERS: usize = 24 * MIB;
/// Of one organization.
pub const ANSWERS_OF_ORGANIZATION: usize = ANSWERS / 4;
/// Bytes of an answer that a connection takes before its client reads: two pieces.
pub const UNWRITTEN: usize = 2 * ANSWER_PIECE;
pub const ANSWER_PIECE: usize = 16 * KIB;

/// Memory of upstreams' responses on their way to clients of the gateway, until their
/// last byte is written.
pub const FORWARDED: usize = 32 * MIB;
/// Of one organization.
pub const FORWARDED_OF_ORGANIZATION: usize = FORWARDED / 4;
/// Minimum size of a read…
pub const FORWARDED_READ: usize = 16 * KIB;
/// …and the size up to which the buffer of a connection to an upstream grows.
pub const FORWARDED_READ_MOST: usize = 408 * KIB;
/// Concurrent forwarded calls: each is a connection from a client and one to an
/// upstream.
pub const CALLS: usize = 1_024;
/// Of one organization: a quarter, so that none takes all.
pub const CALLS_OF_ORGANIZATION: usize = CALLS / 4;

/// Maximum number of lanes that count usage.
pub const USAGE_LANES: usize = 4;
/// What may wait in a lane: requests, …
pub const USAGE_REQUESTS: usize = 4_096;
/// … events, half a second of counting, …
pub const USAGE_EVENTS: usize = 64_000;
/// … and their bytes. A single organization gets half of each.
pub const USAGE_BYTES: usize = 16 * MIB;
/// Reservations of a metric that an organization may hold at once: some 4 MiB of disk, and
/// some milliseconds to count. A call that lasts a minute leaves room for 160 a second.
pub const HOLDS: u32 = 10_000;

/// Deliveries that may wait to be stored; their bodies are counted above.
pub const DELIVERIES: usize = 1_024;
/// Events that a worker processes in a batch…
pub const PROCESSED_EVENTS: i64 = 256;
/// …and the size of their payloads: a parsed one takes many times its bytes. A single
/// event is processed whatever its size.
pub const PROCESSED_BYTES: i64 = 2 * MIB as i64;

/// One organization's limit of work in progress, and of requests that wait for it.
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
/// The units of the largest body.
pub const USAGE_UNITS_OF_REQUEST: u32 = 32;
/// Five of the eight connections that requests share. Together with changes, one
/// remains for other organizations.
pub const READS: OfOrganization = OfOrganization {
    units: 5,
    waiting: 512,
};
/// Idempotency keys being claimed or settled, on the same connections.
pub const KEYS: OfOrganization = READS;
/// Previews have their own connections, and share what they read.
pub const PREVIEWS: OfOrganization = OfOrganization {
    units: 16,
    waiting: 128,
};
/// Changes and previews of an organization in a minute: Stripe takes 25 to 100 calls a second
/// of the whole account, of which no organization may take most, and each change is entered
/// in the audit log, which is kept for ever. A person makes a few.
pub const ASKED_OF_STRIPE_PER_MINUTE: u32 = 600;
/// Changes call Stripe, one at a time for each organization.
pub const CHANGES: OfOrganization = OfOrganization {
    units: 2,
    waiting: 64,
};
/// Organizations that a service key makes or changes at once: half of the connections
/// that requests share. A thousand customers may sign up in the same moment.
pub const ORGANIZATIONS: OfOrganization = OfOrganization {
    units: 4,
    waiting: 2_048,
};
/// An export is in progress until its last byte is sent.
pub const EXPORTS: OfOrganization = OfOrganization {
    units: 2,
    waiting: 16,
};
/// Reads of an organization's state. Those that wait for a change hold a connection of a
/// client and a task, and share a read of versions four times a second.
pub const STATES: OfOrganization = OfOrganization {
    units: 256,
    waiting: 512,
};
/// Requests that wait for a change of a state, in all: a quarter of the connections, so
/// that others, Stripe's among them, have the rest.
pub const STATES_WAITING: usize = CONNECTIONS / 4;
/// Once half of them are taken, of one organization: so two that take all they may leave
/// places for six others that do.
pub const STATES_WAITING_OF_ORGANIZATION: usize = STATES_WAITING / 12;
/// How long a request waits for earlier ones of its organization.
pub const WAIT_OF_ORGANIZATION: Duration = Duration::from_secs(2);

/// Bytes of responses that each replica stores for idempotency keys, for each
/// organization (or caller who belongs to none) and day.
pub const KEPT_ANSWERS: u64 = 64 * MIB as u64;
/// Keys that each replica stores, for each organization and day: three a second. A row
/// without a response takes less than 1 KiB, so that all take 256 MiB of disk.
pub const KEPT_KEYS: u64 = 256 * 1_024;
/// Larger responses are not stored.
pub const KEPT_ANSWER: usize = MIB;
/// Memory of copies of responses on their way through the gateway, until they are
/// stored.
pub const COPIES: usize = 12 * MIB;
/// Of one organization.
pub const COPIES_OF_ORGANIZATION: usize = COPIES / 3;
/// Minimum size of a copy: most responses are smaller.
pub const COPY_STEP: usize = 4 * KIB;

/// Concurrent logins: those being hashed, and those waiting for it.
pub const LOGINS: usize = 34;
/// Of one address, which may be an office.
pub const LOGINS_OF_ADDRESS: usize = 16;
/// Tokens of the product's issuer whose signatures are checked at once: some 30 to 100 µs
/// each, on threads of their own, so that a flood of wrong ones takes no more than these.
pub const TOKEN_CHECKS: usize = 2;

/// How long a body waits for memory before it is refused…
pub const WAIT: Duration = Duration::from_secs(1);
/// …and a delivery's body: each delivery with a forged signature holds memory for
/// [`BODY_STALL`].
pub const WAIT_OF_DELIVERY: Duration = Duration::from_secs(4);
/// The `Retry-After` of refused requests.
pub const RETRY_AFTER_SECS: u32 = 2;
/// While memory is short, a body, or the reading of an answer, must make progress within
/// this time…
pub const BODY_STALL: Duration = Duration::from_millis(300);
/// …and at this rate: the largest takes eight seconds.
pub const BODY_BYTES_PER_SEC: u64 = 128 * KIB as u64;
/// How long a delivery whose signature has the right form and time keeps its
/// connection, even if others need one.
pub const DELIVERY_GRACE: Duration = Duration::from_secs(1);
/// Bytes that a connection reads and writes in one turn; more wait for its next.
pub const MOVED_IN_TURN: usize = 4 * READ;
/// Bytes of responses that the system keeps for a client that does not read.
pub const UNSENT: u32 = 128 * KIB as u32;
/// How long a client may stop reading its response.
pub const ANSWER_STALL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// Maximum memory of a connection; see `server::budget`.
    const CONNECTION: usize = 48 * KIB;
    const LIMIT: usize = 512 * MIB;
    /// The process at rest, and the batches being processed.
    const OTHERS: usize = (48 + 64) * MIB;

    #[test]
    fn all_limits_together_fit_the_memory_limit_of_the_manifests() {
        let bodies = INTAKE + 3 * API + ANONYMOUS;
        let usage = USAGE_LANES * USAGE_BYTES;
        let answers = ANSWERS + FORWARDED + COPIES;
        let foreign = CONNECTIONS * CONNECTION + HEADS + bodies + usage + answers;
        assert!(
            foreign + OTHERS <= LIMIT,
            "{} MiB",
            (foreign + OTHERS) / MIB
        );
    }
}
