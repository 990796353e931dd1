//! Opaque credentials: a prefix that names the kind, and 256 random bits. Only
//! a hash is stored. Because the bits are random, a fast hash is enough.

use sha2::{Digest, Sha256};

/// The prefix of a user's session token.
const SESSION: &str = "vcs_";
/// The prefix of an organization's API key.
const KEY: &str = "vck_";
/// The prefix of a service key, which is the product's.
const SERVICE_KEY: &str = "vcp_";
/// The prefix of the one-time code in an address of the customer pages.
const PORTAL_CODE: &str = "vcl_";
/// The prefix of the session that such a code becomes, which only a cookie carries.
const PORTAL_SESSION: &str = "vcb_";
/// The prefix of an operators' key.
const OPERATOR_KEY: &str = "vco_";
/// How much of an API key may be displayed.
const DISPLAYED: usize = KEY.len() + 8;
const HEX_DIGITS: usize = 64;

/// SHA-256 of a credential.
pub type Hash = [u8; 32];

/// A well-formed credential, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credential {
    Session(Hash),
    Key(Hash),
    ServiceKey(Hash),
    /// Of the customer pages. No bearer token is one.
    Portal(Hash),
    OperatorKey(Hash),
}

impl Credential {
    pub fn hash(&self) -> Hash {
        match self {
            Self::Session(hash)
            | Self::Key(hash)
            | Self::ServiceKey(hash)
            | Self::OperatorKey(hash)
            | Self::Portal(hash) => *hash,
        }
    }
}

pub fn new_session() -> String {
    make(SESSION)
}

pub fn new_key() -> String {
    make(KEY)
}

pub fn new_service_key() -> String {
    make(SERVICE_KEY)
}

pub fn new_portal_code() -> String {
    make(PORTAL_CODE)
}

pub fn new_portal_session() -> String {
    make(PORTAL_SESSION)
}

pub fn new_operator_key() -> String {
    make(OPERATOR_KEY)
}

fn make(prefix: &str) -> String {
    format!("{prefix}{}", hex::encode(rand::random::<[u8; 32]>()))
}

pub fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// The beginning of an API key, as shown in listings.
pub fn displayed(key: &str) -> &str {
    &key[..DISPLAYED]
}

/// Parses a bearer token; `None` if it does not have our format.
pub fn parse(text: &str) -> Option<Credential> {
    let has_prefix = |prefix| has_prefix(text, prefix);
    if has_prefix(SESSION) {
        Some(Credential::Session(hash(text)))
    } else if has_prefix(KEY) {
        Some(Credential::Key(hash(text)))
    } else if has_prefix(SERVICE_KEY) {
        Some(Credential::ServiceKey(hash(text)))
    } else if has_prefix(OPERATOR_KEY) {
        Some(Credential::OperatorKey(hash(text)))
    } else {
        None
    }
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        digits.len() == HEX_DIGITS
            && digits
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What the cookie of the customer pages carries: a session of theirs, or a user's.
pub fn parse_portal(text: &str) -> Option<Credential> {
    if has_prefix(text, PORTAL_SESSION) {
        return Some(Credential::Portal(hash(text)));
    }
    parse(text).filter(|credential| matches!(credential, Credential::Session(_)))
}

/// The hash of a one-time code.
pub fn parse_code(text: &str) -> Option<Hash> {
    has_prefix(text, PORTAL_CODE).then(|| hash(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_customer_pages_is_no_bearer_token() {
        let (code, session) = (new_portal_code(), new_portal_session());
        assert_eq!((parse(&code), parse(&session)), (None, None));
        assert_eq!(parse_code(&code), Some(hash(&code)));
        assert_eq!(parse_code(&session), None);
        let portal = Some(Credential::Portal(hash(&session)));
        assert_eq!(parse_portal(&session), portal);
        assert_eq!(parse_portal(&code), None);
        assert_eq!(parse_portal(&new_key()), None);
        assert_eq!(parse_portal(&new_service_key()), None);
        let user = new_session();
        assert_eq!(parse_portal(&user), parse(&user));
    }

    #[test]
    fn only_our_own_credentials_are_parsed() {
        let (session, key) = (new_session(), new_key());
        assert_eq!(parse(&session), Some(Credential::Session(hash(&session))));
        assert_eq!(parse(&key), Some(Credential::Key(hash(&key))));
        let service_key = new_service_key();
        let parsed = Some(Credential::ServiceKey(hash(&service_key)));
        assert_eq!(parse(&service_key), parsed);
        let operator_key = new_operator_key();
        let parsed = Some(Credential::OperatorKey(hash(&operator_key)));
        assert_eq!(parse(&operator_key), parsed);
        assert_ne!(new_key(), key);
        let upper = key.to_uppercase();
        for wrong in [
            "",
            "vck_",
            "vck_12",
            &session[1..],
            &upper,
            &format!("{key}0"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
