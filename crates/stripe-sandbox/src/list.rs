//! Lists: newest first, with cursors.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;
use crate::store::Keyed;

/// A half-open or closed range filter such as `created[gte]=…`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Range {
    /// The bound, if given.
    pub gt: Option<i64>,
    /// The bound, if given.
    pub gte: Option<i64>,
    /// The bound, if given.
    pub lt: Option<i64>,
    /// The bound, if given.
    pub lte: Option<i64>,
}

impl Range {
    /// Whether a value satisfies every bound that was given.
    #[must_use]
    pub fn contains(&self, value: i64) -> bool {
        self.gt.is_none_or(|bound| value > bound)
            && self.gte.is_none_or(|bound| value >= bound)
            && self.lt.is_none_or(|bound| value < bound)
            && self.lte.is_none_or(|bound| value <= bound)
    }
}

/// Which part of a list is asked for.
#[derive(Debug, Clone)]
pub struct Page {
    limit: usize,
    starting_after: Option<String>,
    ending_before: Option<String>,
}

impl Page {
    /// Takes `limit`, `starting_after` and `ending_before`. A limit beyond its
    /// bounds means the bound, silently, as recorded of Stripe.
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

    /// The same page of a list whose objects show themselves under another
    /// prefix than they are kept under.
    #[must_use]
    pub fn with_prefix(mut self, shown: &str, kept: &str) -> Self {
        let cursors = [&mut self.starting_after, &mut self.ending_before];
        for id in cursors.into_iter().flatten() {
            *id = id.replacen(shown, kept, 1);
        }
        self
    }

    /// Cuts the page out of a list in its display order. The cursor may name
    /// an object that the filter leaves out, as long as it exists.
    pub fn cut<'a, T: Keyed + 'a>(
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
            // The objects nearest to the cursor, still in display order.
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
