//! Metrics of the service's background parts.

use std::time::Duration;

use jiff::Timestamp;
use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

const PERIOD: &str = "background_part_period_seconds";
const RUNS: &str = "background_part_runs_total";
const LAST_RUN: &str = "background_part_last_run_timestamp_seconds";
const LAST_ERROR: &str = "background_part_last_error_timestamp_seconds";
const FAILING: &str = "background_part_failing";

pub(super) fn describe() {
    describe_gauge!(
        PERIOD,
        Unit::Seconds,
        "Time between two runs of a background part; 0 if it runs continuously."
    );
    describe_counter!(
        RUNS,
        "Runs of a background part, by result: succeeded or failed."
    );
    describe_gauge!(
        LAST_RUN,
        "Unix time at which a background part last ended a run; 0: never."
    );
    describe_gauge!(
        LAST_ERROR,
        "Unix time at which a background part last failed; 0: never."
    );
    describe_gauge!(
        FAILING,
        "1 if the latest run of a background part failed, else 0."
    );
}

/// A part that runs all the time.
pub fn continuous(part: &str) {
    gauge!(PERIOD, "part" => part.to_owned()).set(0.0);
}

/// The series of a part that runs at intervals.
#[derive(Clone)]
pub struct Runs {
    succeeded: Counter,
    failed: Counter,
    last_run: Gauge,
    last_error: Gauge,
    failing: Gauge,
}

impl Runs {
    /// Starts them at zero.
    pub fn of(part: &str, period: Duration) -> Self {
        let part = || part.to_owned();
        gauge!(PERIOD, "part" => part()).set(period.as_secs_f64());
        let runs = Self {
            succeeded: counter!(RUNS, "part" => part(), "result" => "succeeded"),
            failed: counter!(RUNS, "part" => part(), "result" => "failed"),
            last_run: gauge!(LAST_RUN, "part" => part()),
            last_error: gauge!(LAST_ERROR, "part" => part()),
            failing: gauge!(FAILING, "part" => part()),
        };
        runs.succeeded.absolute(0);
        runs.failed.absolute(0);
        runs.last_run.set(0.0);
        runs.last_error.set(0.0);
        runs.failing.set(0.0);
        runs
    }

    /// A run has ended.
    pub fn ended<T, E>(&self, outcome: &Result<T, E>) {
        let succeeded = outcome.is_ok();
        let now = Timestamp::now().as_second();
        self.last_run.set(now as f64);
        self.failing.set(f64::from(u8::from(!succeeded)));
        if succeeded {
            self.succeeded.increment(1);
        } else {
            self.failed.increment(1);
            self.last_error.set(now as f64);
        }
    }
}
