//! Reading a tree as a type.

use std::fmt;
use std::slice;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer as _,
    MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{Key, Node, Place, Value, YamlError};
use crate::spec::values::quoted;

impl Node {
    /// Reads the value as a `T`.
    ///
    /// # Errors
    ///
    /// When it is none, with the place and the fields that lead there.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        T::deserialize(self).map_err(|error| error.at(self.place))
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = YamlError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Negative(value) => visitor.visit_i64(*value),
            Value::Natural(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Mapping(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::List(_) | Value::Mapping(_) => Err(de::Error::custom("this must be text")),
            // What YAML takes for something else may be written differently from what is meant.
            _ => Err(de::Error::custom("this must be text: put it in quotes")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        self.deserialize_str(visitor)
    }

    // As in Kubernetes, a list or a mapping that is left out after its name is an empty one.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        match &self.value {
            Value::List(_) | Value::Null => {
                visitor.visit_seq(Items { items: self.items().iter(), index: 0 })
            }
            _ => Err(de::Error::custom("this must be a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        let fields = match &self.value {
            Value::Mapping(fields) => fields.as_slice(),
            Value::Null => &[],
            _ => return Err(YamlError::new("this must be a mapping of names to values")),
        };
        visitor.visit_map(Fields { fields: fields.iter(), current: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlError> {
        match self.text() {
            Some(text) => visitor.visit_enum(deserializer(text)),
            None => Err(YamlError::new(one_of(variants))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, YamlError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        tuple tuple_struct identifier
    }
}

fn deserializer(text: &str) -> StrDeserializer<'_, YamlError> {
    text.into_deserializer()
}

/// What is left of a list.
struct Items<'de> {
    items: slice::Iter<'de, Node>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = YamlError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, YamlError> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        let read = seed.deserialize(item);
        read.map(Some).map_err(|error| error.at(item.place).below(&format!("[{index}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// What is left of a mapping.
struct Fields<'de> {
    fields: slice::Iter<'de, (Key, Node)>,
    current: Option<&'de (Key, Node)>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = YamlError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, YamlError> {
        self.current = self.fields.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let read = seed.deserialize(deserializer(&key.name));
        read.map(Some).map_err(|error| error.at(key.place).below(&key.name))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, YamlError> {
        let (key, value) = self.current.expect("a value is asked for after its key");
        seed.deserialize(value).map_err(|error| error.at(value.place).below(&key.name))
    }
}

impl YamlError {
    #[cold]
    fn new(message: impl Into<String>) -> Self {
        Self { place: None, path: String::new(), message: message.into() }
    }

    /// The innermost place is where to look.
    #[cold]
    #[inline(never)]
    fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    #[cold]
    #[inline(never)]
    fn below(mut self, field: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }
}

/// None of them shows what is there instead.
impl de::Error for YamlError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("this must be {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("this must be {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(one_of(expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(match nearest(field, expected) {
            Some(near) => format!("unknown field {}, did you mean {near}?", quoted(field)),
            None => format!("unknown field {}; known are {}", quoted(field), expected.join(", ")),
        })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("the field {field} is missing"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("the field {field} is there twice"))
    }
}

fn one_of(variants: &[&str]) -> String {
    format!("this must be one of {}", variants.join(", "))
}

/// The known name that `name` was most likely meant to be.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |known: &str| strsim::osa_distance(&known.to_lowercase(), &name.to_lowercase());
    let (distance, near) = known.iter().map(|known| (distance(known), *known)).min()?;
    (distance <= near.len() / 3).then_some(near)
}
