//! The variables of a template: JSON whose keys keep their order.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value given to a template; any JSON can be read as one.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// JSON's null.
    None,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Input>),
    /// An object, its keys in their order.
    Dict(Vec<(String, Input)>),
}

impl Input {
    /// A text.
    pub fn text(text: impl Into<String>) -> Input {
        Input::Text(text.into())
    }

    /// Bytes of text in it, and a few for each item: what limits are in proportion to.
    pub(crate) fn size(&self) -> usize {
        let inner = match self {
            Input::Text(text) => text.len(),
            Input::List(items) => items.iter().map(Input::size).sum(),
            Input::Dict(entries) => {
                entries.iter().map(|(key, value)| key.len() + value.size()).sum()
            }
            _ => 0,
        };
        inner + 8
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = Input;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Input, E> {
        Ok(Input::None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Input, E> {
        Ok(Input::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Input, E> {
        Ok(Input::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Input, E> {
        Ok(i64::try_from(value).map_or(Input::Float(value as f64), Input::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Input, E> {
        Ok(Input::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Input, E> {
        Ok(Input::text(text))
    }

    fn visit_string<E>(self, text: String) -> Result<Input, E> {
        Ok(Input::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Input, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Input::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Input, A::Error> {
        let mut dict = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            dict.push(entry);
        }
        Ok(Input::Dict(dict))
    }
}
