//! Why events are dead letters: their errors, without the ids that each names.

/// What stands for an id.
const ID: char = '…';
/// The shortest word of letters and digits that is an id rather than a number.
const LONG: usize = 20;

/// An error without its ids: the same for all events that failed for one reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reason(String);

impl Reason {
    pub fn of(error: &str) -> Self {
        let mut reason = String::new();
        let mut rest = error;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            if end == 0 {
                reason.push(first);
                rest = &rest[first.len_utf8()..];
                continue;
            }
            let (word, after) = rest.split_at(end);
            match prefix(word) {
                Some(prefix) => {
                    reason.push_str(prefix);
                    reason.push(ID);
                }
                None => reason.push_str(word),
            }
            rest = after;
        }
        Self(reason)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A regular expression that matches the errors with this reason, and no others.
    pub(in crate::webhooks) fn pattern(&self) -> String {
        let mut pattern = String::from("^");
        let mut word = String::new();
        let mut characters = self.0.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                ID => {
                    let ends = characters.peek().is_none_or(|next| !in_word(*next));
                    pattern.push_str(ids(&word).filter(|_| ends).unwrap_or("…"));
                }
                plain if plain.is_alphanumeric() || plain == ' ' => pattern.push(plain),
                other => {
                    pattern.push('\\');
                    pattern.push(other);
                }
            }
            match in_word(character) {
                true => word.push(character),
                false => word.clear(),
            }
        }
        pattern.push('$');
        pattern
    }
}

/// What an id may be that stands behind `kind`, as [`prefix`] has it; or what an error says.
fn ids(kind: &str) -> Option<&'static str> {
    if kind.is_empty() {
        return Some("(?:…|(?=[A-Za-z-]*[0-9])[A-Za-z0-9-]{20,}(?![A-Za-z0-9_-]))");
    }
    let short = (3..=6).contains(&kind.len()) && kind.find('_') == Some(kind.len() - 1);
    short.then_some("(?:…|(?=[a-z_-]*[0-9A-Z])[A-Za-z0-9_-]+(?![A-Za-z0-9_-]))")
}

fn in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// What is left of an id, which ends in letters and digits: `cus_` of `cus_1`. None: the
/// word is none.
fn prefix(word: &str) -> Option<&str> {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    if word.len() >= LONG && digits > 0 && !word.contains('_') {
        return Some("");
    }
    let (kind, id) = word.split_at(word.find('_')? + 1);
    let short = (3..=6).contains(&kind.len());
    let random = id
        .bytes()
        .any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    (short && random).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_left_out_and_words_are_not() {
        let of = |error| Reason::of(error).0;
        assert_eq!(
            of("customer cus_Ab1 is unknown"),
            "customer cus_… is unknown"
        );
        assert_eq!(
            of("no 2 of llm_tokens (42P01)."),
            "no 2 of llm_tokens (42P01)."
        );
        let uuid = "organization 019aab70-0000-7000-8000-000000000001: gone";
        assert_eq!(of(uuid), "organization …: gone");
        assert_eq!(Reason::of("a cus_1"), Reason::of("a cus_2"));
        assert_ne!(Reason::of("a cus_1"), Reason::of("a cus_1 b"));
    }

    #[test]
    fn the_pattern_takes_everything_literally() {
        let pattern = Reason::of("is (not) a.b* [cus_1]").pattern();
        assert_eq!(
            pattern,
            "^is \\(not\\) a\\.b\\* \\[cus\\_(?:…|(?=[a-z_-]*[0-9A-Z])[A-Za-z0-9_-]+(?![A-Za-z0-9_-]))\\]$"
        );
    }
}
