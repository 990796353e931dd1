//! deploy/crontab, run by Debian's cron and by the shell that it names, with
//! the environment that cron gives.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::stripe::Stripe;
use crate::support::TestDatabase;

const CRONTAB: &str = include_str!("../../../deploy/crontab");
/// As Debian's cron begins, before it reads a crontab's own variables.
const PATH_OF_CRON: &str = "/usr/bin:/bin";

/// A machine on which the deployment guide was followed, in a folder.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(db: &TestDatabase, stripe: &Stripe) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let machine = Self { folder };
        for name in ["etc", "backups", "bin"] {
            fs::create_dir(machine.path(name)).unwrap();
        }
        let settings = format!(
            "DATABASE_URL='{}'\nSTRIPE_SECRET_KEY='sk_test_cron'\nSTRIPE_WEBHOOK_SECRET='whsec_cron'\n\
             STRIPE_API_BASE='{}'\n",
            db.url("billing_service"),
            stripe.sandbox.url()
        );
        fs::write(machine.path("etc/environment"), settings).unwrap();
        let owner = format!("MIGRATION_DATABASE_URL='{}'\n", db.url("postgres"));
        fs::write(machine.path("etc/owner-environment"), owner).unwrap();
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_valuecanvas-billing"),
            machine.path("bin/valuecanvas-billing"),
        )
        .unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The crontab with this machine's folders in it.
    fn crontab(&self) -> String {
        let folder = |name: &str| self.path(name).display().to_string();
        CRONTAB
            .replace("/etc/valuecanvas-billing/", &format!("{}/", folder("etc")))
            .replace("/var/backups/valuecanvas-billing", &folder("backups"))
    }

    /// Its lines' commands, and the variables that it sets.
    fn entries(&self) -> (Vec<String>, Vec<(String, String)>) {
        let (mut commands, mut variables) = (Vec::new(), Vec::new());
        for line in self.crontab().lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(" valuecanvas-billing ") {
                Some((_, command)) => commands.push(command.to_owned()),
                None => {
                    let (name, value) = line.split_once('=').unwrap();
                    variables.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        (commands, variables)
    }

    /// Runs a command as cron does. `program`: where it is installed.
    fn run(&self, command: &str, program: &Path) -> Output {
        let (_, variables) = self.entries();
        let value = |name: &str| {
            let found = variables.iter().find(|(variable, _)| variable == name);
            found.map(|(_, value)| value.clone())
        };
        let path = value("PATH").unwrap_or_else(|| PATH_OF_CRON.to_owned());
        // Where this machine's /usr/local/bin is.
        let path = path.replace("/usr/local/bin", &program.display().to_string());
        Command::new(value("SHELL").unwrap_or_else(|| "/bin/sh".to_owned()))
            .args(["-c", command])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }
}

async fn succeeded(db: &TestDatabase) -> i64 {
    db.count(
        "(SELECT DISTINCT job FROM billing_job_runs WHERE succeeded
           AND job IN ('webhook-retry', 'usage-report', 'grace-period-cleanup', 'reconciliation',
                       'audit-verification', 'backup')) jobs",
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_runs_with_the_environment_of_cron_and_its_failure_is_one() {
    let (db, stripe) = (TestDatabase::new().await, Stripe::start().await);
    let machine = Machine::new(&db, &stripe);
    let (commands, variables) = machine.entries();
    assert_eq!(commands.len(), 6);
    // Debian's cron takes it for a variable of the jobs.
    assert!(variables.iter().all(|(name, _)| name != "CRON_TZ"));
    for command in &commands {
        let ran = machine.run(command, &machine.path("bin"));
        assert!(ran.status.success(), "{command}: {ran:?}");
        let absent = machine.run(command, &machine.path("nowhere"));
        assert_eq!(absent.status.code(), Some(127), "{command}: {absent:?}");
    }
    assert_eq!(succeeded(&db).await, 6);
    let written = || fs::read_dir(machine.path("backups")).unwrap().count();
    assert_eq!(written(), 2, "the backup and its manifest");

    // Another one on the same day; an old one goes when a new one is there, and not before.
    let old = machine.path("backups/2020-01-01.dump");
    fs::write(&old, "old").unwrap();
    let aged = Command::new("touch")
        .args(["-d", "2020-01-01"])
        .arg(&old)
        .status();
    assert!(aged.unwrap().success());
    let backup = commands.last().unwrap();
    assert!(
        !machine
            .run(backup, &machine.path("nowhere"))
            .status
            .success()
    );
    assert!(old.exists());
    assert!(machine.run(backup, &machine.path("bin")).status.success());
    assert!(!old.exists());
    assert_eq!(written(), 4);

    for missing in ["environment", "owner-environment"] {
        fs::remove_file(machine.path("etc").join(missing)).unwrap();
    }
    for command in &commands {
        let ran = machine.run(command, &machine.path("bin"));
        assert!(!ran.status.success(), "{command}");
    }
}

/// The daemon itself, in a namespace whose /etc/cron.d and /usr/local/bin are
/// its own. Only root may make one; the commands are run above for all others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debians_cron_runs_every_job() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let (db, stripe) = (TestDatabase::new().await, Stripe::start().await);
    let machine = Machine::new(&db, &stripe);
    fs::set_permissions(machine.folder.path(), Permissions::from_mode(0o755)).unwrap();
    // At once, and by a user who is there.
    let crontab: Vec<String> = machine
        .crontab()
        .lines()
        .map(|line| match line.split_once(" valuecanvas-billing ") {
            Some((schedule, command)) if !line.starts_with('#') => {
                assert_eq!(schedule.split(' ').count(), 5, "{line}");
                format!("@reboot root {command}")
            }
            _ => line.to_owned(),
        })
        .collect();
    fs::write(machine.path("crontab"), crontab.join("\n") + "\n").unwrap();
    let script = "
        mount -t tmpfs tmpfs /etc/cron.d && mount -t tmpfs tmpfs /usr/local/bin && mount -t tmpfs tmpfs /run
        cp -L \"$0/bin/valuecanvas-billing\" /usr/local/bin/
        install -m 644 \"$0/crontab\" /etc/cron.d/valuecanvas-billing
        exec cron -f -L 15";
    let mut daemon = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-ec",
            script,
        ])
        .arg(machine.folder.path())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .spawn()
        .unwrap();
    for _ in 0..600 {
        if succeeded(&db).await == 6 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let done = succeeded(&db).await;
    let _ = daemon.kill();
    let _ = daemon.wait();
    assert_eq!(done, 6);
}
