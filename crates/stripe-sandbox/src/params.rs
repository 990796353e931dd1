//! Form-encoded parameters with nested names, as Stripe parses them.
//!
//! An action takes the parameters it knows and then calls [`Params::finish`],
//! which refuses the rest. No parameter is silently ignored.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::list::RangeFilter;

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Map(BTreeMap<ParamKey, Node>),
}

/// Numeric keys sort as numbers, so that `items[10]` follows `items[9]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ParamKey {
    Index(u32),
    Name(String),
}

impl ParamKey {
    fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(index) if !text.starts_with('+') => Self::Index(index),
            _ => Self::Name(text.to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Index(index) => index.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

/// Stripe's maximum length for texts without a limit of their own.
const MAX_TEXT_CHARS: usize = 5_000;

/// The entries of a flat hash.
pub type Pairs = Vec<(String, String)>;

/// The parameters at one level of nesting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params {
    path: String,
    nodes: BTreeMap<ParamKey, Node>,
}

impl Params {
    /// Parses form-encoded strings, typically the query and the body.
    pub fn parse(sources: &[&[u8]]) -> Result<Self, ApiError> {
        let mut nodes = BTreeMap::new();
        for source in sources {
            for (name, value) in form_urlencoded::parse(source) {
                insert(&mut nodes, &split(&name)?, value.into_owned())
                    .ok_or_else(|| ApiError::invalid(format!("Invalid parameter name: {name}")))?;
            }
        }
        Ok(Self {
            path: String::new(),
            nodes,
        })
    }

    /// A canonical representation, to compare requests by.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:?}", self.nodes)
    }

