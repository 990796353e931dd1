//! Lists in pages: `?limit=&cursor=` → `{"data": […], "nextCursor": …}`.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::server::number;
use crate::server::pagination::cursor::ListCursors;
use crate::server::problem::Problem;

/// Rows of a page where the request names no number.
pub const DEFAULT_LIMIT: u32 = 25;
/// Rows of a page at most.
pub const MAX_LIMIT: u32 = 100;

/// The query of a list without filters of its own.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    #[serde(default)]
    #[param(inline)]
    pub limit: Limit,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
}

// In a query: `#[serde(default)] #[param(inline)] limit: Limit`.
/// How many rows a page has at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(minimum = 1, maximum = 100, default = 25)]
pub struct Limit(u32);

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit: u32 = number::whole(deserializer)?;
        Self::try_from(limit).map_err(D::Error::custom)
    }
}

impl TryFrom<u32> for Limit {
    type Error = String;

    fn try_from(limit: u32) -> Result<Self, String> {
        if (1..=MAX_LIMIT).contains(&limit) {
            Ok(Self(limit))
        } else {
            Err(format!("a number from 1 to {MAX_LIMIT} is needed"))
        }
    }
}

impl Limit {
    /// How many rows to read: one more than are shown, so as to know whether
    /// there is a next page.
    pub fn rows(self) -> i64 {
        i64::from(self.0) + 1
    }
}

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Where the next page begins; null on the last one.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The only page of a short list.
    pub fn only(data: Vec<T>) -> Self {
        Self {
            data,
            next_cursor: None,
        }
    }

    /// The page with each row as the API shows it.
    pub fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        Page {
            data: self.data.into_iter().map(show).collect(),
            next_cursor: self.next_cursor,
        }
    }
}

/// A row of a list, which is found again by its position in the list's order.
pub trait Listed {
    type Position: Serialize + DeserializeOwned;

    fn position(&self) -> Self::Position;
}

/// The query of a list.
pub trait ListQuery {
    fn limit(&self) -> Limit;

    fn cursor(&self) -> Option<&str>;

    /// Everything that decides which rows are in the list: a cursor continues no other.
    fn filters(&self) -> Value {
        Value::Null
    }
}

impl ListQuery for Paging {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

/// A page that a request asks for.
pub struct PageRequest<T: Listed> {
    /// Where it begins; `None` for the first one.
    pub after: Option<T::Position>,
    limit: Limit,
    cursors: ListCursors,
}

impl<T: Listed> PageRequest<T> {
    /// Of the list that `cursors` are for.
    pub fn new(cursors: ListCursors, query: &impl ListQuery) -> Result<Self, Problem> {
        Ok(Self {
            after: cursors.place(query.cursor())?,
            limit: query.limit(),
            cursors,
        })
    }

    /// How many rows to read.
    pub fn rows(&self) -> i64 {
        self.limit.rows()
    }

    /// The page, of the rows that were read.
    pub fn of(&self, mut rows: Vec<T>) -> Page<T> {
        let limit = self.limit.0 as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| more);
        let next_cursor = last.map(|last| self.cursors.write(&last.position()));
        Page {
            data: rows,
            next_cursor,
        }
    }
}
