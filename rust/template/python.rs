//! Values as Python writes them: `str` and `repr` of numbers, and whole numbers of any size.

use minijinja::value::{Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use std::fmt;
use std::sync::Arc;

/// Maximum length of a template's output in bytes.
pub const MAX_OUTPUT: usize = 16 << 20;
/// Maximum depth of nested values.
pub const MAX_DEPTH: usize = 200;
/// The key of an object that stands for a whole number beyond 64 bits.
const INTEGER: &str = "\0integer";

pub fn wrong(text: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

/// A whole number beyond 128 bits: it is only written, never computed with.
#[derive(Debug)]
pub struct Integer(String);

impl Object for Integer {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// JSON as the variables of a template.
pub struct Variables<'a>(pub &'a serde_json::Value);

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            serde_json::Value::Array(items) => {
                let mut out = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    out.serialize_element(&Variables(item))?;
                }
                out.end()
            }
            serde_json::Value::Object(items) => {
                if let Some(digits) = digits(items) {
                    return match digits.parse::<i128>() {
                        Ok(value) => serializer.serialize_i128(value),
                        Err(_) => Value::from_object(Integer(digits.to_owned())).serialize(serializer),
                    };
                }
                let mut out = serializer.serialize_map(Some(items.len()))?;
                for (key, item) in items {
                    out.serialize_entry(key, &Variables(item))?;
                }
                out.end()
            }
            other => other.serialize(serializer),
        }
    }
}

/// The digits of an object that stands for a whole number.
fn digits(items: &serde_json::Map<String, serde_json::Value>) -> Option<&str> {
    let text = items.get(INTEGER).filter(|_| items.len() == 1)?.as_str()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// Whether Python may write the value otherwise than this crate's engine: fractions, and what may hold them.
pub fn differs(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq | ValueKind::Map => true,
        _ => false,
    }
}

/// Python's `str`.
pub fn string(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    if differs(value) {
        write(value, &mut out, 0)?;
    } else {
        out = value.to_string();
    }
    Ok(out)
}

/// Appends Python's `repr`.
fn write(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(wrong(format!("values are nested more than {MAX_DEPTH} deep")));
    }
    match value.kind() {
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count > 0 { ", " } else { "" });
                write(&item, out, depth + 1)?;
                count += 1;
            }
            out.push_str(match tuple {
                true if count == 1 => ",)",
                true => ")",
                false => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(&key, out, depth + 1)?;
                out.push_str(": ");
                write(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        // The engine writes texts and constants as Python does.
        ValueKind::Plain => out.push_str(&value.to_string()),
        _ => out.push_str(&format!("{value:?}")),
    }
    match out.len() > MAX_OUTPUT {
        true => Err(wrong(format!("a value takes more than {MAX_OUTPUT} bytes"))),
        false => Ok(()),
    }
}

/// Python's `repr` of a number: the shortest digits that give it back, with an exponent from 1e16 up and below
/// 1e-4.
pub fn number(value: &Value) -> String {
    let Some(v) = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer()) else {
        return value.to_string();
    };
    if !v.is_finite() {
        return if v.is_nan() {
            "nan"
        } else if v > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{v:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v == 0.0 || (-4..16).contains(&exponent) {
        let text = v.to_string();
        return if text.contains('.') { text } else { text + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}
