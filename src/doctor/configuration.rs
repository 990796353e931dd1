//! The settings, as far as they can be wrong and still be read.

use super::Check;
use crate::config::{self, StripeConfig};
use crate::server::budget::descriptors;
use crate::telemetry::terminal::counted;

/// What only development allows.
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
            format!("{found} configured; none has white space around it"),
        );
    }
    Check::warning(
        name,
        format!(
            "white space around {}, which is dropped here",
            padded.join(", ")
        ),
        "set them again without it: other programs that read them may keep it (`printf %s`, not `echo`)",
    )
}

/// Where this runs, `serve` does, too, in most cases.
fn descriptors() -> Check {
    let name = "file descriptors";
    let wanted = descriptors::wanted();
    let detail = |limit: u64| format!("the hard limit is {limit}; connections want {wanted}");
    match descriptors::hard_limit() {
        None => Check::ok(name, "there is no limit"),
        Some(limit) if limit >= wanted => Check::ok(name, detail(limit)),
        Some(limit) => Check::warning(
            name,
            detail(limit),
            "raise it where `serve` runs (LimitNOFILE, ulimit -Hn): it takes fewer connections until then",
        ),
    }
}

/// Live mode allows nothing that belongs to development.
fn mode(stripe: &StripeConfig, leniency: &Leniency) -> Check {
    let name = "configuration";
    let Some(live) = stripe.key_is_live else {
        return Check::skipped(name, "no mode without STRIPE_SECRET_KEY");
    };
    let mode = if live { "live" } else { "test" };
    let publishable = config::publishable_key_is_live();
    if publishable.is_some_and(|other| other != live) {
        return Check::failed(
            name,
            format!("STRIPE_SECRET_KEY is of {mode} mode, STRIPE_PUBLISHABLE_KEY is not"),
            "copy both keys from the same mode of Stripe's dashboard",
        );
    }
    if live && leniency.embedded_database {
        return Check::warning(
            name,
            "live mode on the embedded database",
            "set DATABASE_URL: the embedded cluster has no replica, and shares this host's disk",
        );
    }
    if live && leniency.privileged_role {
        return Check::failed(
            name,
            "live mode with ALLOW_PRIVILEGED_DATABASE_ROLE: row-level security may bind nobody",
            "unset it, and let DATABASE_URL name the service's own login (docs/database.md, Roles)",
        );
    }
    Check::ok(name, format!("complete, for {mode} mode"))
}
