//! One bash that an operator types into, line by line.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// Stands before the exit status of a line.
const MARK: char = '\u{1e}';

/// A shell, ended with the test, and what it started in the background too.
pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// What a line printed on both streams, and its exit status.
#[derive(Debug)]
pub struct Said {
    pub status: i32,
    pub text: String,
}

/// Where the program is.
pub fn program_folder() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_valuecanvas-billing"));
    program.parent().unwrap().to_owned()
}

impl Shell {
    /// With the program on its PATH, in `folder`, and nothing of ours in its
    /// environment.
    pub fn start(folder: &Path) -> Self {
        let path = format!(
            "{}:{}",
            program_folder().display(),
            std::env::var("PATH").unwrap()
        );
        let mut child = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .env_clear()
            .env("PATH", path)
            .env("HOME", folder)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash is installed");
        let stdin = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut shell = Self {
            child,
            stdin,
            output,
        };
        shell.done("exec 2>&1");
        shell
    }

    pub fn run(&mut self, line: &str) -> Said {
        // The next commands are not the line's to read.
        let typed = format!("{{ {line}\n}} </dev/null\nprintf '\\n{MARK}%s\\n' \"$?\"\n");
        self.stdin.write_all(typed.as_bytes()).unwrap();
        self.stdin.flush().unwrap();
        let mut text = String::new();
        loop {
            let printed = self.output.next();
            let printed = printed.unwrap_or_else(|| panic!("bash ended at {line}: {text}"));
            let printed = printed.unwrap();
            if let Some(status) = printed.strip_prefix(MARK) {
                let status = status.parse().unwrap();
                return Said { status, text };
            }
            text += &printed;
            text.push('\n');
        }
    }

    /// Runs a line that must succeed, and returns what it printed.
    pub fn done(&mut self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.status, 0, "{line}: {}", said.text);
        said.text
    }

    /// Starts the service in the background, and waits until it listens.
    pub fn serve(&mut self) {
        self.done("valuecanvas-billing serve >serve.log 2>&1 &");
        self.done(
            "for n in $(seq 400); do grep -q Listening serve.log && break; sleep 0.05; done; \
             grep -q Listening serve.log || { cat serve.log; false; }",
        );
    }

    /// Stops it again.
    pub fn stop_serving(&mut self) {
        self.done("kill %1; wait %1");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
