//! Reading Prometheus' text format, for jobs that push their metrics.

use std::collections::{BTreeMap, BTreeSet};

/// The counters in a rendered text, by name and labels: a short-lived job adds
/// them to its running totals.
pub fn counters(text: &str) -> BTreeMap<String, u64> {
    let names = of_type(text, "counter");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| names.contains(name_of(series)))
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?)))
        .collect()
}

/// The names of the gauges in a rendered text.
pub fn gauges(text: &str) -> BTreeSet<&str> {
    of_type(text, "gauge")
}

/// A series' name, without its labels.
pub fn name_of(series: &str) -> &str {
    series.split('{').next().unwrap_or(series)
}

/// By the `# TYPE` lines; the name does not say the type:
/// `grace_periods_active_total` is a gauge.
fn of_type<'a>(text: &'a str, wanted: &str) -> BTreeSet<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, kind)| *kind == wanted)
        .map(|(name, _)| name)
        .collect()
}
