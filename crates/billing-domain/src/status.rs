//! Statuses in Stripe's words, read once. A word that this version does not know is kept
//! as it is.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! statuses {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($variant,)*
            Unknown(String),
        }

        impl $name {
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)*
                    Self::Unknown(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    _ => Self::Unknown(word.to_owned()),
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                Self::from(word.as_str())
            }
        }

        impl From<$name> for String {
            fn from(status: $name) -> Self {
                status.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

statuses! {
    /// Of a subscription.
    SubscriptionStatus {
        Active = "active",
        Trialing = "trialing",
        PastDue = "past_due",
        Unpaid = "unpaid",
        Paused = "paused",
        Incomplete = "incomplete",
        IncompleteExpired = "incomplete_expired",
        Canceled = "canceled",
    }
}

statuses! {
    /// Of an invoice.
    InvoiceStatus {
        Draft = "draft",
        Open = "open",
        Paid = "paid",
        Void = "void",
        Uncollectible = "uncollectible",
    }
}

impl SubscriptionStatus {
    /// Whether the subscription has ended. Nothing revives it.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Whether the status grants the plan. A late payment (`past_due`) is Stripe's
    /// to collect, and the plan stays until Stripe gives up.
    pub fn grants_plan(&self) -> bool {
        matches!(self, Self::Active | Self::Trialing | Self::PastDue)
    }

    /// Whether it grants nothing for now, and may do so again.
    pub fn is_suspended(&self) -> bool {
        matches!(self, Self::Unpaid | Self::Paused)
    }

    /// Whether its usage costs something: not in a trial, nor while it is suspended.
    pub fn charges_usage(&self) -> bool {
        self.grants_plan() && *self != Self::Trialing
    }
}

impl InvoiceStatus {
    /// Whether nothing is due on it any more.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Paid | Self::Void | Self::Uncollectible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_word_is_kept_and_grants_nothing() {
        let read: SubscriptionStatus = serde_json::from_str("\"dormant\"").expect("a word");
        assert_eq!(read, SubscriptionStatus::Unknown("dormant".to_owned()));
        assert!(!read.grants_plan() && !read.is_ended() && !read.is_suspended());
        let written = serde_json::to_string(&read).expect("a word");
        assert_eq!(written, "\"dormant\"");
    }

    #[test]
    fn each_word_is_written_as_it_was_read() {
        for word in ["active", "past_due", "incomplete_expired", "canceled"] {
            let status = SubscriptionStatus::from(word);
            assert_eq!(status.to_string(), word);
            assert!(!matches!(status, SubscriptionStatus::Unknown(_)), "{word}");
        }
        assert_eq!(InvoiceStatus::from("void").as_str(), "void");
    }
}
