//! Reads a tree of values into typed structs by serde, keeping path and origin of what is wrong.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor};

use crate::node::{Entry, Kind, Node, Origin};

/// What serde found wrong. Path and origin are added on the way out.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub(crate) what: What,
    pub(crate) path: Vec<String>,
    pub(crate) origin: Option<Origin>,
}

#[derive(Debug)]
pub(crate) enum What {
    /// In words.
    Message(String),
    /// A value of another type or outside its range.
    Type { found: String, expected: String },
    /// A key that the struct does not have.
    UnknownKey {
        key: String,
        known: &'static [&'static str],
    },
    /// A word that the enum does not have.
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    /// A key that must be there.
    Missing { key: &'static str },
}

impl ReadError {
    fn new(what: What) -> Self {
        Self {
            what,
            path: Vec::new(),
            origin: None,
        }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl std::error::Error for ReadError {}

fn found(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => format!("the number {number}"),
        Unexpected::Str(text) => {
            let cut: String = text.chars().take(60).collect();
            format!("the text `{}`", cut.lines().next().unwrap_or_default())
        }
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

/// What serde expects, in the words of somebody who writes YAML.
fn words(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" | "u64" | "usize" => "a whole number, not negative".to_owned(),
        "f64" => "a number".to_owned(),
        "a string" | "string" => "text".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other if other.starts_with("enum ") || other == "variant identifier" => "a word".to_owned(),
        _ => text,
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Message(message.to_string()))
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(What::Type {
            found: found(unexpected),
            expected: words(expected),
        })
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey {
            key: key.to_owned(),
            known,
        })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord {
            word: word.to_owned(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(What::Missing { key })
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let result = match &self.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Int(value, _) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            Kind::Float(value, _) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_borrowed_str(text),
            Kind::List(items) => visitor.visit_seq(Items { items, index: 0 }),
            Kind::Map(entries) => visitor.visit_map(Entries {
                entries: entries.iter(),
                entry: None,
            }),
            Kind::Marked(_, inner) => inner.deserialize_any(visitor),
        };
        result.map_err(|error| error.at(&self.origin))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.kind {
            Kind::Text(text) => {
                let word: de::value::StrDeserializer<'_, ReadError> =
                    text.as_str().into_deserializer();
                visitor
                    .visit_enum(word)
                    .map_err(|error| error.at(&self.origin))
            }
            other => {
                let found = match other {
                    Kind::Bool(value) => format!("`{value}`"),
                    Kind::Int(_, text) | Kind::Float(_, text) => format!("the number {text}"),
                    Kind::List(_) => "a list".to_owned(),
                    Kind::Map(_) => "a mapping".to_owned(),
                    _ => "nothing".to_owned(),
                };
                let quoted: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
                let expected = format!("one of {}", quoted.join(", "));
                Err(ReadError::new(What::Type { found, expected }).at(&self.origin))
            }
        }
    }

    /// Serde reads a struct from a list as well, field by field; nobody means that in a file.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.kind {
            Kind::List(_) => Err(
                <ReadError as de::Error>::invalid_type(Unexpected::Seq, &visitor).at(&self.origin),
            ),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'de> {
    items: &'de [Node],
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some(item) = self.items.get(self.index) else {
            return Ok(None);
        };
        let key = self.index.to_string();
        self.index += 1;
        seed.deserialize(item)
            .map(Some)
            .map_err(|error| error.at(&item.origin).below(&key))
    }
}

struct Entries<'de> {
    entries: std::slice::Iter<'de, Entry>,
    entry: Option<&'de Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        self.entry = self.entries.next();
        let Some(entry) = self.entry else {
            return Ok(None);
        };
        let key: de::value::StrDeserializer<'_, ReadError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|error| error.at(&entry.origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some(entry) = self.entry.take() else {
            return Err(de::Error::custom("a value was read without its key"));
        };
        seed.deserialize(&entry.value)
            .map_err(|error| error.at(&entry.value.origin).below(&entry.key))
    }
}
