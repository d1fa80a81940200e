//! Chat templates: Jinja with the results of transformers, rendered without Python and with limits.

mod json;
mod python;

use crate::error::{Error, Result};
use chrono::Local;
use chrono::format::StrftimeItems;
use json::tojson;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Serde, Value, ValueKind};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use python::MAX_OUTPUT;

/// Maximum length of a template in bytes.
const MAX_SOURCE: usize = 1 << 20;
/// Maximum number of steps of the interpreter.
const FUEL: u64 = 5_000_000;

/// Renders `source` with `variables`, a JSON object. An object `{"\u{0}integer": "123"}` is a whole number: JSON's
/// end at 64 bits here.
pub fn render(source: &str, variables: &str) -> Result<String> {
    let refuse = |e: &minijinja::Error| {
        let mut text = format!("the chat template failed: {}", e.detail().unwrap_or(&e.kind().to_string()));
        if let Some(line) = e.line() {
            text.push_str(&format!(" (line {line})"));
        }
        Error::Option(text)
    };
    if source.len() > MAX_SOURCE {
        return Err(Error::Option(format!(
            "the chat template has {} bytes: expected at most {MAX_SOURCE}",
            source.len()
        )));
    }
    let variables: Value = serde_json::from_str::<serde_json::Value>(variables)
        .map(|json| Value::from(Serde(python::Variables(&json))))
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
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| match python::differs(value) {
        true => Ok(out.write_str(&python::string(value)?)?),
        false => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", string);
    environment.add_filter("__join", minijinja::filters::join);
    environment.add_filter("join", join);
    environment.add_function(
        "raise_exception",
        |text: String| -> std::result::Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        },
    );
    environment.add_function("strftime_now", strftime_now);
    environment.add_filter("wordcount", |text: String| text.split_whitespace().count());
    let source = without_generation_blocks(&source.replace("\r\n", "\n").replace('\r', "\n"));
    let template = environment.template_from_str(&source).map_err(|e| refuse(&e))?;
    let mut out = Bounded { text: Vec::new(), over: false };
    let result = template.render_captured_to(variables, &mut out).map(|_| ());
    if out.over {
        return Err(Error::Option(format!("the chat template wrote more than {MAX_OUTPUT} bytes")));
    }
    result.map_err(|e| refuse(&e))?;
    String::from_utf8(out.text).map_err(|_| Error::Internal("a template wrote invalid text".to_owned()))
}

/// Python's `str`.
fn string(value: &Value) -> std::result::Result<Value, minijinja::Error> {
    if value.kind() == ValueKind::String {
        return Ok(value.clone());
    }
    python::string(value).map(Value::from)
}

/// The filter `join` with Python's texts of the items.
fn join(
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
    arguments: Rest<Value>,
) -> std::result::Result<Value, minijinja::Error> {
    let mut all = vec![value.clone()];
    if arguments.len() < 2 && matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        let items = value.try_iter()?.map(|item| match python::differs(&item) {
            true => python::string(&item).map(Value::from),
            false => Ok(item),
        });
        all[0] = Value::from(items.collect::<std::result::Result<Vec<Value>, _>>()?);
    }
    all.extend(arguments.iter().cloned());
    state.apply_filter("__join", &all)
}

