//! YAML as a tree in which each value knows where it is written, so that whatever turns out to be
//! wrong with one can be told with its place.
//!
//! What a text may cost is bounded while it is parsed: its depth, its size, and how often aliases
//! are expanded. JSON is YAML, so it needs nothing of its own. What is read of a tree,
//! [`Node::read`] reads with one deserializer that is generic over nothing: a parser that is
//! compiled into each field of each object would be a tenth of the program.

mod read;

use std::fmt;

use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Error, Location, Spanned, UserMessageFormatter};
use zeroize::Zeroizing;

/// A line and a column of a text, both from 1.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// A value and where it begins.
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// A value by the core schema of YAML 1.2 §10.3. Text may be secret, so it is zeroized, and
/// nothing here is ever printed.
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A number without a fraction that is less than zero.
    Negative(i64),
    /// A number without a fraction.
    Natural(u64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(Zeroizing<String>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order in which it is written; no key is there twice.
    Mapping(Vec<(Key, Node)>),
}

/// The name of a field, and where it begins.
pub struct Key {
    /// Where it begins.
    pub place: Place,
    /// The name.
    pub name: String,
}

/// What is wrong with a text, and where. Shows no value but those that our own types quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct YamlError {
    /// Where; `None` where only the text as a whole is to blame.
    pub place: Option<Place>,
    /// The fields that lead there, such as `spec.policy[0].dnsNames[1]`; empty for the top.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Node {
    /// Parses one document.
    ///
    /// # Errors
    ///
    /// When it is not YAML, or costs more than any configuration does.
    pub fn parse(document: &str) -> Result<Self, YamlError> {
        // The largest manifests that people apply need less: a text with more is meant to do harm.
        let options = serde_saphyr::options! {
            alias_limits: serde_saphyr::alias_limits! {
                max_total_replayed_events: 10_000,
                max_replay_stack_depth: 8,
            },
            budget: serde_saphyr::budget! {
                max_aliases: 100,
                max_anchors: 100,
                max_depth: 48,
                max_documents: 2,
                max_nodes: 250_000,
                max_recorded_anchor_events: 10_000,
            },
            strict_booleans: true,
            with_snippet: false,
        };
        serde_saphyr::from_str_with_options(document, options).map_err(|error| YamlError {
            place: error.location().filter(|at| at.line() > 0).map(Place::from),
            path: String::new(),
            message: message(error.without_snippet()),
        })
    }

    /// The value of the field `name`, if this is a mapping with such a field.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.fields().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// The fields of a mapping; none of anything else.
    pub fn fields(&self) -> impl Iterator<Item = &(Key, Self)> {
        match &self.value {
            Value::Mapping(fields) => fields.as_slice(),
            _ => &[],
        }
        .iter()
    }

    /// The items of a list; none of anything else.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// The text, if this is text.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Splits `text` as kubectl does, at lines that begin with the document marker: inside of a
/// document no line can (YAML 1.2 §9.1.2). Answers each document that has any content, with the
/// number of lines before it and the line in it, from 1, at which its content begins.
pub fn documents(text: &str) -> impl Iterator<Item = (u64, u64, &str)> {
    split(text).filter_map(|(lines_before, document)| {
        first_line(document).map(|first_line| (lines_before, first_line, document))
    })
}

fn split(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let is_marker = |line: &str| {
        let after = line.strip_prefix("---");
        after.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
    };
    let mut rest = text;
    let mut lines_before = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut length, mut lines) = (0, 0);
        for line in rest.split_inclusive('\n') {
            if lines > 0 && is_marker(line) {
                break;
            }
            length += line.len();
            lines += 1;
        }
        let (document, after) = rest.split_at(length);
        rest = after;
        lines_before += lines;
        Some((lines_before - lines, document))
    })
}

/// The line at which the document's content begins; `None` for nothing but comments.
fn first_line(document: &str) -> Option<u64> {
    let position = document.lines().position(|line| {
        let content = line.strip_prefix("---").unwrap_or(line).trim();
        !content.is_empty() && !content.starts_with('#') && content != "..."
    })?;
    Some(position as u64 + 1)
}

/// What is wrong with the syntax.
fn message(error: &Error) -> String {
    match error {
        Error::NonFiniteFloat { .. } => "this is not a number".to_owned(),
        error => {
            let message = error.render_with_formatter(&UserMessageFormatter);
            match error.location() {
                Some(at) => {
                    let place = format!(" at line {}, column {}", at.line(), at.column());
                    message.strip_suffix(&place).unwrap_or(&message).to_owned()
                }
                None => message,
            }
        }
    }
}

impl From<Location> for Place {
    fn from(at: Location) -> Self {
        Self { line: at.line(), column: at.column() }
    }
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for YamlError {}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { place: referenced.into(), value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.try_into().map_or(Value::Negative(value), Value::Natural))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Natural(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(Spanned { value: name, referenced, .. }) = mapping.next_key()? {
            fields.push((Key { place: referenced.into(), name }, mapping.next_value()?));
        }
        Ok(Value::Mapping(fields))
    }
}
