//! Values of flags as typed data.

use super::{
    duration,
    flags::Kind,
    url::{self, Url},
};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Uint(u64),
    Int(i64),
    /// Nanoseconds.
    Duration(i64),
    Text(String),
    Urls(Vec<Url>),
    Words(Vec<String>),
}

const PARSE_ERROR: &str = "parse error";
const RANGE_ERROR: &str = "value out of range";

/// Parses the text of a flag or of an environment variable. `Ok(None)` is an empty URL list, which keeps the default.
pub(super) fn parse(kind: Kind, text: &str) -> Result<Option<Value>, String> {
    let value = match kind {
        Kind::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Value::Bool(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Value::Bool(false),
            _ => return Err(PARSE_ERROR.into()),
        },
        Kind::Uint | Kind::Uint32 => {
            let number = integer(text)?;
            if number < 0 {
                return Err(PARSE_ERROR.into());
            }
            let max = if kind == Kind::Uint32 {
                u64::from(u32::MAX)
            } else {
                u64::MAX
            };
            Value::Uint(
                u64::try_from(number)
                    .ok()
                    .filter(|n| *n <= max)
                    .ok_or(RANGE_ERROR)?,
            )
        }
        Kind::Int => Value::Int(i64::try_from(integer(text)?).map_err(|_| RANGE_ERROR)?),
        Kind::Duration => Value::Duration(duration::parse_ns(text).map_err(|_| PARSE_ERROR)?),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::Choice(options) if options.contains(&text) => Value::Text(text.to_owned()),
        Kind::Choice(_) => return Err("invalid value".into()),
        Kind::QuotedChoice(options) if options.contains(&text) => Value::Text(text.to_owned()),
        Kind::QuotedChoice(_) => return Err(format!("invalid value {}", url::quoted(text))),
        Kind::Urls if text.is_empty() => return Ok(None),
        Kind::Urls => Value::Urls(url::parse_list(text).map_err(|e| e.to_string())?),
        Kind::Origins if text == "*" || text.is_empty() => Value::Words(vec!["*".into()]),
        Kind::Origins => {
            let origins = url::parse_list(text).map_err(|e| e.to_string())?;
            Value::Words(origins.iter().map(Url::to_string).collect())
        }
        Kind::Words => Value::Words(words(text)),
        Kind::WordSet => {
            let mut list = words(text);
            list.sort();
            list.dedup();
            Value::Words(list)
        }
    };
    Ok(Some(value))
}

fn words(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|w| w.trim().to_owned()).collect()
}

/// Go's integer literals: an optional sign, `0x`, `0o`, `0b` or a leading 0 for another base, and `_` between digits.
fn integer(text: &str) -> Result<i128, &'static str> {
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = body.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // An underscore separates digits, or a base prefix from the digits.
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (radix == 10 && digits.starts_with('_'));
    if digits.is_empty() || misplaced {
        return Err(PARSE_ERROR);
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(PARSE_ERROR);
    }
    let magnitude = i128::from_str_radix(&digits, radix).map_err(|_| RANGE_ERROR)?;
    Ok(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_gos_literals() {
        for (text, number) in [
            ("5", 5),
            ("+5", 5),
            ("-5", -5),
            ("0x1F", 31),
            ("010", 8),
            ("0b11", 3),
            ("1_000", 1000),
            ("0", 0),
        ] {
            assert_eq!(integer(text), Ok(number), "{text}");
        }
        for text in ["", "1G", "abc", "1__0", "_1", "5.0", "08", "0x"] {
            assert_eq!(integer(text), Err(PARSE_ERROR), "{text}");
        }
        assert_eq!(parse(Kind::Uint, "-5"), Err(PARSE_ERROR.into()));
        assert_eq!(
            parse(Kind::Uint, "18446744073709551616"),
            Err(RANGE_ERROR.into())
        );
        assert_eq!(parse(Kind::Uint32, "4294967296"), Err(RANGE_ERROR.into()));
        assert_eq!(
            parse(Kind::Int, "99999999999999999999"),
            Err(RANGE_ERROR.into())
        );
        assert_eq!(parse(Kind::Int, "-1"), Ok(Some(Value::Int(-1))));
    }

    #[test]
    fn lists_and_choices() {
        assert_eq!(parse(Kind::Urls, ""), Ok(None));
        assert_eq!(
            parse(Kind::Origins, ""),
            Ok(Some(Value::Words(vec!["*".into()])))
        );
        assert_eq!(
            parse(Kind::WordSet, "b,a,b"),
            Ok(Some(Value::Words(vec!["a".into(), "b".into()])))
        );
        assert_eq!(
            parse(Kind::Choice(&["new"]), "foo"),
            Err("invalid value".into())
        );
        assert_eq!(
            parse(Kind::QuotedChoice(&["gone"]), "foo"),
            Err("invalid value \"foo\"".into())
        );
        assert_eq!(parse(Kind::Bool, "maybe"), Err("parse error".into()));
        assert_eq!(parse(Kind::Duration, "5"), Err("parse error".into()));
    }
}
