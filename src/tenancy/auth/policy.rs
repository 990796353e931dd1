//! How operators may sign in, by the configuration.

use std::sync::Arc;

use super::sessions::SignedInBy;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorPolicy {
    /// Whether a password takes a second factor beside it.
    pub second_factor: bool,
    /// Whether passwords are taken at all.
    pub passwords: bool,
    /// The issuer of the identity provider, if there is one.
    pub provider: Option<Arc<str>>,
}

impl Default for OperatorPolicy {
    fn default() -> Self {
        Self {
            second_factor: false,
            passwords: true,
            provider: None,
        }
    }
}

impl OperatorPolicy {
    /// Whether an operator's session that was begun like this goes on: what is required is so
    /// from the next request. Of which issuer a session is, those of earlier versions do not say.
    pub fn admits(&self, by: SignedInBy, issuer: Option<&str>) -> bool {
        match by {
            SignedInBy::Oidc => self
                .provider
                .as_deref()
                .is_some_and(|provider| issuer.is_none_or(|issuer| issuer == provider)),
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
            provider: Some("https://a.example".into()),
        };
        let admitted = |policy: OperatorPolicy| {
            [
                SignedInBy::Password,
                SignedInBy::SecondFactor,
                SignedInBy::Oidc,
            ]
            .map(|by| policy.admits(by, None))
        };
        assert_eq!(admitted(OperatorPolicy::default()), [true, true, false]);
        assert_eq!(admitted(policy(false, true)), [true, true, true]);
        assert_eq!(admitted(policy(true, true)), [false, true, true]);
        assert_eq!(admitted(policy(true, false)), [false, false, true]);
        assert_eq!(admitted(policy(false, false)), [false, false, true]);
        let of = |issuer| policy(false, false).admits(SignedInBy::Oidc, Some(issuer));
        assert!(of("https://a.example"));
        assert!(!of("https://b.example"));
    }
}
