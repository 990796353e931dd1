//! What ARCHITECTURE.md promises of the code itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

pub fn sources(below: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.join(below)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "there are sources below {below}");
    found.sort();
    found
}

fn offenders(below: &str, offends: impl Fn(&str, &str) -> bool) -> Vec<String> {
    sources(below)
        .into_iter()
        .filter(|(name, text)| offends(name, text))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn sql_is_in_the_stores() {
    // Besides the features: the schema, the cluster, connections, and what the
    // jobs keep of themselves.
    let elsewhere = [
        "src/app/",
        "src/cli/audit.rs",
        "src/db",
        "src/maintenance/runs.rs",
        "src/migrations/",
    ];
    let strays = offenders("src", |name, text| {
        text.contains("sqlx::query")
            && !name.contains("/store")
            && !elsewhere.iter().any(|allowed| name.starts_with(allowed))
    });
    assert_eq!(strays, Vec::<String>::new());
}

/// A route outside of the table would have no checks.
#[test]
fn routes_are_served_by_the_table_alone() {
    let strays = offenders("src", |name, text| {
        !name.starts_with("src/server/") && text.contains("Router")
    });
    assert_eq!(strays, Vec::<String>::new());
}

#[test]
fn the_server_depends_on_no_feature() {
    let below = ["config", "db", "limits", "server", "telemetry"];
    let strays = offenders("src/server", |_, text| {
        let mut used = text.split("crate::").skip(1);
        used.any(|rest| !below.iter().any(|room| rest.starts_with(room)))
    });
    assert_eq!(strays, Vec::<String>::new());
}

#[test]
fn the_domain_uses_nothing_of_the_outside_world() {
    let outside = [
        "tokio",
        "sqlx",
        "rand::",
        "std::env",
        "std::fs",
        "std::net",
        "SystemTime",
        "Timestamp::now",
        "Instant",
    ];
    let strays = offenders("crates/billing-domain/src", |_, text| {
        outside.iter().any(|name| text.contains(name))
    });
    assert_eq!(strays, Vec::<String>::new());
}

/// The rooms of this crate that the sources below a folder use.
fn rooms_used(below: &str) -> BTreeSet<String> {
    let texts = sources(below);
    let paths = texts
        .iter()
        .flat_map(|(_, text)| text.split("crate::").skip(1));
    let names = paths.map(|path| {
        path.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
    });
    names.flatten().map(str::to_owned).collect()
}

/// The room that a path below `src/` or `crate::` is in: a folder of src, or one of tenancy's,
/// which are rooms of their own.
fn room(path: &str) -> Option<String> {
    let mut names = path.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut names = names.by_ref().filter(|name| !name.is_empty());
    let first = names.next()?;
    let room = match (first, names.next()) {
        ("tenancy", Some(second)) => format!("{first}/{second}"),
        _ => first.to_owned(),
    };
    Some(room)
}

#[test]
fn no_rooms_depend_on_each_other_in_a_circle() {
    let mut left: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in sources("src") {
        let Some(own) = room(name.trim_start_matches("src/")) else {
            continue;
        };
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let used = code.split("crate::").skip(1).filter_map(room);
        let others = used.filter(|used| *used != own);
        left.entry(own.clone()).or_default().extend(others);
    }
    assert!(left.contains_key("tenancy/auth"), "{left:?}");
    // Those that use nothing that is left are in no circle.
    loop {
        let rooms: BTreeSet<String> = left.keys().cloned().collect();
        let before = left.len();
        left.retain(|_, used| used.iter().any(|used| rooms.contains(used)));
        if left.len() == before {
            break;
        }
    }
    assert_eq!(left, BTreeMap::new());
}

#[test]
fn settings_and_telemetry_know_nothing_above_them() {
    assert_eq!(rooms_used("src/telemetry"), BTreeSet::new());
    // The format of logs is telemetry's own type.
    let of_config = BTreeSet::from(["telemetry".to_owned()]);
    assert_eq!(rooms_used("src/config"), of_config);
}

#[test]
fn files_can_be_read_in_one_go() {
    for below in [
        "src",
        "tests/it",
        "crates/billing-domain",
        "crates/embedded-postgres",
        "crates/plan-enforcement",
        "crates/stripe-sandbox/src",
        "crates/stripe-sandbox/tests/it",
        "examples/rust",
    ] {
        let long = offenders(below, |_, text| text.lines().count() > 500);
        assert_eq!(long, Vec::<String>::new());
    }
}

/// `webhooks` has the projection apply events, and both read the event log:
/// nothing points back.
#[test]
fn the_projection_depends_on_the_event_log_and_never_the_reverse() {
    let may_not_use = [
        ("src/event_log/", &["projection", "webhooks"][..]),
        ("src/projection/", &["webhooks"]),
        ("src/webhooks/store/", &["projection"]),
        ("src/webhooks/intake.rs", &["projection"]),
    ];
    let strays = offenders("src", |name, text| {
        may_not_use.iter().any(|(below, rooms)| {
            name.starts_with(below)
                && rooms
                    .iter()
                    .any(|room| text.contains(&format!("crate::{room}")))
        })
    });
    assert_eq!(strays, Vec::<String>::new());
}
