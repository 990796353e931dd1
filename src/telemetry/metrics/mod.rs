//! Metrics: their names, and one function for each thing that is counted or
//! measured. Functions take plain values; no organization, user or event id is
//! ever a label.

pub mod audit;
pub mod background;
pub mod budget;
pub mod bulk;
pub mod denials;
mod describe;
mod drift;
pub mod holds;
mod labels;
pub mod log;
pub mod mail;
pub mod operators;
pub mod outbound;
mod service;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use billing_domain::grace_period::EndReason;
use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

pub use drift::{drift, drift_in, drift_left};
pub use labels::Labels;
pub use service::{
    connections_missing, decision, feature_check, issued_token, of_service, signing_keys_read,
    stripe_call, unknown_feature,
};
pub use text::{counters, gauges, name_of};

const ATTEMPTS: &str = "stripe_webhook_events_total";
const DELIVERIES: &str = "stripe_webhook_deliveries_total";
const OUTCOMES: &str = "stripe_webhook_outcomes_total";
const RETRIES: &str = "stripe_webhook_retries_total";
const REPLAYS: &str = "stripe_webhook_replays_total";
const INTAKE: &str = "stripe_webhook_intake_duration_seconds";
const COMMIT: &str = "stripe_webhook_commit_duration_seconds";
const GROUP: &str = "stripe_webhook_commit_group_size";
const PROCESSING: &str = "stripe_webhook_processing_duration_seconds";
const BATCH: &str = "stripe_webhook_processing_batch_size";
const WAIT: &str = "stripe_webhook_processing_delay_seconds";
const SET_ASIDE: &str = "stripe_webhook_set_aside_total";
const HELD: &str = "stripe_webhook_organizations_held_total";
const ALTERED: &str = "stripe_webhook_altered_events_total";
const THIN: &str = "stripe_webhook_thin_events_total";
const DEAD_LETTERS: &str = "webhook_dead_letter_queue_size";
const UNPROCESSED: &str = "stripe_webhook_unprocessed_events";
const OLDEST: &str = "stripe_webhook_oldest_unprocessed_seconds";
const AUDIT_ENTRIES: &str = "billing_audit_log_entries_total";
const AUDIT_ERRORS: &str = "billing_audit_log_errors_total";
const AUDIT_BYTES: &str = "billing_audit_log_bytes";
const ALERTS: &str = "billing_alerts_total";
const FINDINGS: &str = "billing_findings";
const OPEN_REQUESTS: &str = "billing_stripe_requests_open";
const ABANDONED_REQUESTS: &str = "billing_stripe_requests_abandoned";
const RECOVERY: &str = "billing_stripe_recovery_failures_total";
const DRIFT: &str = "billing_reconciliation_drift_total";
const DRIFT_LEFT: &str = "billing_reconciliation_drift";
const PURGED: &str = "billing_purged_rows_total";
const LOGINS: &str = "billing_logins_total";
const QUOTA_GROUP: &str = "quota_group_size";
const QUOTA_COMMIT: &str = "quota_commit_seconds";
const CALLS: &str = "gateway_calls_total";
const USAGE: &str = "usage_events_total";
const USAGE_REFUSED: &str = "usage_requests_refused_total";
const USAGE_SET_ASIDE: &str = "usage_requests_set_aside_total";
const SHARE_EXCEEDED: &str = "http_share_exceeded_total";
const GRACE_ACTIVE: &str = "grace_periods_active_total";
const GRACE_BY_METRIC: &str = "grace_periods_active";
const GRACE_EXPIRED: &str = "grace_periods_expired_total";
const GRACE_CONVERTED: &str = "grace_periods_converted_total";
const USAGE_ALERTS: &str = "usage_alert_deliveries_total";
const USAGE_REPORTED: &str = "usage_reported_units_total";
const HTTP_REQUESTS: &str = "http_requests_total";
const HTTP_TIME: &str = "http_request_duration_seconds";
const USAGE_REPORTS: &str = "usage_reports_total";
const USAGE_UNBILLED: &str = "usage_unbilled_total";
const USAGE_REJECTED: &str = "stripe_usage_rejected_total";
const USAGE_COUNTED: &str = "stripe_usage_counts_total";
const POOL: &str = "billing_database_connections";
const POOL_LIMIT: &str = "billing_database_connections_limit";
const READY: &str = "billing_ready";
const JOB_SUCCESS: &str = "billing_scheduled_job_last_success_timestamp_seconds";
const JOB_FAILING: &str = "billing_scheduled_job_failing";
const BUILD: &str = "billing_build_info";

/// Outcomes of forwarded calls.
const CALL_OUTCOMES: [&str; 4] = ["used", "let_go", "too_many_calls", "gateway_full"];

