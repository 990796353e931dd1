//! What mails tell of.

/// A kind of mail; its templates have its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PaymentFailed,
    ActionRequired,
    TrialEnding,
    CardExpiring,
    QuotaWarning,
    QuotaReached,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::PaymentFailed,
        Self::ActionRequired,
        Self::TrialEnding,
        Self::CardExpiring,
        Self::QuotaWarning,
        Self::QuotaReached,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentFailed => "payment_failed",
            Self::ActionRequired => "action_required",
            Self::TrialEnding => "trial_ending",
            Self::CardExpiring => "card_expiring",
            Self::QuotaWarning => "quota_warning",
            Self::QuotaReached => "quota_reached",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::parse("newsletter"), None);
    }
}
