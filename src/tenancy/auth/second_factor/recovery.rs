//! Recovery codes, for who has lost the authenticator. Each is 80 random bits, so that a fast
//! hash is enough, and is used once.

use super::Hash;
use crate::tenancy::auth::token;

/// How many there are.
pub const CODES: usize = 10;
const LETTERS: usize = 16;
/// Without those that look alike.
const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";

/// A new code, such as `k7wq-3mzp-xa9d-v2hc`.
pub fn new() -> String {
    let random = rand::random::<[u8; LETTERS]>();
    let letters = random.map(|byte| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]));
    let groups: Vec<String> = letters
        .chunks(4)
        .map(|group| group.iter().collect())
        .collect();
    groups.join("-")
}

/// The hash of what somebody typed as one; none if it has not the form.
pub fn hash(user_id: uuid::Uuid, typed: &str) -> Option<Hash> {
    if typed.len() > 64 {
        return None;
    }
    let letters = typed.chars().filter(|c| !c.is_whitespace() && *c != '-');
    let letters: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    let ours = letters.len() == LETTERS && letters.bytes().all(|b| ALPHABET.contains(&b));
    ours.then(|| token::hash(&format!("recovery {user_id} {letters}")))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_code_is_read_however_it_is_typed() {
        let (code, user) = (new(), Uuid::now_v7());
        assert_eq!(code.len(), LETTERS + 3);
        let own = hash(user, &code).unwrap();
        let typed = format!(" {} ", code.replace('-', "").to_uppercase());
        assert_eq!(hash(user, &typed), Some(own));
        assert_ne!(hash(Uuid::now_v7(), &code), Some(own), "of one user");
        assert_ne!(new(), code);
        for wrong in [
            "",
            "123456",
            "k7wq-3mzp-xa9d",
            &"a".repeat(65),
            "l7wq-3mzp-xa9d-v2hc",
        ] {
            assert_eq!(hash(user, wrong), None, "{wrong}");
        }
    }
}