/// Outcomes of processed events.
const OUTCOMES_OF_EVENTS: [&str; 5] = [
    "applied",
    "superseded",
    "ignored",
    "livemode_mismatch",
    "foreign_account",
];

/// Results of deliveries.
const DELIVERY_RESULTS: [&str; 10] = [
    "stored",
    "duplicate",
    "signature_missing",
    "signature_invalid",
    "timestamp_out_of_tolerance",
    "payload_invalid",
    "payload_too_large",
    "body_timeout",
    "inbox_full",
    "inbox_unavailable",
];

const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0, 3600.0,
];
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Starts to record, and returns the handle that the metrics are read from. Every
/// series that an alert or a quotient needs exists from the start, at zero.
pub fn install(labels: &Labels) -> PrometheusHandle {
    let buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
        builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
            .expect("the list of buckets is not empty")
    };
    let builder = [INTAKE, COMMIT, PROCESSING, WAIT, QUOTA_COMMIT, HTTP_TIME]
        .iter()
        .chain(&service::TIMES)
        .fold(PrometheusBuilder::new(), |builder, name| {
            buckets(builder, name, &SECONDS)
        });
    let builder = [GROUP, BATCH, QUOTA_GROUP]
        .iter()
        .fold(builder, |builder, name| buckets(builder, name, &SIZES));
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // A second service in the same process (a test) keeps the first recorder.
    let _ = metrics::set_global_recorder(recorder);
    describe::describe();
    start_at_zero(labels);
    handle
}

/// What Stripe makes of the usage that it is told of.
fn start_usage_at_zero(labels: &Labels) {
    for result in ["sent", "failed", "doubtful", "refused"] {
        counter!(USAGE_REPORTS, "result" => result).absolute(0);
    }
    for result in ["counted", "uncounted", "overdue", "unknown"] {
        counter!(USAGE_COUNTED, "result" => result).absolute(0);
    }
    for &code in &labels.rejection_codes {
        counter!(USAGE_REJECTED, "code" => code).absolute(0);
    }
    for &reason in &labels.unbilled_reasons {
        counter!(USAGE_UNBILLED, "reason" => reason).absolute(0);
    }
}

