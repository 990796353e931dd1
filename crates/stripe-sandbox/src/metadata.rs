//! Metadata: texts that users attach to objects.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::params::Params;

/// Keys and values.
pub type Metadata = BTreeMap<String, String>;

const MOST_KEYS: usize = 50;

fn too_large(param: &str) -> ApiError {
    ApiError::bad_param(
        param,
        format!("You can only specify up to {MOST_KEYS} keys in metadata."),
    )
}

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
            let set = pairs.iter().filter(|(_, value)| !value.is_empty());
            if set.count() > MOST_KEYS {
                return Err(too_large(&name));
            }
            if let Some((key, _)) = pairs.iter().find(|(key, _)| key.chars().count() > 40) {
                return Err(ApiError::bad_param(
                    &name,
                    format!("Metadata keys can be at most 40 characters long: {key}"),
                ));
            }
            if let Some((key, _)) = pairs.iter().find(|(_, value)| value.chars().count() > 500) {
                return Err(ApiError::bad_param(
                    &format!("{name}[{key}]"),
                    format!(
                        "Metadata values can have up to 500 characters, but you passed in a longer one for the key {key}."
                    ),
                ));
            }
        }
        Ok(change)
    }

    /// Refuses a change after which there would be more than fifty keys.
    pub fn check_room(&self, metadata: &Metadata, param: &str) -> Result<(), ApiError> {
        let mut after = metadata.clone();
        self.clone().apply(&mut after);
        if after.len() > MOST_KEYS {
            return Err(too_large(param));
        }
        Ok(())
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
