//! Lists: newest first, with cursors.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;
use crate::store::Keyed;

/// A range filter such as `created[gte]=…`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RangeFilter {
    pub gt: Option<i64>,
    pub gte: Option<i64>,
    pub lt: Option<i64>,
    pub lte: Option<i64>,
}

impl RangeFilter {
    /// Whether the value satisfies every given bound.
    #[must_use]
    pub fn contains(&self, value: i64) -> bool {
        self.gt.is_none_or(|bound| value > bound)
            && self.gte.is_none_or(|bound| value >= bound)
            && self.lt.is_none_or(|bound| value < bound)
            && self.lte.is_none_or(|bound| value <= bound)
    }
}

/// The requested part of a list.
#[derive(Debug, Clone)]
pub struct Page {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

impl Page {
    /// Takes `limit`, `starting_after` and `ending_before`. A limit out of
    /// range is silently clamped, as Stripe does.
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        let limit = params.integer("limit")?.unwrap_or(10).clamp(1, 100);
        let page = Self {
            limit: usize::try_from(limit).unwrap_or(1),
            starting_after: params.text("starting_after")?,
            ending_before: params.text("ending_before")?,
        };
        if page.starting_after.is_some() && page.ending_before.is_some() {
            return Err(ApiError::invalid(
                "Received both starting_after and ending_before parameters. Please pass in only one.",
            ));
        }
        Ok(page)
    }

    /// Translates the cursors of objects that are shown under a different
    /// prefix than they are stored under.
    #[must_use]
    pub fn with_prefix(mut self, shown: &str, kept: &str) -> Self {
        let cursors = [&mut self.starting_after, &mut self.ending_before];
        for id in cursors.into_iter().flatten() {
            *id = id.replacen(shown, kept, 1);
        }
        self
    }

    /// Selects the page from a list in display order, and returns whether there
    /// is more. The cursor may refer to an object that the filter excludes.
    pub fn select<'a, T: Keyed + 'a>(
        &self,
        kind: &str,
        objects: impl Iterator<Item = &'a T>,
        filter: impl Fn(&T) -> bool,
    ) -> Result<(Vec<&'a T>, bool), ApiError> {
        let all: Vec<&T> = objects.collect();
        let position = |param: &str, id: &str| {
            all.iter()
                .position(|object| object.id() == id)
                .ok_or_else(|| ApiError::no_such(kind, id, param))
        };
        let matching = |range: &[&'a T]| -> Vec<&'a T> {
            range
                .iter()
                .copied()
                .filter(|object| filter(object))
                .collect()
        };
        if let Some(id) = &self.ending_before {
            // The objects closest to the cursor, in display order.
            let before = matching(&all[..position("ending_before", id)?]);
            let skipped = before.len().saturating_sub(self.limit);
            return Ok((before[skipped..].to_vec(), skipped > 0));
        }
        let start = match &self.starting_after {
            Some(id) => position("starting_after", id)? + 1,
            None => 0,
        };
        let mut after = matching(&all[start..]);
        let has_more = after.len() > self.limit;
        after.truncate(self.limit);
        Ok((after, has_more))
    }
}

/// A list object.
#[must_use]
pub fn object(data: Vec<Value>, has_more: bool, url: &str) -> Value {
    json!({ "object": "list", "data": data, "has_more": has_more, "url": url })
}
