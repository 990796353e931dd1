//! Metadata: texts that users attach to objects.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::params::Params;

/// Keys and values.
pub type Metadata = BTreeMap<String, String>;

/// How a request changes metadata.
#[derive(Debug, Clone, Default)]
pub enum MetadataChange {
    /// Not mentioned.
    #[default]
    Keep,
    /// `metadata=`: everything goes.
    Clear,
    /// Keys set, or unset by an empty value.
    Merge(Vec<(String, String)>),
}

impl MetadataChange {
    /// Takes the parameter `metadata`.
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        let name = params.name("metadata");
        let change = match params.pairs("metadata")? {
            None => Self::Keep,
            Some(None) => Self::Clear,
            Some(Some(pairs)) => Self::Merge(pairs),
        };
        if let Self::Merge(pairs) = &change {
            let too_long = |(key, value): &(String, String)| {
                key.chars().count() > 40 || value.chars().count() > 500
            };
            if pairs.len() > 50 || pairs.iter().any(too_long) {
                return Err(ApiError::bad_param(
                    &name,
                    "Metadata takes at most 50 keys of 40 characters with values of 500.",
                ));
            }
        }
        Ok(change)
    }

    /// Applies the change.
    pub fn apply(self, metadata: &mut Metadata) {
        match self {
            Self::Keep => {}
            Self::Clear => metadata.clear(),
            Self::Merge(pairs) => {
                for (key, value) in pairs {
                    if value.is_empty() {
                        metadata.remove(&key);
                    } else {
                        metadata.insert(key, value);
                    }
                }
            }
        }
    }

    /// The metadata of a new object.
    #[must_use]
    pub fn initial(self) -> Metadata {
        let mut metadata = Metadata::new();
        self.apply(&mut metadata);
        metadata
    }
}
