//! Chat templates: Jinja as transformers runs it, rendered without Python and within bounds.

use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};

/// Longest source of a template in bytes.
const MOST_SOURCE: usize = 1 << 20;
/// Steps of the interpreter.
const FUEL: u64 = 5_000_000;
/// Longest text that a template may write, in bytes.
const MOST_OUTPUT: usize = 16 << 20;

/// Renders `source` with `variables`, a JSON object.
pub fn render(source: &str, variables: &str) -> Result<String> {
    let refuse = |e: &minijinja::Error| {
        let mut text = format!("the chat template failed: {}", e.detail().unwrap_or(&e.kind().to_string()));
        if let Some(line) = e.line() {
            text.push_str(&format!(" (line {line})"));
        }
        Error::Option(text)
    };
    if source.len() > MOST_SOURCE {
        return Err(Error::Option(format!(
            "the chat template has {} bytes: expected at most {MOST_SOURCE}",
            source.len()
        )));
    }
    let variables: Value = serde_json::from_str::<serde_json::Value>(variables)
        .map(|json| Value::from(Serde(json)))
        .map_err(|e| Error::Option(format!("the chat template's variables are not JSON: {e}")))?;
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|e| Error::Internal(e.to_string()))?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(128);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function(
        "raise_exception",
        |text: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        },
    );
    environment.add_function("strftime_now", strftime_now);
    let source = without_generation_blocks(source);
    let template = environment.template_from_str(&source).map_err(|e| refuse(&e))?;
    let mut out = Bounded { text: Vec::new(), over: false };
    let result = template.render_captured_to(variables, &mut out).map(|_| ());
    if out.over {
        return Err(Error::Option(format!("the chat template wrote more than {MOST_OUTPUT} bytes")));
    }
    result.map_err(|e| refuse(&e))?;
    String::from_utf8(out.text).map_err(|_| Error::Internal("a template wrote invalid text".to_owned()))
}

/// Text that may not grow without end.
struct Bounded {
    text: Vec<u8>,
    over: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > MOST_OUTPUT {
            self.over = true;
            return Err(std::io::Error::other("too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` marks the answer for training; its content is rendered as it stands.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let end = start + length + 2;
        let inside =
            rest[start + 2..end - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..start]);
        if inside == "generation" || inside == "endgeneration" {
            // An empty statement with the same trimming of the white space around it.
            let tag = &rest[start..end];
            let (open, close) = (
                if tag.starts_with("{%-") { "{%-" } else { "{%" },
                if tag.ends_with("-%}") { "-%}" } else { "%}" },
            );
            out.push_str(&format!("{open} set __generation = 0 {close}"));
        } else {
            out.push_str(&rest[start..end]);
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it.
fn tojson(value: &Value, kwargs: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let _: Option<bool> = kwargs.get("sort_keys")?;
    let _: Option<Value> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let mut out = String::new();
    write_json(&json, indent, 0, &mut out);
    Ok(Value::from_safe_string(out))
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    use serde_json::Value as Json;
    let line = |out: &mut String, depth: usize| {
        if let Some(n) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(n * depth));
        }
    };
    let comma = |out: &mut String, first: bool| {
        if !first {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
    };
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                comma(out, i == 0);
                line(out, depth + 1);
                write_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(items) if !items.is_empty() => {
            out.push('{');
            for (i, (key, item)) in items.iter().enumerate() {
                comma(out, i == 0);
                line(out, depth + 1);
                out.push_str(&Json::from(key.as_str()).to_string());
                out.push_str(": ");
                write_json(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// The present local day and time by a format of `strftime`.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    let format = std::ffi::CString::new(format)
        .map_err(|_| minijinja::Error::new(ErrorKind::InvalidOperation, "a format holds a zero byte"))?;
    let mut text = [0u8; 256];
    // SAFETY: all pointers are to live values; `strftime` writes at most 256 bytes and returns how many.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut parts);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &raw const parts)
    };
    Ok(String::from_utf8_lossy(&text[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_as_python_does() {
        let source = "{%- for m in messages %}{{ m.role | upper }}: {{ m['content'].strip() }}\n{% endfor %}{{ {'a': [1, 'ü']} | tojson }}";
        let text = render(source, r#"{"messages": [{"role": "user", "content": " hi "}]}"#);
        assert_eq!(text.as_deref(), Ok("USER: hi\n{\"a\": [1, \"ü\"]}"));
    }

    #[test]
    fn bombs_and_errors_are_errors() {
        let bombs = [
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ raise_exception('no') }}",
            "{{ 1 / 0 }}",
            "{% if %}",
        ];
        for source in bombs {
            assert!(matches!(render(source, "{}"), Err(Error::Option(_))), "{source}");
        }
        assert!(render("{{ raise_exception('no way') }}", "{}").unwrap_err().to_string().contains("no way"));
    }
}
