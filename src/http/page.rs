//! Lists in pages: `?limit=&cursor=` → `{"data": […], "nextCursor": …}`.

use serde::{Deserialize, Serialize};

/// Rows of a page where the request names no number.
pub const DEFAULT_LIMIT: u32 = 25;
/// Rows of a page at most.
pub const MAX_LIMIT: u32 = 100;

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    pub data: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` of `rows`, which were read with one more than
    /// that, so as to know whether there is a next page.
    pub fn of(mut rows: Vec<T>, limit: u32, cursor: impl FnOnce(&T) -> String) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(cursor);
        Self {
            data: rows,
            next_cursor,
        }
    }
}