    /// The full name of a parameter at this level, such as `items[0][price]`.
    #[must_use]
    pub fn name(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}[{key}]", self.path)
        }
    }

    /// Whether a parameter is present. It is not taken.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.nodes.contains_key(&ParamKey::parse(key))
    }

    fn take(&mut self, key: &str) -> Option<Node> {
        self.nodes.remove(&ParamKey::parse(key))
    }

    /// Takes a text that may be cleared; `Some(None)` means an empty value.
    pub fn clearable(&mut self, key: &str) -> Result<Option<Option<String>>, ApiError> {
        self.clearable_up_to(key, MAX_TEXT_CHARS)
    }

    /// Like [`Params::clearable`], with a maximum length.
    pub fn clearable_up_to(
        &mut self,
        key: &str,
        max_chars: usize,
    ) -> Result<Option<Option<String>>, ApiError> {
        match self.take(key) {
            None => Ok(None),
            Some(Node::Text(text)) if text.is_empty() => Ok(Some(None)),
            Some(Node::Text(text)) if text.chars().count() > max_chars => {
                let start: String = text.chars().take(20).collect();
                Err(ApiError::bad_param(
                    &self.name(key),
                    format!("Invalid string: {start}…; must be at most {max_chars} characters"),
                ))
            }
            Some(Node::Text(text)) => Ok(Some(Some(text))),
            Some(Node::Map(_)) => {
                let name = self.name(key);
                Err(ApiError::bad_param(
                    &name,
                    format!("Invalid string: {name}"),
                ))
            }
        }
    }

    /// Takes a text, which must not be empty.
    pub fn text(&mut self, key: &str) -> Result<Option<String>, ApiError> {
        self.text_up_to(key, MAX_TEXT_CHARS)
    }

    /// Like [`Params::text`], with a maximum length.
    pub fn text_up_to(&mut self, key: &str, max_chars: usize) -> Result<Option<String>, ApiError> {
        match self.clearable_up_to(key, max_chars)? {
            Some(None) => {
                let name = self.name(key);
                Err(ApiError::bad_param(
                    &name,
                    format!("You passed an empty string for '{name}'. We assume empty values are an attempt to unset a parameter; however '{name}' cannot be unset."),
                )
                .code("parameter_invalid_empty"))
            }
            other => Ok(other.flatten()),
        }
    }

    /// Takes a required text.
    pub fn required(&mut self, key: &str) -> Result<String, ApiError> {
        self.text(key)?
            .ok_or_else(|| ApiError::missing_param(&self.name(key)))
    }

    /// Takes an integer.
    pub fn integer(&mut self, key: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            ApiError::bad_param(&self.name(key), format!("Invalid integer: {text}"))
                .code("parameter_invalid_integer")
        })
    }

    /// Takes a non-negative integer.
    pub fn count(&mut self, key: &str) -> Result<Option<u64>, ApiError> {
        let name = self.name(key);
        self.integer(key)?
            .map(|value| {
                u64::try_from(value).map_err(|_| {
                    ApiError::bad_param(&name, "This value must be greater than or equal to 0.")
                        .code("parameter_invalid_integer")
                })
            })
            .transpose()
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, key: &str) -> Result<Option<bool>, ApiError> {
        match self.text(key)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::bad_param(
                &self.name(key),
                format!("Invalid boolean: {other}"),
            )),
        }
    }

    /// Takes one of the given words.
    pub fn choice(
        &mut self,
        key: &str,
        words: &[&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        words
            .iter()
            .find(|word| **word == text)
            .map(|word| Some(*word))
            .ok_or_else(|| {
                let name = self.name(key);
                ApiError::bad_param(
                    &name,
                    format!("Invalid {name}: must be one of {}", words.join(", ")),
                )
            })
    }

    /// Takes a nested hash.
    pub fn map(&mut self, key: &str) -> Result<Option<Self>, ApiError> {
        let path = self.name(key);
        match self.take(key) {
            None => Ok(None),
            Some(Node::Map(nodes)) => Ok(Some(Self { path, nodes })),
            Some(Node::Text(_)) => Err(ApiError::bad_param(&path, "Invalid object")),
        }
    }

    /// Takes a list of hashes. An empty text is an empty list.
    pub fn list(&mut self, key: &str) -> Result<Option<Vec<Self>>, ApiError> {
        let path = self.name(key);
        let nodes = match self.take(key) {
            None => return Ok(None),
            Some(Node::Text(text)) if text.is_empty() => return Ok(Some(Vec::new())),
            Some(Node::Text(_)) => return Err(ApiError::bad_param(&path, "Invalid array")),
            Some(Node::Map(nodes)) => nodes,
        };
        nodes
            .into_iter()
            .map(|(index, node)| match (index, node) {
                (ParamKey::Index(index), Node::Map(nodes)) => Ok(Self {
                    path: format!("{path}[{index}]"),
                    nodes,
                }),
                _ => Err(ApiError::bad_param(&path, "Invalid array")),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Takes a list of texts. An empty text is an empty list; any other text
    /// and a hash are errors.
    pub fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, ApiError> {
        let path = self.name(key);
        let nodes = match self.take(key) {
            None => return Ok(None),
            Some(Node::Text(text)) if text.is_empty() => return Ok(Some(Vec::new())),
            Some(Node::Text(_)) => return Err(ApiError::bad_param(&path, "Invalid array")),
            Some(Node::Map(nodes)) => nodes,
        };
        nodes
            .into_iter()
            .map(|(index, node)| match (index, node) {
                (ParamKey::Index(_), Node::Text(text)) => Ok(text),
                (ParamKey::Index(index), Node::Map(_)) => {
                    let element = format!("{path}[{index}]");
                    Err(ApiError::bad_param(
                        &element,
                        format!("Invalid string: {element}"),
                    ))
                }
                (ParamKey::Name(_), _) => Err(ApiError::bad_param(&path, "Invalid array")),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Takes a flat hash of texts, such as `metadata`. An empty value unsets a
    /// key; `Some(None)` means an empty hash (`metadata=`), which unsets all.
    pub fn pairs(&mut self, key: &str) -> Result<Option<Option<Pairs>>, ApiError> {
        let path = self.name(key);
        match self.take(key) {
            None => Ok(None),
            Some(Node::Text(text)) if text.is_empty() => Ok(Some(None)),
            Some(Node::Text(_)) => Err(ApiError::bad_param(&path, "Invalid object")),
            Some(Node::Map(nodes)) => nodes
                .into_iter()
                .map(|(name, node)| match node {
                    Node::Text(text) => Ok((name.text(), text)),
                    Node::Map(_) => Err(ApiError::bad_param(
                        &path,
                        "Metadata values must be strings",
                    )),
                })
                .collect::<Result<_, _>>()
                .map(|pairs| Some(Some(pairs))),
        }
    }

    /// Takes a range filter: a single value, or bounds.
    pub fn range(&mut self, key: &str) -> Result<RangeFilter, ApiError> {
        if matches!(self.nodes.get(&ParamKey::parse(key)), Some(Node::Text(_))) {
            let exact = self.integer(key)?;
            return Ok(RangeFilter {
                gte: exact,
                lte: exact,
                ..RangeFilter::default()
            });
        }
        let Some(mut bounds) = self.map(key)? else {
            return Ok(RangeFilter::default());
        };
        let range = RangeFilter {
            gt: bounds.integer("gt")?,
            gte: bounds.integer("gte")?,
            lt: bounds.integer("lt")?,
            lte: bounds.integer("lte")?,
        };
        bounds.finish()?;
        Ok(range)
    }

    /// Refuses parameters that were not taken.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.nodes.keys().next() {
            None => Ok(()),
            Some(key) => Err(ApiError::unknown_param(&self.name(&key.text()))),
        }
    }

    /// Refuses parameters that were not taken, and distinguishes those that
    /// Stripe supports from those that are unknown.
    pub fn finish_rejecting(self, unsupported: &[&str]) -> Result<(), ApiError> {
        match unsupported.iter().find(|name| self.has(name)) {
            Some(name) => Err(ApiError::unsupported(
                &self.name(name),
                &format!("the parameter `{}`", self.name(name)),
            )),
            None => self.finish(),
        }
    }

    /// Moves a parameter under another name, for older spellings.
    pub fn rename(&mut self, from: &str, into: &mut Self, to: &str) {
        if let Some(node) = self.take(from) {
            into.nodes.insert(ParamKey::parse(to), node);
        }
    }

    /// An empty level with this path, to be filled by [`Params::rename`].
    #[must_use]
    pub fn empty(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            nodes: BTreeMap::new(),
        }
    }

    /// Adds a level as the only element of a list.
    pub fn put_list(&mut self, key: &str, element: Self) {
        let list = BTreeMap::from([(ParamKey::Index(0), Node::Map(element.nodes))]);
        self.nodes.insert(ParamKey::parse(key), Node::Map(list));
    }

    /// Adds a level as a hash.
    pub fn put_map(&mut self, key: &str, level: Self) {
        self.nodes
            .insert(ParamKey::parse(key), Node::Map(level.nodes));
    }

    /// Whether every parameter was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Adds a text parameter.
    pub fn put(&mut self, key: &str, value: &str) {
        self.nodes
            .insert(ParamKey::parse(key), Node::Text(value.to_owned()));
    }
}

/// Splits `items[0][price]` into `items`, `0` and `price`; `[]` becomes an
/// empty part.
fn split(name: &str) -> Result<Vec<String>, ApiError> {
    let malformed = || ApiError::invalid(format!("Invalid parameter name: {name}"));
    let (head, mut rest) = match name.find('[') {
        None => return Ok(vec![name.to_owned()]),
        Some(at) => name.split_at(at),
    };
    if head.is_empty() {
        return Err(malformed());
    }
    let mut parts = vec![head.to_owned()];
    while !rest.is_empty() {
        let inner = rest.strip_prefix('[').ok_or_else(malformed)?;
        let (part, tail) = inner.split_once(']').ok_or_else(malformed)?;
        parts.push(part.to_owned());
        rest = tail;
        if parts.len() > 12 {
            return Err(malformed());
        }
    }
    Ok(parts)
}

fn insert(nodes: &mut BTreeMap<ParamKey, Node>, parts: &[String], value: String) -> Option<()> {
    let (part, rest) = parts.split_first()?;
    let key = if part.is_empty() {
        next_index(nodes, rest)?
    } else {
        ParamKey::parse(part)
    };
    if rest.is_empty() {
        nodes.insert(key, Node::Text(value));
        return Some(());
    }
    match nodes
        .entry(key)
        .or_insert_with(|| Node::Map(BTreeMap::new()))
    {
        Node::Map(inner) => insert(inner, rest, value),
        Node::Text(_) => None,
    }
}

/// The index of `items[][price]`: a new element, unless the last one has no
/// such key yet.
fn next_index(nodes: &BTreeMap<ParamKey, Node>, rest: &[String]) -> Option<ParamKey> {
    let last = nodes.last_key_value();
    match (last, rest.first()) {
        (Some((key, Node::Map(inner))), Some(name))
            if !inner.contains_key(&ParamKey::parse(name)) =>
        {
            Some(key.clone())
        }
        (Some((ParamKey::Index(index), _)), _) => Some(ParamKey::Index(index.checked_add(1)?)),
        (None, _) => Some(ParamKey::Index(0)),
        (Some((ParamKey::Name(_), _)), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_names_indexes_and_empty_brackets_are_read() {
        let mut params = Params::parse(&[
            b"items[0][price]=a&items[10][price]=c&items[9][price]=b&expand[]=x&expand[]=y",
        ])
        .expect("well-formed");
        let mut items = params.list("items").expect("a list").expect("present");
        let prices: Vec<_> = items
            .iter_mut()
            .map(|item| item.required("price").expect("price"))
            .collect();
        assert_eq!(prices, ["a", "b", "c"]);
        assert_eq!(items[1].name("price"), "items[9][price]");
        assert_eq!(
            params.texts("expand").expect("texts"),
            Some(vec!["x".to_owned(), "y".to_owned()])
        );
        assert_eq!(params.finish(), Ok(()));
    }

    #[test]
    fn a_repeated_name_opens_the_next_element() {
        let mut params = Params::parse(&[b"items[][price]=a&items[][quantity]=2&items[][price]=b"])
            .expect("well-formed");
        assert_eq!(
            params
                .list("items")
                .expect("a list")
                .expect("present")
                .len(),
            2
        );
    }

    #[test]
    fn parameters_that_were_not_taken_are_refused_by_name() {
        let params = Params::parse(&[b"colour=red"]).expect("well-formed");
        let error = params.finish().expect_err("unknown");
        assert_eq!(error.param.as_deref(), Some("colour"));
        assert_eq!(error.code, Some("parameter_unknown"));
    }
}