/// Output with a maximum length.
struct Bounded {
    text: Vec<u8>,
    over: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len() + bytes.len() > MAX_OUTPUT {
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

/// Removes `{% generation %}` tags, which mark the answer for training; their content is rendered unchanged.
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

/// Methods of Python objects that templates call.
fn method(
    state: &mut minijinja::State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> std::result::Result<Value, minijinja::Error> {
    if let Some(found) = value.as_str().map(|text| text_method(text, name, arguments)).transpose()?.flatten()
    {
        return Ok(found);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
}

/// Methods of Python's `str` that minijinja-contrib lacks.
fn text_method(
    text: &str,
    name: &str,
    arguments: &[Value],
) -> std::result::Result<Option<Value>, minijinja::Error> {
    use minijinja::value::from_args;
    let wrong = |text: String| minijinja::Error::new(ErrorKind::InvalidOperation, text);
    let found = match name {
        "partition" | "rpartition" => partition(text, name, arguments)?,
        "removeprefix" => Value::from(text.strip_prefix(from_args::<(&str,)>(arguments)?.0).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(from_args::<(&str,)>(arguments)?.0).unwrap_or(text)),
        "swapcase" => {
            from_args::<()>(arguments)?;
            let other = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(other).collect::<String>())
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let (width, fill): (usize, Option<&str>) = from_args(arguments)?;
            let mut fill = fill.unwrap_or(" ").chars();
            let (Some(fill), None) = (fill.next(), fill.next()) else {
                return Err(wrong(format!("{name} pads with one character")));
            };
            if width > MAX_OUTPUT {
                return Err(wrong(format!("{name} to {width} characters: expected at most {MAX_OUTPUT}")));
            }
            Value::from(pad(text, name, width, fill))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(arguments)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| wrong(format!("{name}: the text does not contain {part:?}")))?;
            Value::from(text[..at].chars().count())
        }
        "rsplit" => {
            let (by, max): (Option<&str>, Option<i64>) = from_args(arguments)?;
            if by == Some("") {
                return Err(wrong("empty separator".to_owned()));
            }
            // A negative number means no limit.
            let max = max.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            Value::from_iter(split_from_the_right(text, by, max).into_iter().map(str::to_owned))
        }
        _ => return Ok(None),
    };
    Ok(Some(found))
}

/// Pads `text` to `width` characters with Python's rules.
fn pad(text: &str, how: &str, width: usize, fill: char) -> String {
    let length = text.chars().count();
    let room = width.saturating_sub(length);
    let of = |fill: char, n: usize| fill.to_string().repeat(n);
    match how {
        "ljust" => text.to_owned() + &of(fill, room),
        "rjust" => of(fill, room) + text,
        "zfill" => {
            let sign = usize::from(text.starts_with(['+', '-']));
            format!("{}{}{}", &text[..sign], of('0', room), &text[sign..])
        }
        // The extra space goes to the left where the width is odd.
        _ => {
            let left = room / 2 + (room & width & 1);
            of(fill, left) + text + &of(fill, room - left)
        }
    }
}

fn split_from_the_right<'a>(text: &'a str, by: Option<&str>, max: usize) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut rest = if by.is_none() { text.trim_end() } else { text };
    while parts.len() < max {
        let cut = match by {
            Some(by) => rest.rsplit_once(by),
            None => rest.rsplit_once(char::is_whitespace).map(|(before, part)| (before.trim_end(), part)),
        };
        let Some((before, part)) = cut else { break };
        parts.push(part);
        rest = before;
    }
    if by.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    parts
}

