//! The program that is attacked.

use std::ffi::OsString;
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::cage::Cage;
use crate::support::TestDatabase;
use crate::support::serving::{Serving, serve_on, under};

/// A running `serve` in its cage; `VCB_ATTACK_BINARY` names another program
/// than the one that was built with the tests.
pub struct Target {
    // Ended before its cage is taken away.
    pub serving: Serving,
    pub cage: Cage,
}

impl Target {
    /// `stripe` is where Stripe is, if there is one.
    pub fn start(db: &TestDatabase, plans: &Path, upstream: &str, stripe: Option<&str>) -> Self {
        let cage = Cage::make();
        let mut serve = serve_on(db);
        serve
            .env("PLANS_FILE", plans)
            .env("EVENTS_ALLOW_LOOPBACK", "true")
            .env("APPLICATION_URL", "https://app.example.com")
            .env("APPLICATION_WEBHOOK_URL", format!("{upstream}/alerts"))
            .env(
                "APPLICATION_WEBHOOK_SECRET",
                "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            );
        if let Some(stripe) = stripe {
            serve
                .env("STRIPE_SECRET_KEY", "sk_test_secret")
                .env("STRIPE_API_BASE", stripe);
        }
        let program = binary().unwrap_or_else(|| serve.get_program().to_owned());
        let serving = Serving::start(&mut under(&cage.entry(), &program, &serve));
        cage.close_around(serving.pid());
        Self { serving, cage }
    }

    pub fn rss_mib(&self) -> Option<u64> {
        memory_kib(self.serving.pid(), "VmRSS").map(|kib| kib / 1024)
    }

    /// The most since [`Self::forget_peak`].
    pub fn peak_mib(&self) -> Option<u64> {
        memory_kib(self.serving.pid(), "VmHWM").map(|kib| kib / 1024)
    }

    pub fn forget_peak(&self) {
        let file = format!("/proc/{}/clear_refs", self.serving.pid());
        let _ = std::fs::write(file, "5");
    }
}

pub fn binary() -> Option<OsString> {
    let given = std::env::var_os("VCB_ATTACK_BINARY")?;
    // The program is started in the project's folder, whoever names it where.
    let path = std::fs::canonicalize(&given);
    Some(path.expect("VCB_ATTACK_BINARY is a program").into())
}

/// What `/proc` says of a process in KiB; None once it is gone.
pub fn memory_kib(pid: u32, which: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(which))?;
    line.trim_start_matches(':')
        .trim()
        .strip_suffix(" kB")?
        .parse()
        .ok()
}

/// As many descriptors as the hard limit allows: the attackers are us.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, raised);
}
