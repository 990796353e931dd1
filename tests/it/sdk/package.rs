//! The package as it is published, built once for each state of its sources.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::support::libraries;
use crate::support::program::{program, run};

/// What it is built from, and tested with.
const PARTS: [&str; 7] = [
    "src",
    "test",
    "scripts",
    "README.md",
    "package.json",
    "tsconfig.json",
    "tsconfig.node.json",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `path`, by name.
fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
        return;
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        files(&entry, found);
    }
}

/// Runs a command to its end, which is expected to be a good one.
pub async fn succeed(command: &mut Command) -> String {
    let output = command.output().await.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}{complaints}");
    said
}

/// The service's description, as its command prints it.
pub fn description() -> String {
    let printed = run(&mut program(&["openapi"]));
    assert_eq!(printed.status, 0, "{}", printed.stderr);
    printed.stdout
}

/// The folder of the package, with `dist`. The first test of a run builds it.
pub async fn built() -> PathBuf {
    let source = root().join("sdk/typescript");
    let modules = source.join("node_modules");
    assert!(
        modules.exists(),
        "{} is missing: run scripts/setup-foreign",
        modules.display()
    );
    let description = description();
    let mut sources = Vec::new();
    for part in PARTS {
        files(&source.join(part), &mut sources);
    }
    // Of a build in the source folder, which this one is not.
    sources.retain(|file| !file.ends_with("src/openapi.ts"));
    let mut digest = Sha256::new();
    digest.update(&description);
    for file in &sources {
        digest.update(file.to_str().unwrap());
        digest.update(fs::read(file).unwrap());
    }
    let all = root().join("target/sdk");
    fs::create_dir_all(&all).unwrap();
    let folder = all.join(hex::encode(&digest.finalize()[..8]));
    let lock = File::create(all.join("lock")).unwrap();
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock));
    let _lock = lock.await.unwrap().unwrap();
    if folder.join("built").exists() {
        return folder;
    }
    for old in fs::read_dir(&all).unwrap() {
        let old = old.unwrap().path();
        if old.is_dir() {
            fs::remove_dir_all(old).unwrap();
        }
    }
    for file in &sources {
        let to = folder.join(file.strip_prefix(&source).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
    std::os::unix::fs::symlink(modules, folder.join("node_modules")).unwrap();
    fs::write(folder.join("openapi.json"), description).unwrap();
    let mut build = Command::new("node");
    build.current_dir(&folder).arg("scripts/build.js");
    succeed(build.args(["--openapi", "openapi.json"])).await;
    File::create(folder.join("built")).unwrap();
    folder
}

/// What a script of tests/foreign/node says that uses the package.
pub async fn asked(script: &'static str, mut request: Value) -> Value {
    request["package"] = json!(built().await);
    let asked = tokio::task::spawn_blocking(move || libraries::ask("node", script, &request));
    let said = asked
        .await
        .unwrap()
        .unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}
