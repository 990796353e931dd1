//! Label values that features define.

/// Values of labels whose series exist from the start, at zero. The features name
/// them; the metrics know no feature.
#[derive(Debug, Clone, Default)]
pub struct Labels {
    pub audit_actions: Vec<&'static str>,
    /// Differences that a reconciliation may find.
    pub drift_kinds: Vec<&'static str>,
    /// Problems that may be found in mirrored data.
    pub findings: Vec<&'static str>,
    /// Why a usage total may be billed by nothing.
    pub unbilled_reasons: Vec<&'static str>,
    /// Why Stripe rejects usage that it had accepted.
    pub rejection_codes: Vec<&'static str>,
    /// What a connection of the API may be doing.
    pub connection_activities: Vec<&'static str>,
    /// Classes of request bodies that share a budget of memory.
    pub body_classes: Vec<&'static str>,
    /// Why a body may get no memory.
    pub body_shortages: Vec<&'static str>,
    /// Why a request's head may get no memory.
    pub heads_shortage: &'static str,
}
