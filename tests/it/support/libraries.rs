//! Other people's libraries, each behind a script that takes the same requests
//! in every language. `scripts/setup-foreign` installs them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

pub const LANGUAGES: [&str; 2] = ["node", "python"];

/// What the script says in `language`, or how it failed.
pub fn ask(language: &str, script: &str, request: &Value) -> Result<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let foreign = root.join("tests/foreign").join(language);
    let python: PathBuf = root.join("target/foreign-python/bin/python");
    let (program, ending, installed) = match language {
        "node" => (PathBuf::from("node"), "js", foreign.join("node_modules")),
        _ => (python.clone(), "py", python),
    };
    assert!(
        installed.exists(),
        "the libraries for {language} are missing: run scripts/setup-foreign"
    );
    let mut child = Command::new(program)
        .arg(foreign.join(script).with_extension(ending))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the script starts");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(request.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
