//! Hashes and verifies passwords with argon2id, on blocking threads and only a
//! few at a time.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use tokio::sync::Semaphore;

/// Allowed length in bytes. The minimum is low: password policy is the
/// operator's decision, and the throttle slows guessing.
pub const LENGTH: std::ops::RangeInclusive<usize> = 6..=1_024;
/// Hashes computed at once; each takes 19 MiB and a core for about 30 ms.
const CONCURRENCY: usize = 2;
/// How many more may wait; further logins are told to retry.
const QUEUE: usize = 32;

/// Verified for unknown addresses, so that they take as long as known ones. The
/// hash of an unknown password, with today's parameters.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5IGhhcyB0aGlz$\
                      mKhjOOAXM8hBVzWFVgPpCP3qMnB4ZJvpyVR0aVOOZdQ";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error(
        "expected a password of {} to {} bytes, without NUL",
        LENGTH.start(),
        LENGTH.end()
    )]
    Unusable,
    #[error("too many logins at once")]
    Busy,
}

/// Checks whether `password` is acceptable.
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
            running: Arc::new(Semaphore::new(CONCURRENCY)),
            admitted: Arc::new(Semaphore::new(CONCURRENCY + QUEUE)),
        }
    }
}

impl Hasher {
    /// Hashes `password`, as a PHC string.
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

    /// Whether `password` matches `hash`. Without a hash it does the same work
    /// and returns false.
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
        // The work holds the permit, since it outlives a caller that hangs up.
        tokio::task::spawn_blocking(move || {
            let _running = running;
            work()
        })
        .await
        .map_err(|_| PasswordError::Busy)
    }
}

/// A new password, for whoever it is told.
pub fn generated() -> String {
    hex::encode(rand::random::<[u8; 16]>())
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
