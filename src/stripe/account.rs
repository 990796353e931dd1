//! Our own Stripe account: the one that the configured key belongs to.

use tokio::sync::OnceCell;

use super::client::Client;

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
    known: OnceCell<Account>,
}

impl OwnAccount {
    /// Without a client, there is no key.
    pub fn of(client: Option<Client>) -> Self {
        Self {
            client,
            known: OnceCell::new(),
        }
    }

    pub async fn ask(&self) -> Account {
        let Some(client) = &self.client else {
            return Account::Hidden;
        };
        let asking = self.known.get_or_try_init(async || {
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
        match asking.await {
            Ok(account) => account.clone(),
            Err(error) => Account::Unknown(error.to_string()),
        }
    }
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
