//! Enums that a text column holds as words. Each word is said once; one that is unknown is an
//! error of the row that has it, never a default.

use billing_domain::quota::OverLimit;

/// An enum of which each value has a word.
pub trait Worded: Copy + 'static {
    const ALL: &'static [Self];

    fn word(self) -> &'static str;

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.word() == word)
    }
}

impl Worded for OverLimit {
    const ALL: &'static [Self] = &[Self::Hard, Self::Grace, Self::Overage];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// Reads what a column holds: `checkout_sessions.state`.
pub fn decode<T: Worded>(column: &str, word: &str) -> Result<T, sqlx::Error> {
    T::of_word(word)
        .ok_or_else(|| sqlx::Error::Decode(format!("{column}: {word:?} is unknown").into()))
}

/// Makes an enum of words.
macro_rules! words {
    ($(#[$doc:meta])* $visibility:vis enum $name:ident {
        $($(#[$of_one:meta])* $variant:ident = $word:literal),+ $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$of_one])* $variant),+
        }

        impl $name {
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl $crate::db::words::Worded for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn word(self) -> &'static str {
                self.as_str()
            }
        }
    };
}

pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        /// For the test.
        enum Colour {
            Red = "red",
            Blue = "blue",
        }
    }

    #[test]
    fn each_value_is_found_by_its_word_and_no_other() {
        for colour in Colour::ALL {
            assert_eq!(Colour::of_word(colour.word()), Some(*colour));
        }
        for kind in OverLimit::ALL {
            assert_eq!(OverLimit::of_word(kind.word()), Some(*kind));
        }
        for none in ["", "Red", " red", "green"] {
            let unknown = decode::<Colour>("walls.colour", none).unwrap_err();
            let said = format!("walls.colour: {none:?} is unknown");
            assert!(unknown.to_string().contains(&said), "{unknown}");
        }
    }
}
