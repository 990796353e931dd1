//! Metrics of operators who sign in by their identity provider.

use metrics::{counter, describe_counter};

const OIDC_SIGN_INS: &str = "billing_oidc_sign_ins_total";

pub(super) fn describe() {
    describe_counter!(
        OIDC_SIGN_INS,
        "Sign-ins of operators by the identity provider, by outcome."
    );
}

pub(super) fn start_at_zero() {
    for outcome in ["succeeded", "refused", "unavailable"] {
        counter!(OIDC_SIGN_INS, "outcome" => outcome).absolute(0);
    }
}

/// One sign-in by the provider.
pub fn oidc_sign_in(outcome: &'static str) {
    counter!(OIDC_SIGN_INS, "outcome" => outcome).increment(1);
}
