//! Reads fields of a JSON object, with errors that name the field.

use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use crate::stripe::event::MAX_ID_BYTES;

/// The beginning of the year 1.
const EARLIEST: Timestamp = Timestamp::constant(-62_135_596_800, 0);

/// A field that does not match Stripe's API. Retrying does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("data.object.{path} {problem}")]
pub struct ShapeError {
    path: String,
    problem: String,
}

/// A JSON value with its path. An absent one reads as an empty object.
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

    /// The object under `name`; empty if absent, null or a bare id.
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

    /// The members of an array, each an object or a bare id.
    pub fn entries(
        &self,
        name: &str,
    ) -> Result<impl Iterator<Item = Fields<'a>> + use<'a>, ShapeError> {
        let members = self.array(name)?;
        Ok(members.filter(|member| !member.value.is_null()))
    }

    /// The member itself, whatever it is.
    pub fn member(&self, name: &str) -> Fields<'a> {
        Fields {
            path: self.path_of(name),
            value: self.get(name),
        }
    }

    /// The id that this value is.
    pub fn as_id(&self) -> Result<String, ShapeError> {
        let problem = |problem: String| ShapeError {
            path: self.path.clone(),
            problem,
        };
        match self.value {
            Value::String(id) if id.len() > MAX_ID_BYTES => {
                Err(problem(format!("is longer than {MAX_ID_BYTES} bytes")))
            }
            Value::String(id) => Ok(id.clone()),
            _ => Err(problem("is neither an id nor an object".to_owned())),
        }
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

    /// The object's own id.
    pub fn own_id(&self) -> Result<String, ShapeError> {
        let id = self.text("id")?;
        self.fits("id", Some(&id)).map(|()| id)
    }

    /// An id, bare or in the expanded object.
    pub fn id(&self, name: &str) -> Result<Option<String>, ShapeError> {
        let id = match self.get(name) {
            Value::Object(_) => self.within(name)?.maybe_text("id"),
            _ => self.maybe_text(name),
        }?;
        self.fits(name, id.as_deref()).map(|()| id)
    }

    /// Ids are indexed, and an index row cannot hold a long text.
    fn fits(&self, name: &str, id: Option<&str>) -> Result<(), ShapeError> {
        if id.is_some_and(|id| id.len() > MAX_ID_BYTES) {
            return Err(self.error(name, format!("is longer than {MAX_ID_BYTES} bytes")));
        }
        Ok(())
    }

    pub fn integer(&self, name: &str) -> Result<i64, ShapeError> {
        self.maybe_integer(name)?.ok_or_else(|| self.missing(name))
    }

    /// A relay may rewrite a whole number with a decimal point.
    pub fn maybe_integer(&self, name: &str) -> Result<Option<i64>, ShapeError> {
        match self.get(name) {
            Value::Null => Ok(None),
            value => integer(value)
                .map(Some)
                .ok_or_else(|| self.unfit(name, value, "an integer of 64 bits")),
        }
    }

    /// A count. One with a fraction reads as absent, since another field has it
    /// exactly.
    pub fn quantity(&self, name: &str) -> Result<Option<i64>, ShapeError> {
        match self.get(name) {
            Value::Number(number) if number.is_f64() => Ok(integer(self.get(name))),
            _ => self.maybe_integer(name),
        }
    }

    pub fn small<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>, ShapeError> {
        self.maybe_integer(name)?
            .map(|number| T::try_from(number).map_err(|_| self.too_large(name)))
            .transpose()
    }

    /// Stripe writes decimals as text: digits with at most one point. A JSON number
    /// is accepted if it was read exactly.
    pub fn decimal(&self, name: &str) -> Result<Option<String>, ShapeError> {
        let text = match self.get(name) {
            Value::Number(number) if is_exact(number) => Some(number.to_string()),
            _ => self.maybe_text(name)?,
        };
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

    /// Unix seconds of the years 1 to 9999, the range that periods can have in the
    /// database.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, ShapeError> {
        let read = |seconds| Timestamp::from_second(seconds).ok();
        self.maybe_integer(name)?
            .map(|seconds| {
                let at = read(seconds).filter(|at| *at >= EARLIEST);
                at.ok_or_else(|| self.too_large(name))
            })
            .transpose()
    }

    /// The raw object.
    pub fn object(&self, name: &str) -> Result<Option<Value>, ShapeError> {
        let within = self.within(name)?;
        Ok(within.is_present().then(|| within.value.clone()))
    }

    pub fn map(&self, name: &str) -> Result<Map<String, Value>, ShapeError> {
        match self.get(name) {
            Value::Object(map) => Ok(map.clone()),
            Value::Null => Ok(Map::new()),
            other => Err(self.unfit(name, other, "an object")),
        }
    }

    pub fn is(&self, name: &str, text: &str) -> bool {
        self.get(name).as_str() == Some(text)
    }

    /// Whether the member is present and not null.
    pub fn has(&self, name: &str) -> bool {
        !self.get(name).is_null()
    }

    /// Whether the member is a number, or the text of one, other than zero.
    pub fn has_nonzero(&self, name: &str) -> bool {
        let digits = match self.get(name) {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return false,
        };
        digits.bytes().any(|digit| matches!(digit, b'1'..=b'9'))
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

/// The customer of an object. Since 2025-09-30, it can be an account.
pub fn customer(o: &Fields<'_>) -> Result<Option<String>, ShapeError> {
    match o.id("customer")? {
        Some(id) => Ok(Some(id)),
        None => o.id("customer_account"),
    }
}

/// The collection method. Versions before 2019-10-17 call it `billing`.
pub fn collection_method(o: &Fields<'_>) -> Result<Option<String>, ShapeError> {
    match o.maybe_text("collection_method")? {
        Some(method) => Ok(Some(method)),
        None => o.maybe_text("billing"),
    }
}

/// A whole number, written with or without a decimal point.
fn integer(value: &Value) -> Option<i64> {
    let Value::Number(number) = value else {
        return None;
    };
    let text = number.to_string();
    let whole = match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole,
        Some(_) => return None,
        None => &text,
    };
    whole.parse().ok()
}

/// The number of digits that a binary floating-point number always keeps.
const EXACT_DIGITS: usize = 15;

/// Whether the number is exactly the one that was written: serde_json reads
/// numbers with a decimal point as binary floating-point.
fn is_exact(number: &Number) -> bool {
    let text = number.to_string();
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    !number.is_f64() || (digits <= EXACT_DIGITS && !text.contains('e'))
}
