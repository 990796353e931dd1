//! What came of each attack, as a table and as verdicts.

use std::fmt::Write as _;

use super::beside::{Seen, Series};
use super::cage::LIMIT_MIB;
use super::sizes::Sizes;

/// How much slower the slowest hundredth may be than when it is quiet.
const DELIVERIES_TIMES: u128 = 5;
const CHECKS_TIMES: u128 = 10;
/// How much memory may be left of an attack.
const LEFT_MIB: u64 = 20;

/// One attack.
pub struct Row {
    pub name: &'static str,
    pub promise: &'static str,
    pub seen: Seen,
    pub hits: usize,
    pub peak_mib: Option<u64>,
    pub after_mib: Option<u64>,
    pub log_kib: usize,
    /// What failed besides: the program ended, totals are wrong, a part is out.
    pub faults: Vec<String>,
}

pub struct Table {
    pub group: String,
    pub setting: String,
    pub start_mib: u64,
    pub quiet: Seen,
    pub rows: Vec<Row>,
}

impl Table {
    /// Each bar that an attack missed.
    fn missed(&self, row: &Row, sizes: &Sizes) -> Vec<String> {
        let mut missed = row.faults.clone();
        if row.hits == 0 {
            missed.push("nothing was attacked".to_owned());
        }
        for (what, series) in [
            ("delivery", &row.seen.deliveries),
            ("check", &row.seen.checks),
            ("read", &row.seen.reads),
        ] {
            if let Some(first) = series.failures.first() {
                let (failed, sent) = (series.failures.len(), series.sent());
                missed.push(format!("{what}: {failed} of {sent} failed ({first})"));
            }
        }
        if let Some(peak) = row.peak_mib.filter(|peak| *peak > LIMIT_MIB) {
            missed.push(format!("took {peak} MiB"));
        }
        if sizes.holds_all {
            missed.extend(self.slow(row));
            if let Some(after) = row.after_mib
                && after > self.start_mib + LEFT_MIB
            {
                missed.push(format!("{after} MiB are left of {} MiB", self.start_mib));
            }
        }
        missed
    }

    fn slow(&self, row: &Row) -> Vec<String> {
        let bars = [
            (
                "deliveries",
                &row.seen.deliveries,
                &self.quiet.deliveries,
                DELIVERIES_TIMES,
            ),
            ("checks", &row.seen.checks, &self.quiet.checks, CHECKS_TIMES),
            ("reads", &row.seen.reads, &self.quiet.reads, CHECKS_TIMES),
        ];
        let mut slow = Vec::new();
        for (what, series, quiet, times) in bars {
            let (Some(now), Some(then)) = (series.micros(99), quiet.micros(99)) else {
                continue;
            };
            if now > then * times {
                slow.push(format!(
                    "{what}: p99 {} ms, over {times} x {} ms",
                    millis(now),
                    millis(then)
                ));
            }
        }
        slow
    }

    /// The table, and whether a bar was missed.
    pub fn print(&self, sizes: &Sizes) -> (String, Vec<String>) {
        let mut text = format!(
            "\n{}: {}\n{} connections, {} ms each; p50/p99 in ms from when each was due\n\n",
            self.group,
            self.setting,
            sizes.connections,
            sizes.lasts.as_millis()
        );
        let mut all_missed = Vec::new();
        let width = self.rows.iter().map(|row| row.name.len()).max();
        let width = width.unwrap_or_default().max(6);
        let mut line = |cells: [&str; 10]| {
            let [
                name,
                checks,
                asked,
                reads,
                read,
                deliveries,
                sent,
                peak,
                after,
                rest,
            ] = cells;
            let _ = writeln!(
                text,
                "{name:width$} | {checks:>15} | {asked:>9} | {reads:>15} | {read:>9} | {deliveries:>15} | {sent:>9} | {peak:>4} | {after:>5} | {rest}"
            );
        };
        line([
            "attack",
            "checks",
            "answered",
            "reads",
            "answered",
            "deliveries",
            "ack/sent",
            "peak",
            "after",
            "hits, log KiB, verdict",
        ]);
        line([
            "quiet",
            &times(&self.quiet.checks),
            &counts(&self.quiet.checks),
            &times(&self.quiet.reads),
            &counts(&self.quiet.reads),
            &times(&self.quiet.deliveries),
            &counts(&self.quiet.deliveries),
            "",
            &self.start_mib.to_string(),
            "",
        ]);
        for row in &self.rows {
            let missed = self.missed(row, sizes);
            let verdict = if missed.is_empty() {
                "ok".to_owned()
            } else {
                missed.join("; ")
            };
            let mib = |mib: Option<u64>| mib.map_or("-".to_owned(), |mib| mib.to_string());
            line([
                row.name,
                &times(&row.seen.checks),
                &counts(&row.seen.checks),
                &times(&row.seen.reads),
                &counts(&row.seen.reads),
                &times(&row.seen.deliveries),
                &counts(&row.seen.deliveries),
                &mib(row.peak_mib),
                &mib(row.after_mib),
                &format!("{}, {}, {verdict}", row.hits, row.log_kib),
            ]);
            all_missed.extend(
                missed
                    .iter()
                    .map(|what| format!("{} ({}): {what}", row.name, row.promise)),
            );
        }
        (text, all_missed)
    }
}

fn counts(series: &Series) -> String {
    format!("{}/{}", series.took.len(), series.sent())
}

fn times(series: &Series) -> String {
    if series.sent() == 0 {
        return "-".to_owned();
    }
    let percentile = |percent| {
        let micros = series.micros(percent);
        micros.map_or("never".to_owned(), millis)
    };
    format!("{} / {}", percentile(50), percentile(99))
}

/// Milliseconds with one digit after the point.
fn millis(micros: u128) -> String {
    format!("{}.{}", micros / 1_000, micros % 1_000 / 100)
}

#[test]
fn percentiles_know_of_failures() {
    let millis = std::time::Duration::from_millis;
    let mut series = Series {
        took: (1..=100).rev().map(millis).collect(),
        failures: Vec::new(),
    };
    assert_eq!(series.micros(50), Some(50_000));
    assert_eq!(series.micros(99), Some(99_000));
    series.failures = vec!["503".to_owned(); 2];
    assert_eq!(series.micros(99), None);
    assert_eq!(times(&series), "51.0 / never");
}
