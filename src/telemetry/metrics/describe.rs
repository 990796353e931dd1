//! What each metric is, in the words of `/metrics`.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use super::*;

pub fn describe() {
    super::audit::start_at_zero();
    super::budget::start_at_zero();
    super::log::start_at_zero();
    super::service::describe();
    describe_counter!(
        ATTEMPTS,
        "Processing attempts, by status: processed or failed."
    );
    describe_counter!(DELIVERIES, "Deliveries to the webhook endpoint, by result.");
    describe_counter!(OUTCOMES, "Events processed, by outcome.");
    describe_counter!(
        RETRIES,
        "Processing attempts that were not an event's first, by status."
    );
    describe_counter!(REPLAYS, "Replays by an operator, by status.");
    describe_histogram!(
        INTAKE,
        Unit::Seconds,
        "From a delivery's headers to its answer."
    );
    describe_histogram!(COMMIT, Unit::Seconds, "Storing one group of deliveries.");
    describe_histogram!(GROUP, "Deliveries that share a commit.");
    describe_histogram!(
        PROCESSING,
        Unit::Seconds,
        "Applying one batch of events, commit included."
    );
    describe_histogram!(BATCH, "Events that share a batch.");
    describe_histogram!(
        WAIT,
        Unit::Seconds,
        "From an event's receipt to its processed mark."
    );
    describe_counter!(
        CALLS,
        "Calls that were forwarded and used or let go, or that found no room."
    );
    describe_counter!(
        PURGED,
        "Rows that were removed when their time was over, by table."
    );
    describe_counter!(
        SET_ASIDE,
        "Events that were not tried, since another transaction held their organization."
    );
    describe_counter!(
        HELD,
        "Organizations that another transaction held for longer than a worker waits."
    );
    describe_counter!(
        ALTERED,
        "Deliveries of an event that was stored before with another content."
    );
    describe_counter!(
        THIN,
        "Thin events that were stored: they name their object and do not show it, and change nothing."
    );
    describe_gauge!(DEAD_LETTERS, "Events that could not be processed.");
    describe_gauge!(
        UNPROCESSED,
        "Events that wait to be processed, those to be retried included."
    );
    describe_gauge!(OLDEST, Unit::Seconds, "Age of the oldest event that waits.");
    describe_counter!(
        AUDIT_ENTRIES,
        "Entries appended to the audit log, by action."
    );
    describe_counter!(
        AUDIT_ERRORS,
        "Audit entries that could not be appended; their changes were undone."
    );
    describe_gauge!(
        AUDIT_BYTES,
        Unit::Bytes,
        "The audit log's size in the database."
    );
    describe_counter!(ALERTS, "Alerts raised, by kind.");
    describe_counter!(
        DRIFT,
        "Differences from Stripe that a reconciliation found, by kind."
    );
    describe_gauge!(
        FINDINGS,
        "What is wrong with what is mirrored, by kind; doctor says what to do."
    );
    describe_gauge!(
        OPEN_REQUESTS,
        "Requests to Stripe without an answer that recovery has not settled yet."
    );
    describe_gauge!(
        ABANDONED_REQUESTS,
        "Requests to Stripe that recovery gave up without knowing what Stripe did."
    );
    describe_counter!(
        RECOVERY,
        "Attempts of recovery that settled nothing, by result: failed or abandoned."
    );
    describe_counter!(LOGINS, "Attempts to log in, by outcome.");
    describe_histogram!(QUOTA_GROUP, "Usage requests that share a commit.");
    describe_histogram!(
        QUOTA_COMMIT,
        Unit::Seconds,
        "Counting one group of usage requests."
    );
    describe_counter!(USAGE, "Usage events, by result.");
    describe_counter!(
        USAGE_REFUSED,
        "Usage requests that there was no room for, by whether the organization's share or all was taken."
    );
    describe_counter!(
        USAGE_SET_ASIDE,
        "Usage requests that waited apart: something of their organization was held or refused."
    );
    describe_counter!(
        SHARE_EXCEEDED,
        "Requests that waited in vain for others of their organization, by class."
    );
    describe_gauge!(GRACE_ACTIVE, "Grace periods that run.");
    describe_gauge!(GRACE_BY_METRIC, "Grace periods that run, by metric.");
    describe_counter!(
        GRACE_EXPIRED,
        "Grace periods that ended because their time was over."
    );
    describe_counter!(
        GRACE_CONVERTED,
        "Grace periods that ended because the plan or the quota grew."
    );
    describe_counter!(
        USAGE_ALERTS,
        "Attempts to tell the application of a usage alert, by result."
    );
    describe_counter!(USAGE_REPORTED, "Units of usage that Stripe was told of.");
    describe_counter!(
        HTTP_REQUESTS,
        "Requests that were answered, by method, route and status."
    );
    describe_histogram!(
        HTTP_TIME,
        Unit::Seconds,
        "From a request's headers to its answer's, by method and route."
    );
    describe_counter!(USAGE_REPORTS, "Meter events of usage reports, by result.");
    describe_counter!(
        USAGE_UNBILLED,
        "Totals of which a usage report found that nothing bills them, by reason."
    );
    describe_gauge!(
        POOL,
        "Database connections of this process, by pool and state."
    );
    describe_gauge!(
        POOL_LIMIT,
        "Database connections that a pool opens at most."
    );
    describe_gauge!(
        READY,
        "Whether this process can do its work, as /readyz says: 1 or 0."
    );
    describe_gauge!(
        JOB_SUCCESS,
        "When a scheduled job last succeeded, in seconds since 1970; 0: never."
    );
    describe_gauge!(JOB_FAILING, "1 where the newest run of a job failed.");
    describe_gauge!(BUILD, "1, with the version as label.");
    for without_labels in [
        INTAKE,
        COMMIT,
        GROUP,
        PROCESSING,
        BATCH,
        WAIT,
        QUOTA_GROUP,
        QUOTA_COMMIT,
    ] {
        let _ = histogram!(without_labels);
    }
}
