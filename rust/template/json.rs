//! The filter `tojson`: JSON in the format of Python's `json.dumps`.

use super::python::{self, MAX_DEPTH, MAX_OUTPUT, number, wrong};
use minijinja::Error;
use minijinja::value::{Kwargs, Value, ValueKind};

/// Maximum indent in spaces.
const MAX_INDENT: usize = 100;

/// JSON in the format of Python's `json.dumps`. As in transformers, letters outside of ASCII are kept by
/// default.
pub fn tojson(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    if let Some(indent) = indent.filter(|n| *n > MAX_INDENT) {
        return Err(wrong(format!("tojson's indent is {indent}: expected at most {MAX_INDENT}")));
    }
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some([item, key]) => (item.clone(), key.clone()),
        Some(other) => {
            return Err(wrong(format!("tojson's separators are {}: expected two", other.len())));
        }
    };
    let mut json = Json {
        indent,
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        item,
        key,
        out: String::new(),
    };
    kwargs.assert_all_used()?;
    json.write(value, 0)?;
    Ok(Value::from_safe_string(json.out))
}

/// Writes JSON in Python's format.
struct Json {
    indent: Option<usize>,
    ascii: bool,
    sorted: bool,
    /// Separators of items, and of a key and its value.
    item: String,
    key: String,
    out: String,
}

impl Json {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(wrong(format!("tojson's values are nested more than {MAX_DEPTH} deep")));
        }
        match value.kind() {
            ValueKind::Undefined | ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::Seq | ValueKind::Iterable => {
                let mut first = true;
                self.out.push('[');
                for item in value.try_iter()? {
                    self.begin(first, depth);
                    self.write(&item, depth + 1)?;
                    first = false;
                }
                if !first {
                    self.line(depth);
                }
                self.out.push(']');
            }
            ValueKind::Map => self.map(value, depth)?,
            _ => match value.as_str() {
                Some(text) => self.text(text),
                None if value.downcast_object_ref::<python::Integer>().is_some() => {
                    self.out.push_str(&value.to_string());
                }
                None => {
                    return Err(wrong(format!("tojson cannot write a value of the kind {}", value.kind())));
                }
            },
        }
        match self.out.len() > MAX_OUTPUT {
            true => Err(wrong(format!("tojson wrote more than {MAX_OUTPUT} bytes"))),
            false => Ok(()),
        }
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut entries = Vec::new();
        for key in value.try_iter()? {
            let name = match key.kind() {
                ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
                ValueKind::None => "null".to_owned(),
                ValueKind::Number => number(&key),
                _ => key.to_string(),
            };
            entries.push((name, value.get_item(&key)?));
        }
        if self.sorted {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        for (i, (name, item)) in entries.iter().enumerate() {
            self.begin(i == 0, depth);
            self.text(name);
            self.out.push_str(&self.key.clone());
            self.write(item, depth + 1)?;
        }
        if !entries.is_empty() {
            self.line(depth);
        }
        self.out.push('}');
        Ok(())
    }

    fn begin(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.item.clone());
        }
        self.line(depth + 1);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&mut self, text: &str) {
        let quoted = serde_json::Value::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                self.out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}
