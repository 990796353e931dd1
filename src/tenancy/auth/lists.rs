//! Lists of operators and keys, oldest first.

use jiff::Timestamp;
use uuid::Uuid;

use super::{ApiKey, OperatorKey, OperatorUser, ServiceKey};
use crate::server::pagination::page::{Listed, PageRequest};

/// When something was made, and its id.
pub type Made = (Timestamp, Uuid);

/// Which part of a list is read; by default all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Part {
    /// From behind this one on.
    pub after: Option<Made>,
    pub limit: Option<i64>,
}

impl<T: Listed<Position = Made>> From<&PageRequest<T>> for Part {
    fn from(page: &PageRequest<T>) -> Self {
        Self {
            after: page.after,
            limit: Some(page.rows()),
        }
    }
}

macro_rules! listed {
    ($($row:ty),+) => {
        $(impl Listed for $row {
            type Position = Made;

            fn position(&self) -> Made {
                (self.created_at, self.id)
            }
        })+
    };
}

listed!(ApiKey, OperatorKey, OperatorUser, ServiceKey);
