//! Reading fields of a JSON object, with errors that name the field.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A field that is not what Stripe's API says it is. No retry heals it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data.object.{path} {problem}")]
pub struct ShapeError {
    path: String,
    problem: String,
}

/// A JSON value and where it stands. An absent one reads as an empty object.
#[derive(Clone)]
pub struct Fields<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Fields<'a> {
    pub fn root(value: &'a Value) -> Self {
        Self {
            path: String::new(),
            value,
        }
    }

    pub fn is_present(&self) -> bool {
        self.value.is_object()
    }

    /// The object under `name`; an absent one, null or a bare id is empty.
    pub fn within(&self, name: &str) -> Result<Fields<'a>, ShapeError> {
        match self.get(name) {
            value @ (Value::Object(_) | Value::Null | Value::String(_)) => Ok(Fields {
                path: self.path_of(name),
                value,
            }),
            other => Err(self.unfit(name, other, "an object")),
        }
    }

    /// The members of Stripe's list object under `name`.
    pub fn list(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = Fields<'a>> + use<'a>, ShapeError> {
        self.within(name)?.array("data")
    }

    pub fn array(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = Fields<'a>> + use<'a>, ShapeError> {
        let members: &[Value] = match self.get(name) {
            Value::Array(members) => members,
            Value::Null => &[],
            other => return Err(self.unfit(name, other, "an array")),
        };
        let path = self.path_of(name);
        Ok(members.iter().enumerate().map(move |(i, value)| Fields {
            path: format!("{path}[{i}]"),
            value,
        }))
    }

    pub fn text(&self, name: &str) -> Result<String, ShapeError> {
        self.maybe_text(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn maybe_text(&self, name: &str) -> Result<Option<String>, ShapeError> {
        match self.get(name) {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Null => Ok(None),
            other => Err(self.unfit(name, other, "a text")),
        }
    }

    /// An id, bare or in the expanded object.
    pub fn id(&self, name: &str) -> Result<Option<String>, ShapeError> {
        match self.get(name) {
            Value::Object(_) => self.within(name)?.maybe_text("id"),
            _ => self.maybe_text(name),
        }
    }

    pub fn integer(&self, name: &str) -> Result<i64, ShapeError> {
        self.maybe_integer(name)?.ok_or_else(|| self.missing(name))
    }

    pub fn maybe_integer(&self, name: &str) -> Result<Option<i64>, ShapeError> {
        match self.get(name) {
            Value::Null => Ok(None),
            value => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| self.unfit(name, value, "an integer of 64 bits")),
        }
    }

    pub fn small<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>, ShapeError> {
        self.maybe_integer(name)?
            .map(|number| T::try_from(number).map_err(|_| self.too_large(name)))
            .transpose()
    }

    /// Stripe writes decimals as texts: digits, with at most one point.
    pub fn decimal(&self, name: &str) -> Result<Option<String>, ShapeError> {
        let text = self.maybe_text(name)?;
        if let Some(text) = &text {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let plain = digits.len() <= 40
                && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
                && digits.bytes().filter(|b| *b == b'.').count() <= 1
                && digits.bytes().any(|b| b.is_ascii_digit());
            if !plain {
                return Err(self.unfit(name, self.get(name), "a decimal number"));
            }
        }
        Ok(text)
    }

    pub fn flag(&self, name: &str) -> Result<bool, ShapeError> {
        match self.get(name) {
            Value::Bool(flag) => Ok(*flag),
            Value::Null => Ok(false),
            other => Err(self.unfit(name, other, "true or false")),
        }
    }

    /// Unix seconds.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, ShapeError> {
        self.maybe_integer(name)?
            .map(|seconds| Timestamp::from_second(seconds).map_err(|_| self.too_large(name)))
            .transpose()
    }

    pub fn map(&self, name: &str) -> Result<Map<String, Value>, ShapeError> {
        match self.get(name) {
            Value::Object(map) => Ok(map.clone()),
            Value::Null => Ok(Map::new()),
            other => Err(self.unfit(name, other, "an object")),
        }
    }

    pub fn missing(&self, name: &str) -> ShapeError {
        self.error(name, "is missing".to_owned())
    }

    pub fn too_large(&self, name: &str) -> ShapeError {
        self.error(name, "is out of range".to_owned())
    }

    fn unfit(&self, name: &str, value: &Value, wanted: &str) -> ShapeError {
        let mut shown = value.to_string();
        if shown.len() > 40 {
            shown = format!("{}…", shown.chars().take(40).collect::<String>());
        }
        self.error(name, format!("is {shown}, not {wanted}"))
    }

    fn error(&self, name: &str, problem: String) -> ShapeError {
        ShapeError {
            path: self.path_of(name),
            problem,
        }
    }

    fn get(&self, name: &str) -> &'a Value {
        self.value.get(name).unwrap_or(&Value::Null)
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}
