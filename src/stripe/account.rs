//! Our own Stripe account: the one that the configured key belongs to.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use super::client::Client;

/// How long Stripe is waited for: who asks holds up the events of others.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is remembered that Stripe did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What is known about our own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// Not needed, so Stripe was not asked.
    NotAsked,
    Known(String),
    /// There is no key, or it may not read its account.
    Hidden,
    /// Stripe could not be asked; a later attempt may succeed.
    Unknown(String),
}

impl Account {
    /// Whether an event that names `account` is our own; `None` if that is not
    /// known yet.
    pub fn is(&self, account: &str) -> Option<bool> {
        match self {
            // A context is a path that ends with the account.
            Self::Known(ours) => Some(account.rsplit('/').next() == Some(ours)),
            Self::Hidden => Some(false),
            Self::NotAsked | Self::Unknown(_) => None,
        }
    }
}

/// The account of a key, fetched once.
#[derive(Debug, Default)]
pub struct OwnAccount {
    client: Option<Client>,
    known: Arc<OnceCell<Account>>,
    /// When Stripe last did not answer, and why.
    failed: Mutex<Option<(Instant, String)>>,
}

impl OwnAccount {
    /// Without a client, there is no key.
    pub fn of(client: Option<Client>) -> Self {
        Self {
            client,
            ..Self::default()
        }
    }

    pub async fn ask(&self) -> Account {
        let Some(client) = &self.client else {
            return Account::Hidden;
        };
        if let Some(account) = self.known.get() {
            return account.clone();
        }
        if let Some(why) = self.failed_lately() {
            return Account::Unknown(why);
        }
        // It goes on when nobody waits any more: a late answer is known next time.
        let asking = tokio::spawn(fetch(client.clone(), self.known.clone()));
        let why = match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(Ok(account))) => return account,
            Ok(Ok(Err(why))) => why,
            Ok(Err(_)) | Err(_) => format!("Stripe did not answer within {PATIENCE:?}"),
        };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some((Instant::now(), why.clone()));
        Account::Unknown(why)
    }

    fn failed_lately(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, why) = failed.as_ref()?;
        (at.elapsed() < ASK_AGAIN).then(|| why.clone())
    }
}

async fn fetch(client: Client, known: Arc<OnceCell<Account>>) -> Result<Account, String> {
    let asking = known.get_or_try_init(async || {
        match client.account().await {
            Ok(response) => match response.body["id"].as_str() {
                Some(id) => Ok(Account::Known(id.to_owned())),
                None => Ok(Account::Hidden),
            },
            Err(error) if error.is_outage() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "The account of the key cannot be read; events that name an account count as foreign");
                Ok(Account::Hidden)
            }
        }
    });
    let account = asking.await.map_err(|error| error.to_string())?;
    Ok(account.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_ours_by_the_last_part_of_its_context() {
        let ours = Account::Known("acct_ours".to_owned());
        assert_eq!(ours.is("acct_ours"), Some(true));
        assert_eq!(ours.is("org_1/acct_ours"), Some(true));
        for other in ["acct_other", "acct_ours/acct_other", "", "acct_our"] {
            assert_eq!(ours.is(other), Some(false), "{other}");
        }
        assert_eq!(Account::Hidden.is("acct_ours"), Some(false));
        assert_eq!(Account::Unknown(String::new()).is("acct_ours"), None);
    }
}
