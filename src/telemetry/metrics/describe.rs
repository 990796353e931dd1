//! The help text of each metric in `/metrics`.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

use super::*;

#[expect(clippy::too_many_lines, reason = "a flat table of help texts")]
pub fn describe() {
    super::background::describe();
    super::service::describe();
    super::outbound::describe();
    super::mail::describe();
    super::bulk::describe();
    super::denials::describe();
    super::holds::describe();
    super::operators::describe();
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
        "Time from a delivery's headers to its response."
    );
    describe_histogram!(
        COMMIT,
        Unit::Seconds,
        "Time to store one group of deliveries."
    );
    describe_histogram!(GROUP, "Deliveries that share a commit.");
    describe_histogram!(
        PROCESSING,
        Unit::Seconds,
        "Time to apply one batch of events, commit included."
    );
    describe_histogram!(BATCH, "Events that share a batch.");
    describe_histogram!(
        WAIT,
        Unit::Seconds,
        "Time from an event's receipt to its processed mark."
    );
    describe_counter!(
        CALLS,
        "Calls to the gateway: forwarded and counted as used, released, or turned away for lack of room."
    );
    describe_counter!(
        PURGED,
        "Rows removed at the end of their retention, by table."
    );
    describe_counter!(
        SET_ASIDE,
        "Events put back untried because another transaction held their organization."
    );
    describe_counter!(
        HELD,
        "Times that another transaction held an organization for longer than a worker waits."
    );
    describe_counter!(
        ALTERED,
        "Deliveries of an event id that is already stored with other content."
    );
    describe_counter!(
        THIN,
        "Thin events stored: they name their object without its content, and change nothing."
    );
    describe_gauge!(DEAD_LETTERS, "Events that could not be processed.");
    describe_gauge!(
        UNPROCESSED,
        "Events waiting to be processed, including those to be retried."
    );
    describe_gauge!(
        OLDEST,
        Unit::Seconds,
        "Age of the oldest event waiting to be processed."
    );
    describe_counter!(
        AUDIT_ENTRIES,
        "Entries appended to the audit log, by action."
    );
    describe_counter!(
        AUDIT_ERRORS,
        "Audit entries that could not be appended; their changes were rolled back."
    );
    describe_gauge!(
        AUDIT_BYTES,
        Unit::Bytes,
        "Size of the audit log in the database."
    );
    describe_counter!(ALERTS, "Alerts raised, by kind.");
    describe_counter!(
        DRIFT,
        "Differences from Stripe found by reconciliation, by kind."
    );
    describe_gauge!(
        DRIFT_LEFT,
        "Differences from Stripe that the newest reconciliation found and did not heal, by kind."
    );
    describe_gauge!(
        FINDINGS,
        "Problems found in mirrored data, by kind; doctor says what to do."
    );
    describe_gauge!(
        OPEN_REQUESTS,
        "Requests to Stripe without a known outcome that recovery has not settled yet."
    );
    describe_gauge!(
        ABANDONED_REQUESTS,
        "Requests to Stripe that recovery gave up on without learning their outcome."
    );
    describe_counter!(
        RECOVERY,
        "Recovery attempts that settled nothing, by result: failed or abandoned."
    );
    describe_counter!(LOGINS, "Login attempts, by outcome.");
    describe_histogram!(QUOTA_GROUP, "Usage requests that share a commit.");
    describe_histogram!(
        QUOTA_COMMIT,
        Unit::Seconds,
        "Time to count one group of usage requests."
    );
    describe_counter!(USAGE, "Usage events, by result.");
    describe_counter!(
        USAGE_REFUSED,
        "Usage requests refused for lack of room, by reason: the organization's share was taken, or all of it."
    );
    describe_counter!(
        USAGE_SET_ASIDE,
        "Usage requests counted apart from their group because rows of their organization were held or refused."
    );
    describe_counter!(
        SHARE_EXCEEDED,
        "Requests refused after waiting for others of their organization, by class."
    );
    describe_gauge!(GRACE_ACTIVE, "Running grace periods.");
    describe_gauge!(GRACE_BY_METRIC, "Running grace periods, by metric.");
    describe_counter!(
        GRACE_EXPIRED,
        "Grace periods that ended because their time ran out."
    );
    describe_counter!(
        GRACE_CONVERTED,
        "Grace periods that ended because the plan or the quota grew."
    );
    describe_counter!(
        USAGE_ALERTS,
        "Attempts to deliver a usage alert to the application, by result."
    );
    describe_counter!(USAGE_REPORTED, "Units of usage reported to Stripe.");
    describe_counter!(
        HTTP_REQUESTS,
        "Requests answered, by method, route and status."
    );
    describe_histogram!(
        HTTP_TIME,
        Unit::Seconds,
        "Time from a request's headers to its response's, by method and route."
    );
    describe_counter!(USAGE_REPORTS, "Meter events of usage reports, by result.");
    describe_counter!(
        USAGE_REJECTED,
        "Meter events that Stripe accepted and rejected afterwards, by its code."
    );
    describe_counter!(
        USAGE_COUNTED,
        "Waits until Stripe had counted the usage that it was told of, by result."
    );
    describe_counter!(
        USAGE_UNBILLED,
        "Usage totals that no price bills, as found by usage reports, by reason."
    );
    describe_gauge!(
        POOL,
        "Database connections of this process, by pool and state."
    );
    describe_gauge!(POOL_LIMIT, "Maximum number of connections of a pool.");
    describe_gauge!(
        READY,
        "1 if this process is ready, as /readyz says, else 0."
    );
    describe_gauge!(
        JOB_SUCCESS,
        "Unix time at which a scheduled job last succeeded; 0: never."
    );
    describe_gauge!(JOB_FAILING, "1 if the latest run of a job failed, else 0.");
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
