//! `features`, as an operator types it.

use serde_json::json;

use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on, run};

fn features(db: &TestDatabase, line: &str, more: &[&str]) -> Ran {
    let words: Vec<&str> = std::iter::once("features")
        .chain(line.split_whitespace())
        .chain(more.iter().copied())
        .collect();
    run(&mut program_on(db, &words))
}

#[tokio::test]
async fn features_are_listed_set_and_unset() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    let of = format!("--organization {organization}");
    let listed = features(&db, &format!("list {of} --json"), &[]);
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    let rows = listed.json();
    assert_eq!(
        rows[1],
        json!({
            "feature": "sso", "name": "Single sign-on", "kind": "flag", "value": false,
            "source": "off", "planValue": false, "override": null,
        })
    );
    let set = format!("set {of} --feature sso --value true --expires-at 2099-01-31T12:00:00Z");
    let set = features(&db, &set, &["--reason", "promised by sales", "--json"]);
    assert_eq!(set.status, 0, "{}", set.stderr);
    let row = set.json();
    assert_eq!(
        (&row["value"], &row["source"]),
        (&json!(true), &json!("override"))
    );
    assert_eq!(row["override"]["reason"], "promised by sales");
    assert_eq!(row["override"]["expiresAt"], "2099-01-31T12:00:00Z");
    let shown = features(&db, &format!("list {of}"), &[]).stdout;
    let line = shown.lines().find(|line| line.starts_with("sso")).unwrap();
    let words: Vec<&str> = line
        .split("  ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(
        words,
        [
            "sso",
            "Single sign-on",
            "true",
            "override",
            "2099-01-31T12:00:00Z",
            "promised by sales"
        ]
    );
    let unset = features(&db, &format!("unset {of} --feature sso --json"), &[]);
    assert_eq!(unset.status, 0, "{}", unset.stderr);
    assert_eq!(unset.json()["source"], "off");
    let nothing = features(&db, &format!("unset {of} --feature sso"), &[]);
    assert_eq!(nothing.status, 1);
    assert!(
        nothing.stderr.contains("has no override"),
        "{}",
        nothing.stderr
    );
    // Who it was stands beside the override, and in the log.
    let login = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    let login = String::from_utf8(login.stdout).unwrap();
    assert_eq!(row["override"]["setBy"], login.trim());
    let log = run(&mut program_on(
        &db,
        &["audit", "list", "--json", "--action", "feature_set"],
    ));
    assert_eq!(
        log.json()[0]["metadata"]["initiator"]["command"],
        "features set"
    );
    let log = run(&mut program_on(
        &db,
        &["audit", "list", "--json", "--action", "feature_unset"],
    ));
    assert_eq!(log.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn mistakes_name_the_option_and_what_is_right() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    let set = format!("set --organization {organization} --reason x");
    for (line, status, said) in [
        (
            format!("{set} --feature seats --value 1"),
            2,
            "--feature: \"seats\" is not among the catalogue's [features], which has projects, sso, support",
        ),
        (
            format!("{set} --feature sso --value 1"),
            2,
            "--value: \"sso\" is a flag; write true or false",
        ),
        (
            format!("{set} --feature projects --value -5"),
            2,
            "--value: \"projects\" is a number",
        ),
        (
            format!("{set} --feature sso --value true --expires-at 2020-01-01T00:00:00Z"),
            2,
            "--expires-at: 2020-01-01T00:00:00Z is not in the future",
        ),
        (
            format!("{set} --feature sso --value true --expires-at tomorrow"),
            2,
            "RFC 3339",
        ),
        (
            format!("set --organization {organization} --feature sso --value true"),
            2,
            "--reason",
        ),
        (
            format!("set --organization {organization} --feature sso --value true --reason="),
            2,
            "--reason",
        ),
        (
            "list --organization 00000000-0000-0000-0000-000000000001".to_owned(),
            1,
            "`organizations list`",
        ),
    ] {
        let ran = features(&db, &line, &[]);
        assert_eq!(ran.status, status, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{line}: {}", ran.stderr);
    }
    assert_eq!(db.count("feature_overrides").await, 0);
}

#[tokio::test]
async fn the_plans_file_decides_which_features_there_are() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    let text = std::fs::read_to_string("config/plans.toml").unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text.replacen("sso = true", "sso = 1", 1)).unwrap();
    let list = ["features", "list", "--organization", &organization];
    let ran = run(program_on(&db, &list).env("PLANS_FILE", file.path()));
    assert_eq!(ran.status, 2);
    let line = std::fs::read_to_string(file.path()).unwrap();
    let line = 1 + line.lines().position(|line| line == "sso = 1").unwrap();
    let at = format!(
        "line {line}: the features of \"enterprise\": \"sso\" is a flag; write true or false"
    );
    assert!(ran.stderr.contains(&at), "{}", ran.stderr);
}
