//! Metadata: key-value pairs that users attach to objects.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::params::Params;

pub type Metadata = BTreeMap<String, String>;

const MAX_KEYS: usize = 50;
const MAX_KEY_CHARS: usize = 40;
const MAX_VALUE_CHARS: usize = 500;

fn too_large(param: &str) -> ApiError {
    ApiError::bad_param(
        param,
        format!("You can only specify up to {MAX_KEYS} keys in metadata."),
    )
}

/// How a request changes metadata.
#[derive(Debug, Clone, Default)]
pub enum MetadataChange {
    /// The parameter is absent.
    #[default]
    Keep,
    /// `metadata=`: all keys are removed.
    Clear,
    /// Keys are set, or removed if the value is empty.
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
            if set.count() > MAX_KEYS {
                return Err(too_large(&name));
            }
            if let Some((key, _)) = pairs
                .iter()
                .find(|(key, _)| key.chars().count() > MAX_KEY_CHARS)
            {
                return Err(ApiError::bad_param(
                    &name,
                    format!("Metadata keys can be at most {MAX_KEY_CHARS} characters long: {key}"),
                ));
            }
            if let Some((key, _)) = pairs
                .iter()
                .find(|(_, value)| value.chars().count() > MAX_VALUE_CHARS)
            {
                return Err(ApiError::bad_param(
                    &format!("{name}[{key}]"),
                    format!(
                        "Metadata values can have up to {MAX_VALUE_CHARS} characters, but you passed in a longer one for the key {key}."
                    ),
                ));
            }
        }
        Ok(change)
    }

    /// Refuses a change that would exceed the maximum number of keys.
    pub fn check_room(&self, metadata: &Metadata, param: &str) -> Result<(), ApiError> {
        let mut after = metadata.clone();
        self.clone().apply(&mut after);
        if after.len() > MAX_KEYS {
            return Err(too_large(param));
        }
        Ok(())
    }

    /// The keys that are set or, with an empty value, removed.
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        match self {
            Self::Merge(pairs) => pairs.clone(),
            Self::Keep | Self::Clear => Vec::new(),
        }
    }

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
