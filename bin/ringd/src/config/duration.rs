//! Durations in Go's notation: `1h30m`, `100ms`, `1.104247ms`.

use std::fmt;

const UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5
    ("μs", 1_000), // U+03BC
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DurationError {
    Invalid(String),
    MissingUnit(String),
    UnknownUnit(String, String),
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DurationError::Invalid(text) => write!(f, "time: invalid duration {text:?}"),
            DurationError::MissingUnit(text) => {
                write!(f, "time: missing unit in duration {text:?}")
            }
            DurationError::UnknownUnit(unit, text) => {
                write!(f, "time: unknown unit {unit:?} in duration {text:?}")
            }
        }
    }
}

impl std::error::Error for DurationError {}

/// Nanoseconds of a sequence of numbers with units, each with an optional fraction: `-1.5h`, `1h15m30.918s`, `0`.
pub fn parse_ns(text: &str) -> Result<i64, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let whole = digits(rest);
        let after = &rest[whole.len()..];
        let fraction = after.strip_prefix('.').map(digits);
        let after = fraction.map_or(after, |f| &after[1 + f.len()..]);
        if whole.is_empty() && fraction.unwrap_or("").is_empty() {
            return Err(invalid());
        }
        let unit_len = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(DurationError::MissingUnit(text.to_owned()));
        }
        let Some((_, unit_ns)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::UnknownUnit(unit.to_owned(), text.to_owned()));
        };
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        let part = whole.checked_mul(*unit_ns).ok_or_else(invalid)?;
        total = total
            .checked_add(part)
            .and_then(|t| t.checked_add(fraction_ns(fraction.unwrap_or(""), *unit_ns)))
            .filter(|t| *t <= 1 << 63)
            .ok_or_else(invalid)?;
        rest = next;
    }
    if negative {
        return Ok((total as i64).wrapping_neg());
    }
    i64::try_from(total).map_err(|_| invalid())
}

fn digits(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    &text[..end]
}

/// Digits past the eighteenth are below a nanosecond in every unit.
fn fraction_ns(fraction: &str, unit_ns: u64) -> u64 {
    let kept = &fraction[..fraction.len().min(18)];
    let Ok(value) = kept.parse::<u128>() else {
        return 0;
    };
    (value * u128::from(unit_ns) / 10u128.pow(kept.len() as u32)) as u64
}

/// Prints nanoseconds as Go does: below a second with the largest fitting unit, otherwise hours, minutes and seconds.
pub fn format_ns(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    let text = match ns {
        0 => return "0s".to_owned(),
        1..=999 => format!("{ns}ns"),
        1_000..=999_999 => decimal(ns, 1_000, "µs"),
        1_000_000..=999_999_999 => decimal(ns, 1_000_000, "ms"),
        _ => {
            let (hours, minutes) = (ns / 3_600_000_000_000, ns / 60_000_000_000);
            let seconds = decimal(ns % 60_000_000_000, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, _) => format!("{minutes}m{seconds}"),
                _ => format!("{hours}h{}m{seconds}", minutes % 60),
            }
        }
    };
    format!("{sign}{text}")
}

fn decimal(ns: u64, unit_ns: u64, unit: &str) -> String {
    let fraction = ns % unit_ns;
    if fraction == 0 {
        return format!("{}{unit}", ns / unit_ns);
    }
    let width = unit_ns.ilog10() as usize;
    let digits = format!("{fraction:0width$}");
    format!("{}.{}{unit}", ns / unit_ns, digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_go_parses() {
        for (text, ns) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("-100ms", -100_000_000),
            ("+3us", 3_000),
            ("3µs", 3_000),
            ("1h15m30.918273645s", 4_530_918_273_645),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(parse_ns(text), Ok(ns), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("foo", "time: invalid duration \"foo\""),
            (".s", "time: invalid duration \".s\""),
            ("-1", "time: missing unit in duration \"-1\""),
            ("5d", "time: unknown unit \"d\" in duration \"5d\""),
            (
                "9223372036854775808ns",
                "time: invalid duration \"9223372036854775808ns\"",
            ),
            (
                "99999999999999999999h",
                "time: invalid duration \"99999999999999999999h\"",
            ),
        ] {
            assert_eq!(parse_ns(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn prints_as_go_prints() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (1_104_247, "1.104247ms"),
            (100_000_000, "100ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (7_200_000_000_000, "2h0m0s"),
            (5_430_001_000_000, "1h30m30.001s"),
            (-2_000_000, "-2ms"),
        ] {
            assert_eq!(format_ns(ns), text);
        }
    }
}