fn partition(text: &str, name: &str, arguments: &[Value]) -> std::result::Result<Value, minijinja::Error> {
    let (by,): (&str,) = minijinja::value::from_args(arguments)?;
    if by.is_empty() {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let found = if name == "partition" { text.split_once(by) } else { text.rsplit_once(by) };
    let parts = match (found, name) {
        (Some((before, after)), _) => [before, by, after],
        (None, "partition") => [text, "", ""],
        (None, _) => ["", "", text],
    };
    Ok(Value::from_iter(parts.map(str::to_owned)))
}

/// The current local time in a format of `strftime`.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    let items = StrftimeItems::new(format).parse().map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("{format:?} is not a format of strftime"))
    })?;
    Ok(Local::now().format_with_items(items.iter()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strftime_formats_are_honoured_and_others_are_refused() {
        let year = Local::now().format("%Y").to_string();
        let two = &year[2..];
        assert_eq!(render("{{ strftime_now('%y %%') }}", "{}"), Ok(format!("{two} %")));
        for format in ["%", "%!", "%d %"] {
            let found = render(&format!("{{{{ strftime_now('{format}') }}}}"), "{}");
            assert!(found.is_err_and(|e| e.to_string().contains("strftime")), "{format}");
        }
    }

    #[test]
    fn renders_like_python() {
        let source = "{%- for m in messages %}{{ m.role | upper }}: {{ m['content'].strip() }}\n{% endfor %}{{ {'a': [1, 'ü']} | tojson }}";
        let text = render(source, r#"{"messages": [{"role": "user", "content": " hi "}]}"#);
        assert_eq!(text.as_deref(), Ok("USER: hi\n{\"a\": [1, \"ü\"]}"));
    }

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        let variables = r#"{"a": {"x": 1e-05, "y": 2.5e-7, "z": 1e16, "w": 0.0001, "v": 123456789.5, "i": 3, "o": 1.0,
            "big": {"\u0000integer": "123456789012345678901"}, "huge": {"\u0000integer": "-1234567890123456789012345678901234567890123"}}}"#;
        for (source, wanted) in [
            (
                "{{ a.x }} {{ a.y }} {{ a.z }} {{ a.w }} {{ a.v }} {{ a.o }}",
                "1e-05 2.5e-07 1e+16 0.0001 123456789.5 1.0",
            ),
            (
                "{{ a.big }} {{ a.huge }}",
                "123456789012345678901 -1234567890123456789012345678901234567890123",
            ),
            ("{{ a.big + 1 }} {{ a.big is number }}", "123456789012345678902 True"),
            (
                "{{ [a.x, a.y, 'it', a.big] }} {{ {'k': [a.z]} }}",
                "[1e-05, 2.5e-07, 'it', 123456789012345678901] {'k': [1e+16]}",
            ),
            (
                "{{ a.x | string }}|{{ [a.z, 'n', 2] | join(', ') }}|{{ [[a.z]] | join }}",
                "1e-05|1e+16, n, 2|[1e+16]",
            ),
            (
                "{{ [a.x, a.big, a.huge, a.z, 1.0] | tojson }}",
                "[1e-05, 123456789012345678901, -1234567890123456789012345678901234567890123, 1e+16, 1.0]",
            ),
            ("{{ -1e-7 }} {{ 1e100 | tojson }} {{ 1e22 }} {{ 1.5e300 * 1e10 }}", "-1e-07 1e+100 1e+22 inf"),
            ("{{ {2: 1, true: 3} | tojson }}", "{\"2\": 1, \"true\": 3}"),
        ] {
            assert_eq!(render(source, variables).as_deref(), Ok(wanted), "{source}");
        }
    }

    #[test]
    fn json_has_the_format_of_python() {
        let value = "{'b': ['ü', 1.5, none], 'a': {}}";
        for (options, wanted) in [
            ("", r#"{"b": ["ü", 1.5, null], "a": {}}"#),
            ("sort_keys=true", r#"{"a": {}, "b": ["ü", 1.5, null]}"#),
            ("ensure_ascii=true", r#"{"b": ["\u00fc", 1.5, null], "a": {}}"#),
            ("separators=(',', ':')", r#"{"b":["ü",1.5,null],"a":{}}"#),
            ("indent=1", "{\n \"b\": [\n  \"ü\",\n  1.5,\n  null\n ],\n \"a\": {}\n}"),
        ] {
            let source = format!("{{{{ {value} | tojson({options}) }}}}");
            assert_eq!(render(&source, "{}").as_deref(), Ok(wanted), "{options}");
        }
    }

    #[test]
    fn partition_equals_pythons() {
        let source =
            "{{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=')[0] }}{{ 'abc'.partition('=') | length }}";
        assert!(render(source, "{}").is_ok_and(|text| text.ends_with("a=b3")));
        assert!(render("{{ 'abc'.partition('') }}", "{}").is_err());
    }

    #[test]
    fn bombs_and_invalid_templates_are_refused() {
        let bombs = [
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ raise_exception('no') }}",
            "{{ 1 / 0 }}",
            "{% if %}",
            "{{ [1] | tojson(indent=10**9) }}",
            "{{ [1] | tojson(separators=['a']) }}",
            "{{ [1] | tojson(colour=1) }}",
        ];
        for source in bombs {
            assert!(matches!(render(source, "{}"), Err(Error::Option(_))), "{source}");
        }
        assert!(render("{{ raise_exception('no way') }}", "{}").unwrap_err().to_string().contains("no way"));
    }
}
