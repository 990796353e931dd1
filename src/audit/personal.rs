//! What is personal of an entry, which is kept beside the chain: the entry has a
//! salted digest of it, so that it can be erased and the chain still be verified.

use sha2::{Digest as _, Sha256};

use super::store::Link;
use super::verify::hash_fields;

/// Address, user agent and reason, as PostgreSQL prints them.
pub type PersonalFields = [Option<String>; 3];

pub struct PersonalData {
    pub salt: Vec<u8>,
    pub fields: PersonalFields,
}

impl PersonalData {
    /// Like the database's billing_audit_personal_digest.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(&self.salt);
        hash_fields(&mut hasher, &self.fields);
        hex::encode(hasher.finalize())
    }
}

/// What is wrong with an entry's personal data. Up to the entry `erased_through`, which
/// is about the latest erasure, there are none.
pub(super) fn problem(link: &Link, erased_through: i64) -> Option<String> {
    let sequence = link.sequence;
    match (&link.personal_digest, &link.personal) {
        (None, None) => None,
        (None, Some(_)) => Some(format!("personal data of entry {sequence} were added")),
        (Some(_), Some(_)) if sequence <= erased_through => Some(format!(
            "there are personal data of entry {sequence}, though all were erased since; if a backup \
             brought them back, run `organizations erase` again"
        )),
        (Some(digest), Some(personal)) => (personal.digest() != *digest)
            .then(|| format!("the personal data of entry {sequence} were changed")),
        (Some(_), None) => (sequence > erased_through).then(|| {
            format!(
                "the personal data of entry {sequence} were removed, and `organizations erase` \
                 did not run since"
            )
        }),
    }
}
