//! Settings that are readable but may still be wrong.

use super::Check;
use crate::config::{self, StripeConfig};
use crate::server::budget::descriptors;
use crate::telemetry::terminal::counted;

/// What only a development setup may do.
pub struct Leniency {
    pub embedded_database: bool,
    pub privileged_role: bool,
}

pub fn check(stripe: &StripeConfig, leniency: &Leniency) -> Vec<Check> {
    vec![secrets(stripe), mode(stripe, leniency), descriptors()]
}

fn secrets(stripe: &StripeConfig) -> Check {
    let name = "secrets";
    let padded = config::padded_secrets();
    if padded.is_empty() {
        let found = stripe.webhook_secrets.as_ref().map_or(0, Vec::len);
        let found = counted(found, "webhook secret");
        return Check::ok(
            name,
            format!("{found} configured; none has surrounding white space"),
        );
    }
    Check::warning(
        name,
        format!(
            "surrounding white space in {}, which is ignored here",
            padded.join(", ")
        ),
        "set them again without it, since other programs may keep it (use `printf %s`, not `echo`)",
    )
}

/// Assumes that `serve` runs on the same host.
fn descriptors() -> Check {
    let name = "file descriptors";
    let wanted = descriptors::wanted();
    let detail = |limit: u64| format!("the hard limit is {limit}; connections need {wanted}");
    match descriptors::hard_limit() {
        None => Check::ok(name, "no limit"),
        Some(limit) if limit >= wanted => Check::ok(name, detail(limit)),
        Some(limit) => Check::warning(
            name,
            detail(limit),
            "raise it where `serve` runs (LimitNOFILE, ulimit -Hn); until then `serve` accepts fewer connections",
        ),
    }
}

/// In live mode, development settings fail.
fn mode(stripe: &StripeConfig, leniency: &Leniency) -> Check {
    let name = "configuration";
    let Some(live) = stripe.key_is_live else {
        return Check::skipped(name, "STRIPE_SECRET_KEY is not set");
    };
    let mode = if live { "live" } else { "test" };
    let publishable = config::publishable_key_is_live();
    if publishable.is_some_and(|other| other != live) {
        return Check::failed(
            name,
            format!("STRIPE_SECRET_KEY is for {mode} mode, STRIPE_PUBLISHABLE_KEY is not"),
            "copy both keys from the same mode of Stripe's dashboard",
        );
    }
    if live && leniency.embedded_database {
        return Check::warning(
            name,
            "live mode on the embedded database",
            "set DATABASE_URL: the embedded cluster has no replica and shares this host's disk",
        );
    }
    if live && leniency.privileged_role {
        return Check::failed(
            name,
            "live mode with ALLOW_PRIVILEGED_DATABASE_ROLE: row-level security may not apply",
            "unset it, and name the service's own login in DATABASE_URL (docs/database.md, Roles)",
        );
    }
    Check::ok(name, format!("complete, for {mode} mode"))
}
