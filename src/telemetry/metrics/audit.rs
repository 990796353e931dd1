//! What is counted of the audit chains.

use metrics::{counter, describe_counter};

const PASSED: &str = "billing_audit_chains_passed_total";

pub(super) fn start_at_zero() {
    describe_counter!(
        PASSED,
        "Audit chains that went on behind an entry which was put beside them."
    );
    counter!(PASSED).absolute(0);
}

/// A chain that goes on behind an entry which was put beside it.
pub fn chain_passed() {
    counter!(PASSED).increment(1);
}
