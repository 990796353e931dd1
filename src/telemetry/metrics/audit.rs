//! Metrics of the audit chains.

use metrics::{counter, describe_counter};

const PASSED: &str = "billing_audit_chains_passed_total";

pub(super) fn start_at_zero() {
    describe_counter!(
        PASSED,
        "Audit chains that continued past an entry inserted beside them."
    );
    counter!(PASSED).absolute(0);
}

/// A chain continued past an entry inserted beside it.
pub fn chain_passed() {
    counter!(PASSED).increment(1);
}
