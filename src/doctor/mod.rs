//! `doctor`: the checks before and after a deployment, each with a verdict and
//! what to do about it.

mod configuration;
mod database;
mod deliveries;
mod disk;
mod jobs;
mod service;
mod stripe;
mod subscriptions;
mod usage;

use serde::Serialize;

pub use configuration::{Leniency, check as check_configuration};
pub use database::check as check_database;
pub use disk::check as check_disk;
pub use jobs::check as check_jobs;
pub use service::{Service, check as check_service};
pub use stripe::check as check_stripe;
pub use subscriptions::check as check_subscriptions;
pub use usage::check as check_usage;

/// How far clocks may be apart. Beyond it signatures begin to fail.
const SKEW_SECS: u64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, and somebody should look.
    Warning,
    Failed,
    /// What it needs is not configured, or failed before.
    Skipped,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do, where something is to be done.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail, None)
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warning, detail, Some(fix.into()))
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Verdict::Failed, detail, Some(fix.into()))
    }

    fn skipped(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, detail, None)
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            fix,
        }
    }
}

/// What could not be asked because the login is refused is not wrong itself.
pub fn skip_without_login(checks: &mut [Check]) {
    let is_refused = |check: &Check| {
        let fix = check.fix.as_deref().unwrap_or_default();
        check.name == "login" && fix.starts_with("the server refuses the login")
    };
    if !checks.iter().any(is_refused) {
        return;
    }
    for check in checks {
        let blames_schema = check
            .fix
            .as_ref()
            .is_some_and(|fix| fix.contains("migrate verify"));
        if check.verdict == Verdict::Failed && blames_schema {
            *check = Check::skipped(check.name, "the login is refused");
        }
    }
}
