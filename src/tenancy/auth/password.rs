//! Passwords: argon2id, away from the thread that takes webhooks.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

/// In bytes. The least is low, because what makes a password hard to guess is
/// for its operator to decide; guessing is slowed down by the throttle.
pub const LENGTH: std::ops::RangeInclusive<usize> = 6..=1_024;
/// Each hash takes 19 MiB and a core for some 30 ms.
const AT_ONCE: usize = 2;
/// How many more may wait; a storm of logins is told to come back.
const WAITING: usize = 32;

/// What is verified for an address that nobody has, so that it takes as long:
/// the hash of something nobody knows, with today's parameters.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlz$\
                      mKhjOOAXM8hBVzWFVgPpCP3qMnB4ZJvpyVR0aVOOZdQ";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error(
        "a password has {} to {} bytes, and no NUL",
        LENGTH.start(),
        LENGTH.end()
    )]
    Unusable,
    #[error("too many logins at once")]
    Busy,
}

/// Whether `password` may be one.
pub fn check(password: &str) -> Result<(), PasswordError> {
    if LENGTH.contains(&password.len()) && !password.contains('\0') {
        Ok(())
    } else {
        Err(PasswordError::Unusable)
    }
}

/// Hashes and verifies, a few at a time.
#[derive(Clone)]
pub struct Hasher {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self {
            running: Arc::new(Semaphore::new(AT_ONCE)),
            admitted: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
        }
    }
}

impl Hasher {
    /// The hash of `password` as a PHC string.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        check(&password)?;
        self.run(move || {
            Argon2::default()
                .hash_password(password.as_bytes())
                .expect("a checked password can be hashed")
                .to_string()
        })
        .await
    }

    /// Whether `password` is the one of `hash`; without a hash the same work
    /// is done in vain.
    pub async fn verify(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        self.run(move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
            let matches = PasswordHash::new(&hash).is_ok_and(|parsed| {
                Argon2::default()
                    .verify_password(password.as_bytes(), &parsed)
                    .is_ok()
            });
            matches && known
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _admitted = self
            .admitted
            .try_acquire()
            .map_err(|_| PasswordError::Busy)?;
        let running = self.running.clone().acquire_owned().await;
        // The permit goes with the work, which a caller that hangs up does not end.
        tokio::task::spawn_blocking(move || {
            let _running = running;
            work()
        })
        .await
        .map_err(|_| PasswordError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_its_hash_only() {
        let hasher = Hasher::default();
        let hash = hasher.hash("test123".to_owned()).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let verify = async |password: &str, hash: Option<&String>| {
            hasher
                .verify(password.to_owned(), hash.cloned())
                .await
                .unwrap()
        };
        assert!(verify("test123", Some(&hash)).await);
        assert!(!verify("test124", Some(&hash)).await);
        assert!(!verify("test123", None).await);
    }

    #[test]
    fn the_hash_of_nobody_takes_the_same_work() {
        let parsed = PasswordHash::new(NOBODY).unwrap();
        let ours = Argon2::default().hash_password(b"x").unwrap();
        assert_eq!(parsed.algorithm, ours.algorithm);
        assert_eq!(parsed.params.to_string(), ours.params.to_string());
        assert_eq!(
            parsed.hash.unwrap().len(),
            ours.hash.as_ref().unwrap().len()
        );
    }

    #[test]
    fn passwords_have_bounds() {
        assert_eq!(check("test123"), Ok(()));
        for wrong in ["", "short", "with\0nul", &"x".repeat(1_025)] {
            assert_eq!(check(wrong), Err(PasswordError::Unusable));
        }
    }
}
