//! The schema: applying and undoing migrations, their state, and verifying the result.
//!
//! No data of a feature is read or changed here.

pub mod columns;
mod gate;
mod losses;
mod runner;
pub mod verify;

pub use gate::{Gate, is_undefined};
pub use losses::{Loss, dropped, losses};
pub use runner::{MigrationError, missing, rollback, status, to_undo, up, up_within};

/// A file in `supabase/migrations`, and its inverse in `supabase/rollbacks`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub version: &'static str,
    pub name: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! migrations {
    ($(($version:literal, $name:literal)),* $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            up: include_str!(concat!("../../supabase/migrations/", $version, "_", $name, ".sql")),
            down: include_str!(concat!("../../supabase/rollbacks/", $version, "_", $name, ".sql")),
        }),*]
    };
}

/// All migrations, in order.
pub const MIGRATIONS: &[Migration] = migrations![
    ("20260101090000", "billing_roles"),
    ("20260101090100", "organizations"),
    ("20260101090200", "billing_mirror"),
    ("20260101090300", "webhook_events"),
    ("20260101091000", "billing_audit_log"),
    ("20260101092000", "grace_periods"),
    ("20260101093000", "webhook_retry"),
    ("20260102090000", "access"),
    ("20260102090100", "request_idempotency"),
    ("20260102090110", "service_keys"),
    ("20260102091000", "stripe_requests"),
    ("20260102091100", "subscription_previews"),
    ("20260102091200", "trace_context"),
    ("20260102092000", "usage"),
    ("20260103020000", "webhook_sources"),
    ("20260103030000", "other_stripe_events"),
    ("20260103050000", "usage_periods"),
    ("20260103060000", "organizations_and_recovery"),
    ("20260103070000", "canonical_addresses"),
    ("20260103080000", "bounded_histories"),
    ("20260104010000", "dead_letter_sources"),
    ("20260104090000", "whole_quantities"),
    ("20260107090000", "pending_levels"),
    ("20260109010000", "audit_chains"),
    ("20260109020000", "no_large_objects"),
    ("20260110020000", "audit_running_hash"),
    ("20260110030000", "usage_prices"),
    ("20260112010000", "usage_lateness"),
    ("20260113010000", "retention"),
    ("20260114010000", "catalogue_memory"),
    ("20260114020000", "features"),
    ("20260115010000", "inlined_context"),
    ("20260116010000", "prices_and_seats"),
    ("20260116020000", "pending_changes"),
    ("20260116030000", "discounts"),
    ("20260116040000", "usage_at_changes"),
    ("20260118010000", "untold_items"),
    ("20260118020000", "kept_terms"),
    ("20260119010000", "audit_personal_data"),
    ("20260119020000", "organizations_by_api"),
    ("20260119030000", "request_calls"),
    ("20260119040000", "allowance_periods"),
    ("20260119050000", "catalogue_metrics"),
    ("20260119060000", "unentered_changes"),
    ("20260120010000", "counted_usage"),
    ("20260120020000", "refunds"),
    ("20260120030000", "effective_quotas"),
    ("20260120030100", "idempotency_callers"),
    ("20260120060000", "billed_subscriptions"),
    ("20260120070000", "usage_subscription"),
    ("20260121010000", "addons"),
    ("20260122010000", "payment_method_requests"),
    ("20260122020000", "checkout_sessions"),
    ("20260122030000", "checkout_decisions"),
    ("20260122060000", "read_only_operators"),
    ("20260122070000", "stripe_imports"),
    ("20260123010000", "outbox"),
    ("20260123020000", "holds"),
    ("20260123040000", "settled_holds"),
    ("20260124010000", "subscription_lookup"),
    ("20260124020000", "audit_log_order"),
    ("20260125010000", "past_due_access"),
    ("20260125020000", "trial_cards"),
    ("20260126000000", "portal_sessions"),
    ("20260127010000", "operator_keys"),
    ("20260127020000", "sessions"),
    ("20260127030000", "second_factors"),
    ("20260127040000", "identity_provider"),
    ("20260128010000", "bulk_actions"),
    ("20260128020000", "timeline"),
    ("20260128030000", "quota_override_terms"),
    ("20260129010000", "business_figures"),
    ("20260130010000", "mails"),
    ("20260130020000", "revenue_terms"),
    ("20260130020100", "bulk_action_tries"),
    ("20260130020200", "figures_lists"),
    ("20260130020300", "usage_denials"),
    ("20260130030000", "session_issuers"),
    ("20260130040000", "enable_tenancy"),
];

/// A migration and its state in the database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MigrationStatus {
    pub version: String,
    pub name: String,
    pub state: State,
    pub applied_at: Option<jiff::Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Applied,
    Pending,
    /// Applied from a file that differs from this program's.
    Changed,
    /// Applied by a later version of the program.
    Unknown,
}
