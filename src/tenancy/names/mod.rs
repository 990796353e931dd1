//! The names by which the product calls its organizations: their external ids, or
//! ours. Looked up, many in one query; nothing is remembered, so that an
//! organization that is renamed, archived or erased is so from the next request on.

mod store;

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::StatusCode;
use sqlx::PgConnection;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use crate::batch::lookup::Grouped;
use crate::db;
use crate::server::problem::Problem;
pub use store::{FoundNames, find as find_names};

/// Characters of an external id at most.
const MAX_LENGTH: usize = 255;

/// What makes an external id unfit, in words.
pub const EXPECTED: &str = "expected 1 to 255 printable characters, no white space at either end, \
                            and not \".\" or \"..\"";

/// Whether a text may be an external id. White space at its ends would be lost in a
/// header, and dots alone in a path.
pub fn is_external_id(text: &str) -> bool {
    !text.is_empty()
        && text.trim() == text
        && !text.chars().any(is_unseen)
        && text.chars().count() <= MAX_LENGTH
        && !matches!(text, "." | "..")
}

/// Controls, and what is printed as nothing or turns the text around: two names that look
/// alike would be two organizations.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Our own id, in the one form in which we write it: any other form of a uuid is an
/// external id and nothing else.
pub fn own_id(name: &str) -> Option<Uuid> {
    let id: Uuid = name.parse().ok()?;
    let mut buffer = Uuid::encode_buffer();
    (id.hyphenated().encode_lower(&mut buffer) == name).then_some(id)
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Organization {
        id: Uuid,
        archived: bool,
    },
    /// It is the external id of one organization and the id of another. None can be made
    /// so; if one is there all the same, neither is meant.
    Ambiguous,
}

impl Named {
    /// Decides what a name stands for, by what was found for both readings of it.
    pub fn of(by_external_id: Option<(Uuid, bool)>, by_id: Option<(Uuid, bool)>) -> Option<Self> {
        match (by_external_id, by_id) {
            (Some((external, _)), Some((own, _))) if external != own => Some(Self::Ambiguous),
            (found, other) => {
                let (id, archived) = found.or(other)?;
                Some(Self::Organization { id, archived })
            }
        }
    }

    /// The organization, for a change if `changes`.
    pub fn organization(self, changes: bool) -> Result<Uuid, Problem> {
        match self {
            Self::Organization { archived: true, .. } if changes => Err(archived()),
            Self::Organization { id, .. } => Ok(id),
            Self::Ambiguous => Err(ambiguous()),
        }
    }
}

/// A name that cannot be one.
pub fn invalid(detail: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "organization_invalid", detail)
}

pub fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "organization_not_found",
        "there is no organization with this external id or id; PUT /api/organizations/{externalId} \
         makes one",
    )
}

pub fn ambiguous() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "organization_ambiguous",
        "this is the id of one organization and the external id of another: give the latter \
         another external id, and name the former by its external id",
    )
}

/// Archived organizations are only read.
pub fn archived() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "organization_archived",
        "the organization is archived and can only be read; PUT /api/organizations/{externalId} \
         brings it back",
    )
}

type Found = Arc<HashMap<Arc<str>, Named>>;

/// The batched lookup of the names in batches of usage.
#[derive(Clone)]
pub struct Names(Grouped<Arc<[Arc<str>]>, Found>);

impl Names {
    /// `pool` has connections that are billing_worker from the start.
    pub fn new(pool: PgPool) -> Self {
        Self(Grouped::new(move |batches: Vec<Arc<[Arc<str>]>>| {
            let pool = pool.clone();
            Box::pin(async move {
                let mut conn = db::acquire(&pool).await?;
                let mut all: Vec<&str> = batches
                    .iter()
                    .flat_map(|names| names.iter())
                    .map(|n| &**n)
                    .collect();
                all.sort_unstable();
                all.dedup();
                let found = find(&mut conn, &all).await?;
                let of_batch = |names: &Arc<[Arc<str>]>| {
                    let named = names
                        .iter()
                        .filter_map(|n| Some((n.clone(), *found.get(&**n)?)));
                    Arc::new(named.collect::<HashMap<_, _>>())
                };
                Ok(batches
                    .iter()
                    .map(|names| (names.clone(), of_batch(names)))
                    .collect())
            })
        }))
    }

    /// What each of these names stands for; those that stand for nothing are left out.
    pub async fn find(&self, names: Arc<[Arc<str>]>) -> Result<Found, Problem> {
        let found = self.0.find(names).await;
        let found = found.map_err(|error| Problem::from(&*error))?;
        Ok(found.unwrap_or_default())
    }
}

async fn find(
    conn: &mut PgConnection,
    names: &[&str],
) -> Result<HashMap<String, Named>, sqlx::Error> {
    let ids: Vec<Uuid> = names.iter().filter_map(|name| own_id(name)).collect();
    let found = store::find(conn, names, &ids).await?;
    let named = names.iter();
    let named = named.filter_map(|name| Some(((*name).to_owned(), found.named(name)?)));
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_id_can_be_written_in_a_path_and_a_header() {
        let long = "x".repeat(255);
        for good in ["a", "acme/eu", "Ünïcode 名", "100%", "...", "-", &long] {
            assert!(is_external_id(good), "{good}");
        }
        let longer = "x".repeat(256);
        for bad in [
            "", " ", " a", "a ", "a\u{a0}", "a\0b", "a\nb", "\u{85}a", ".", "..", &longer,
        ] {
            assert!(!is_external_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn our_id_is_one_in_one_form_only() {
        let id = Uuid::from_u128(0xab);
        assert_eq!(own_id(&id.to_string()), Some(id));
        for other in [
            id.to_string().to_uppercase(),
            id.simple().to_string(),
            id.braced().to_string(),
            id.urn().to_string(),
            format!(" {id}"),
            "acme".to_owned(),
        ] {
            assert_eq!(own_id(&other), None, "{other}");
        }
    }

    #[test]
    fn a_name_never_leads_to_one_of_two() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let by = Named::of;
        let found = |id, archived| Some(Named::Organization { id, archived });
        assert_eq!(by(None, None), None);
        assert_eq!(by(Some((two, false)), None), found(two, false));
        assert_eq!(by(None, Some((one, true))), found(one, true));
        assert_eq!(
            by(Some((one, false)), Some((one, false))),
            found(one, false)
        );
        assert_eq!(
            by(Some((two, false)), Some((one, false))),
            Some(Named::Ambiguous)
        );
    }
}
