//! How operators may sign in, by the configuration.

use super::sessions::SignedInBy;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorPolicy {
    /// Whether a password takes a second factor beside it.
    pub second_factor: bool,
    /// Whether passwords are taken at all.
    pub passwords: bool,
    /// Whether there is an identity provider.
    pub provider: bool,
}

impl Default for OperatorPolicy {
    fn default() -> Self {
        Self {
            second_factor: false,
            passwords: true,
            provider: false,
        }
    }
}

impl OperatorPolicy {
    /// Whether an operator's session that was begun like this goes on: what is required is so
    /// from the next request.
    pub fn admits(self, by: SignedInBy) -> bool {
        match by {
            SignedInBy::Oidc => self.provider,
            SignedInBy::SecondFactor => self.passwords,
            SignedInBy::Password => self.passwords && !self.second_factor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_ends_sessions_that_were_begun_without() {
        let policy = |second_factor, passwords| OperatorPolicy {
            second_factor,
            passwords,
            provider: true,
        };
        let admitted = |policy: OperatorPolicy| {
            [
                SignedInBy::Password,
                SignedInBy::SecondFactor,
                SignedInBy::Oidc,
            ]
            .map(|by| policy.admits(by))
        };
        assert_eq!(admitted(OperatorPolicy::default()), [true, true, false]);
        assert_eq!(admitted(policy(false, true)), [true, true, true]);
        assert_eq!(admitted(policy(true, true)), [false, true, true]);
        assert_eq!(admitted(policy(true, false)), [false, false, true]);
        assert_eq!(admitted(policy(false, false)), [false, false, true]);
    }
}