fn start_at_zero(labels: &Labels) {
    audit::start_at_zero();
    budget::start_at_zero(labels);
    log::start_at_zero();
    outbound::start_at_zero();
    mail::start_at_zero();
    bulk::start_at_zero();
    denials::start_at_zero();
    holds::start_at_zero();
    operators::start_at_zero();
    for status in ["processed", "failed"] {
        counter!(ATTEMPTS, "status" => status).absolute(0);
        counter!(RETRIES, "status" => status).absolute(0);
        counter!(REPLAYS, "status" => status).absolute(0);
    }
    for outcome in OUTCOMES_OF_EVENTS {
        counter!(OUTCOMES, "outcome" => outcome).absolute(0);
    }
    for outcome in ["succeeded", "failed", "throttled", "unavailable"] {
        counter!(LOGINS, "outcome" => outcome).absolute(0);
    }
    for result in ["recorded", "duplicate", "rejected"] {
        counter!(USAGE, "result" => result).absolute(0);
    }
    counter!(USAGE_REPORTED).absolute(0);
    for kind in ALERT_KINDS {
        counter!(ALERTS, "kind" => kind).absolute(0);
    }
    for result in ["failed", "abandoned"] {
        counter!(RECOVERY, "result" => result).absolute(0);
    }
    stripe_requests(0, 0);
    for &kind in &labels.findings {
        gauge!(FINDINGS, "kind" => kind).set(0.0);
    }
    for &kind in &labels.drift_kinds {
        for healed in ["false", "true"] {
            counter!(DRIFT, "kind" => kind, "healed" => healed).absolute(0);
        }
        gauge!(DRIFT_LEFT, "kind" => kind).set(0.0);
    }
    start_usage_at_zero(labels);
    for &action in &labels.audit_actions {
        counter!(AUDIT_ENTRIES, "action" => action).absolute(0);
    }
    for result in ["delivered", "retried", "failed"] {
        counter!(USAGE_ALERTS, "result" => result).absolute(0);
    }
    for reason in ["share", "full"] {
        counter!(USAGE_REFUSED, "reason" => reason).absolute(0);
    }
    counter!(USAGE_SET_ASIDE).absolute(0);
    counter!(AUDIT_ERRORS).absolute(0);
    counter!(THIN).absolute(0);
    counter!(ALTERED).absolute(0);
    for result in DELIVERY_RESULTS {
        counter!(DELIVERIES, "result" => result).absolute(0);
    }
    for outcome in CALL_OUTCOMES {
        counter!(CALLS, "outcome" => outcome).absolute(0);
    }
    counter!(SET_ASIDE).absolute(0);
    counter!(HELD).absolute(0);
    counter!(GRACE_EXPIRED).absolute(0);
    counter!(GRACE_CONVERTED).absolute(0);
    gauge!(GRACE_ACTIVE).set(0.0);
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// One response of the webhook endpoint.
pub fn delivery(result: &'static str, took: Duration) {
    counter!(DELIVERIES, "result" => result).increment(1);
    histogram!(INTAKE).record(took);
}

/// One group of deliveries that was stored.
pub fn intake_group(size: usize, took: Duration) {
    histogram!(GROUP).record(size as f64);
    histogram!(COMMIT).record(took);
}

/// A known event id came again with other content.
pub fn altered_event() {
    counter!(ALTERED).increment(1);
}

/// One thin event that was stored.
pub fn thin_event() {
    counter!(THIN).increment(1);
}

/// One batch of events that was applied and committed.
pub fn processing_batch(size: usize, took: Duration) {
    histogram!(BATCH).record(size as f64);
    histogram!(PROCESSING).record(took);
}

/// One processing attempt that succeeded.
pub fn attempt_succeeded(outcome: &'static str, is_retry: bool, waited: Duration) {
    attempt("processed", is_retry);
    counter!(OUTCOMES, "outcome" => outcome).increment(1);
    histogram!(WAIT).record(waited);
}

/// One processing attempt that failed.
pub fn attempt_failed(is_retry: bool) {
    attempt("failed", is_retry);
}

fn attempt(status: &'static str, is_retry: bool) {
    counter!(ATTEMPTS, "status" => status).increment(1);
    if is_retry {
        counter!(RETRIES, "status" => status).increment(1);
    }
}

/// One replay by an operator.
pub fn attempt_replayed(succeeded: bool) {
    let status = if succeeded { "processed" } else { "failed" };
    counter!(ATTEMPTS, "status" => status).increment(1);
    counter!(REPLAYS, "status" => status).increment(1);
}

/// Events put back because another transaction holds their organization.
pub fn set_aside(events: u64) {
    counter!(SET_ASIDE).increment(events);
}

/// An organization was held by another transaction.
pub fn organization_held() {
    counter!(HELD).increment(1);
}

/// The kinds of alerts in `billing_alerts`.
pub const ALERT_KINDS: [&str; 10] = [
    "payment_failed",
    "payment_action_required",
    "charge_refunded",
    "refund_failed",
    "payment_disputed",
    "dispute_closed",
    "customer_deleted",
    "second_customer",
    "unknown_plan",
    "subscription_items_missing",
];

/// An alert that was committed.
pub fn alert(kind: &'static str) {
    counter!(ALERTS, "kind" => kind).increment(1);
}

/// Audit entries that were committed.
pub fn audit_entries(actions: &[&'static str]) {
    for action in actions {
        counter!(AUDIT_ENTRIES, "action" => *action).increment(1);
    }
}

/// Audit entries that could not be appended.
pub fn audit_error() {
    counter!(AUDIT_ERRORS).increment(1);
}

/// The backlog of webhook events, as counted in the database.
pub fn backlog(dead_letters: i64, unprocessed: i64, oldest_secs: i64) {
    gauge!(DEAD_LETTERS).set(dead_letters as f64);
    gauge!(UNPROCESSED).set(unprocessed as f64);
    gauge!(OLDEST).set(oldest_secs as f64);
}

/// The size of the audit log in the database.
pub fn audit_bytes(bytes: i64) {
    gauge!(AUDIT_BYTES).set(bytes as f64);
}

/// Requests to Stripe that are not settled yet, and those that recovery gave up.
pub fn stripe_requests(open: i64, abandoned: i64) {
    gauge!(OPEN_REQUESTS).set(open as f64);
    gauge!(ABANDONED_REQUESTS).set(abandoned as f64);
}

/// Problems found in mirrored data, by kind.
pub fn findings(counts: &[(&'static str, usize)]) {
    for (kind, count) in counts {
        gauge!(FINDINGS, "kind" => *kind).set(*count as f64);
    }
}

/// A recovery attempt that did not settle its item.
pub fn recovery(result: &'static str) {
    counter!(RECOVERY, "result" => result).increment(1);
}

/// Old rows were removed.
pub fn purged(table: &'static str, rows: u64) {
    counter!(PURGED, "table" => table).increment(rows);
}

/// One attempt to log in.
pub fn login(outcome: &'static str) {
    counter!(LOGINS, "outcome" => outcome).increment(1);
}

/// One group of usage requests.
pub fn quota_group(size: usize, took: Duration) {
    histogram!(QUOTA_GROUP).record(size as f64);
    histogram!(QUOTA_COMMIT).record(took);
}

/// A forwarded call ended, or found no room.
pub fn forwarded_call(outcome: &'static str) {
    counter!(CALLS, "outcome" => outcome).increment(1);
}

/// The ledger's queue had no room for a request: its organization's `share` was
/// taken, or the queue was `full`.
pub fn usage_refused(reason: &'static str) {
    counter!(USAGE_REFUSED, "reason" => reason).increment(1);
}

/// Requests were taken out of their group because rows of their organization are
/// held, or because the database refused them.
pub fn usage_set_aside(requests: u64) {
    counter!(USAGE_SET_ASIDE).increment(requests);
}

/// Starts the counter of a class of requests; each organization has a share of it.
pub fn start_share(class: &'static str) {
    counter!(SHARE_EXCEEDED, "class" => class).absolute(0);
}

/// A request waited in vain for others of its organization.
pub fn share_exceeded(class: &'static str) {
    counter!(SHARE_EXCEEDED, "class" => class).increment(1);
}

/// Usage events of one request that had the same result.
pub fn usage_events(result: &'static str, count: u64) {
    counter!(USAGE, "result" => result).increment(count);
}

/// A grace period ended, and the change was committed.
pub fn grace_ended(reason: EndReason) {
    match reason {
        EndReason::Expired => counter!(GRACE_EXPIRED).increment(1),
        EndReason::Upgraded | EndReason::QuotaRaised => counter!(GRACE_CONVERTED).increment(1),
        EndReason::PeriodEnded => {}
    }
}

/// Meter events of a usage report that had the same result.
pub fn usage_reports(result: &'static str, count: u64) {
    counter!(USAGE_REPORTS, "result" => result).increment(count);
}

/// How it ended to wait until Stripe has counted what it was told.
pub fn usage_counted(result: &'static str) {
    counter!(USAGE_COUNTED, "result" => result).increment(1);
}

/// Meter events that Stripe accepted and rejected afterwards.
pub fn usage_rejected(code: &'static str, count: u64) {
    counter!(USAGE_REJECTED, "code" => code).increment(count);
}

/// A usage total that no price bills.
pub fn usage_unbilled(reason: &'static str) {
    counter!(USAGE_UNBILLED, "reason" => reason).increment(1);
}

/// The usage metrics that have had a grace period since the process started.
static SEEN_METRICS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The running grace periods, as counted in the database.
pub fn graces(by_metric: &BTreeMap<String, i64>) {
    gauge!(GRACE_ACTIVE).set(by_metric.values().sum::<i64>() as f64);
    let series = |metric: &String| gauge!(GRACE_BY_METRIC, "metric" => metric.clone());
    // A metric whose last grace period ended goes back to zero.
    let mut seen = SEEN_METRICS.lock().unwrap_or_else(PoisonError::into_inner);
    seen.extend(by_metric.keys().cloned());
    for metric in seen.iter() {
        series(metric).set(by_metric.get(metric).copied().unwrap_or(0) as f64);
    }
}

/// One attempt to deliver a usage alert to the application.
pub fn usage_alert(result: &'static str) {
    counter!(USAGE_ALERTS, "result" => result).increment(1);
}

/// Units of usage reported to Stripe.
pub fn usage_reported(units: u64) {
    counter!(USAGE_REPORTED).increment(units);
}

/// The counter of a route's requests; `route` is the template.
pub fn http_requests(method: &'static str, route: &str, status: &str) -> Counter {
    counter!(HTTP_REQUESTS, "method" => method, "route" => route.to_owned(), "status" => status.to_owned())
}

/// The histogram of how long a route's requests take.
pub fn http_duration(method: &'static str, route: &str) -> Histogram {
    histogram!(HTTP_TIME, "method" => method, "route" => route.to_owned())
}

/// Whether the service is ready.
pub fn ready(is_ready: bool) {
    gauge!(READY).set(if is_ready { 1.0 } else { 0.0 });
}

/// The state of a connection pool that opens up to `most` connections.
pub fn connections(pool: &'static str, open: u32, idle: usize, most: u32) {
    gauge!(POOL, "pool" => pool, "state" => "open").set(f64::from(open));
    gauge!(POOL, "pool" => pool, "state" => "idle").set(idle as f64);
    gauge!(POOL_LIMIT, "pool" => pool).set(f64::from(most));
}

/// When a scheduled job last succeeded, in seconds since 1970 (0: never), and
/// whether its newest run failed.
pub fn scheduled_job(task: &'static str, succeeded_at_secs: i64, failing: bool) {
    gauge!(JOB_SUCCESS, "task" => task).set(succeeded_at_secs as f64);
    gauge!(JOB_FAILING, "task" => task).set(f64::from(u8::from(failing)));
}
