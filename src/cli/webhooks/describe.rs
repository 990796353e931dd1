//! Text output of the `webhooks` commands.

use uuid::Uuid;

use super::super::output::{printable, table};
use super::Report;
use crate::webhooks::dead_letters::rehearsal::Difference;
use crate::webhooks::dead_letters::replay::Replayed;
use crate::webhooks::inspect::{DeadLetter, Details, Listed};

pub fn describe_report(report: &Report) -> String {
    let verb = if report.dry_run {
        "would be replayed"
    } else {
        "replayed"
    };
    let mut lines: Vec<String> = report
        .events
        .iter()
        .map(|event| {
            let what = match &event.result {
                Replayed::Succeeded { outcome } => format!("{verb} ({})", described(outcome)),
                Replayed::Failed { error } => format!("FAILED {error}"),
                Replayed::InFlight => "FAILED a worker is processing it; try again".to_owned(),
                Replayed::PayloadRemoved { removed_at } => format!(
                    "FAILED its payload was removed at {removed_at} (RETENTION_WEBHOOK_PAYLOAD_DAYS): \
                     `subscriptions reconcile` compares with what Stripe has now"
                ),
                Replayed::Unknown => "FAILED no such event".to_owned(),
            };
            let line = printable(&format!("{} {what}", event.event_id));
            let differences = event.difference.as_ref().map(differences);
            [vec![line], differences.unwrap_or_default()].concat().join("\n")
        })
        .collect();
    lines.push(format!(
        "{} {verb}, {} failed",
        report.replayed, report.failed
    ));
    lines.join("\n")
}

/// What a replay would change, a line for each column and entry.
fn differences(difference: &Difference) -> Vec<String> {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
    let mut lines = Vec::new();
    for row in &difference.changes {
        lines.push(format!(
            "  {} {} {}",
            row.table,
            row.row,
            row.change.as_str()
        ));
        lines.extend(row.columns.iter().map(|column| {
            let (before, after) = (value(&column.before), value(&column.after));
            format!("    {}: {before} -> {after}", column.column)
        }));
    }
    lines.extend(difference.entries.iter().map(|entry| {
        let about = [&entry.resource_type, &entry.resource_id];
        let about: Vec<&str> = about.into_iter().flatten().map(String::as_str).collect();
        format!("  audit entry {} {}", entry.action, about.join(" "))
    }));
    lines.iter().map(|line| printable(line)).collect()
}

pub fn describe_events(events: &[Listed]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let state = match (&event.outcome, event.next_retry_at) {
                (Some(outcome), _) => described(outcome).to_owned(),
                (None, Some(at)) if event.retry_count == 0 => format!("set aside until {at}"),
                (None, Some(at)) => format!("retry {} at {at}", event.retry_count),
                (None, None) => "waiting".to_owned(),
            };
            vec![
                event.received_at.to_string(),
                event.event_id.clone(),
                event.event_type.clone(),
                organization(event.organization_id),
                state,
                event.error_message.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let headings = [
        "RECEIVED",
        "EVENT",
        "TYPE",
        "ORGANIZATION",
        "STATE",
        "ERROR",
    ];
    table(&headings, &rows)
}

fn organization(id: Option<Uuid>) -> String {
    id.map_or_else(|| "-".to_owned(), |id| id.to_string())
}

/// An outcome for people: a superseded event is not lost.
fn described(outcome: &str) -> &str {
    match outcome {
        "superseded" => "superseded: a newer state, or our own change, was applied before it",
        outcome => outcome,
    }
}

pub fn describe_dead_letters(letters: &[DeadLetter]) -> String {
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            vec![
                letter.dead_lettered_at.to_string(),
                letter.event_id.clone(),
                letter.event_type.clone(),
                organization(letter.organization_id),
                letter.retry_count.to_string(),
                letter.error_message.clone(),
            ]
        })
        .collect();
    let headings = [
        "DEAD SINCE",
        "EVENT",
        "TYPE",
        "ORGANIZATION",
        "RETRIES",
        "REASON",
    ];
    table(&headings, &rows)
}

pub fn describe_details(details: &Details) -> String {
    let line = |name: &str, value: String| format!("{name:<13}{}", printable(&value));
    let mut lines = vec![
        line("event", details.event_id.clone()),
        line("type", details.event_type.clone()),
        line("state", details.state.as_str().to_owned()),
        line("outcome", details.outcome.clone().unwrap_or_default()),
        line(
            "organization",
            details
                .organization_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
        ),
        line("created", details.created_at.to_string()),
        line("received", details.received_at.to_string()),
        line("retries", details.retry_count.to_string()),
    ];
    for attempt in details.attempts.as_array().into_iter().flatten() {
        let said = |name: &str| attempt[name].as_str().unwrap_or_default();
        let attempted = format!("{} {}", said("at"), said("error"));
        lines.push(line("attempt", attempted));
    }
    // As received: reformatting would change numbers.
    lines.push(match (&details.payload, details.payload_removed_at) {
        (Some(payload), _) => payload.get().trim().to_owned(),
        (None, at) => line(
            "payload",
            format!(
                "removed at {} (RETENTION_WEBHOOK_PAYLOAD_DAYS)",
                at.map(|at| at.to_string()).unwrap_or_default()
            ),
        ),
    });
    lines.join("\n")
}
