//! Cursors: where a list goes on. What is in one is nobody's business but
//! ours: it is signed, and holds for one organization, one list and one set of
//! filters.

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::server::problem::Problem;
use crate::server::signing::{SharedSigningKey, SigningKey};

/// Longer than any that we make.
const MAX_LENGTH: usize = 1_024;
const SIGNATURE_BYTES: usize = 32;

/// Signs and checks cursors, with a key that all replicas share.
#[derive(Clone)]
pub struct Cursors(SharedSigningKey);

impl Cursors {
    pub fn new(pool: PgPool) -> Self {
        Self(SharedSigningKey::new(pool, "cursors"))
    }

    /// The cursors of one list: `list` is its route, `filters` everything of
    /// the query that decides which rows are in it.
    pub async fn of(
        &self,
        organization_id: Uuid,
        list: &'static str,
        filters: &impl Serialize,
    ) -> Result<ListCursors, Problem> {
        let key = *self.0.get().await?;
        Ok(ListCursors::new(key, organization_id, list, filters))
    }
}

/// The cursors of one list.
pub struct ListCursors {
    key: SigningKey,
    scope: Vec<u8>,
}

impl ListCursors {
    pub fn new(
        key: SigningKey,
        organization_id: Uuid,
        list: &str,
        filters: &impl Serialize,
    ) -> Self {
        let filters = serde_json::to_string(filters).expect("filters are plain values");
        let scope = format!("{organization_id}\n{list}\n{filters}\n").into_bytes();
        Self { key, scope }
    }

    /// A cursor that says `place`: the keys of the last row of a page.
    pub fn write(&self, place: &impl Serialize) -> String {
        let mut bytes = serde_json::to_vec(place).expect("places are plain values");
        let signature = self.signing(&bytes).finalize().into_bytes();
        bytes.extend(signature);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The place where the request's cursor goes on; None without a cursor.
    pub fn place<T: DeserializeOwned>(&self, cursor: Option<&str>) -> Result<Option<T>, Problem> {
        cursor.map(|cursor| self.read(cursor)).transpose()
    }

    /// The place that a cursor of ours says.
    fn read<T: DeserializeOwned>(&self, cursor: &str) -> Result<T, Problem> {
        self.open(cursor).ok_or_else(|| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_cursor",
                "this cursor is none of this list's; take `nextCursor` of the page before, \
                 with the same filters, or begin without a cursor",
            )
        })
    }

    fn open<T: DeserializeOwned>(&self, cursor: &str) -> Option<T> {
        if cursor.len() > MAX_LENGTH {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let place = bytes.len().checked_sub(SIGNATURE_BYTES)?;
        let (place, signature) = bytes.split_at(place);
        self.signing(place).verify_slice(signature).ok()?;
        serde_json::from_slice(place).ok()
    }

    fn signing(&self, place: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("any length is a key");
        mac.update(&self.scope);
        mac.update(place);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Place = (i64, String);

    fn cursors(organization: u128, list: &str, filter: &str) -> ListCursors {
        ListCursors::new([7; 32], Uuid::from_u128(organization), list, &filter)
    }

    #[test]
    fn a_cursor_says_its_place() {
        let cursors = cursors(1, "/invoices", "open");
        let place: Place = (-5, "in_\u{e9}\"".to_owned());
        let cursor = cursors.write(&place);
        assert_eq!(cursors.read::<Place>(&cursor).unwrap(), place);
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(cursor.chars().all(plain), "{cursor} needs no escapes");
    }

    #[test]
    fn no_other_list_takes_it() {
        let cursor = cursors(1, "/invoices", "open").write(&(1, "a"));
        for other in [
            cursors(2, "/invoices", "open"),
            cursors(1, "/audit-log", "open"),
            cursors(1, "/invoices", "paid"),
            ListCursors::new([8; 32], Uuid::from_u128(1), "/invoices", &"open"),
        ] {
            let refused = other.read::<Place>(&cursor).unwrap_err();
            assert_eq!(refused.code(), "invalid_cursor");
        }
    }

    #[test]
    fn none_can_be_made_up_or_changed() {
        let cursors = cursors(1, "/invoices", "open");
        let cursor = cursors.write(&(1, "a"));
        let bytes = URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let changed = URL_SAFE_NO_PAD.encode(changed);
            assert!(cursors.read::<Place>(&changed).is_err(), "bit {bit}");
        }
        let made_up = ["", "x", "null", "=", "é", &cursor[1..], &"A".repeat(2_000)];
        for made_up in made_up {
            assert!(cursors.read::<Place>(made_up).is_err(), "{made_up}");
        }
        assert!(cursors.read::<Place>(&format!("{cursor}=")).is_err());
        assert!(cursors.read::<Uuid>(&cursor).is_err(), "another shape");
    }
}
