//! Go's notations, in which etcdctl reads and prints: quoted text, numbers, durations, and sizes in SI units.

/// `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            quote(text.as_bytes())
        )),
    }
}

/// `strconv.ParseInt` with a base, or 0 for the base that the text's prefix names.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let wide =
        digits(text, base).ok_or_else(|| number_error("ParseInt", text, "invalid syntax"))?;
    wide.and_then(|n| i64::try_from(n).ok())
        .ok_or_else(|| number_error("ParseInt", text, "value out of range"))
}

/// `strconv.ParseUint`.
pub fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    if text.starts_with(['+', '-']) {
        return Err(number_error("ParseUint", text, "invalid syntax"));
    }
    let wide =
        digits(text, base).ok_or_else(|| number_error("ParseUint", text, "invalid syntax"))?;
    wide.and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| number_error("ParseUint", text, "value out of range"))
}

fn number_error(function: &str, text: &str, why: &str) -> String {
    format!(
        "strconv.{function}: parsing {}: {why}",
        quote(text.as_bytes())
    )
}

/// `None` is not a number, `Some(None)` one that is too long.
fn digits(text: &str, base: u32) -> Option<Option<i128>> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = body.to_ascii_lowercase();
    let (radix, body) = match (base, lower.get(..2)) {
        (0, Some("0x")) => (16, &lower[2..]),
        (0, Some("0b")) => (2, &lower[2..]),
        (0, Some("0o")) => (8, &lower[2..]),
        (0, Some(two)) if two.starts_with('0') => (8, &lower[1..]),
        (0, _) => (10, lower.as_str()),
        (base, _) => (base, lower.as_str()),
    };
    if body.is_empty() || !body.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    Some(
        i128::from_str_radix(body, radix)
            .ok()
            .map(|n| if negative { -n } else { n }),
    )
}

/// `time.ParseDuration` in nanoseconds, for the forms that a person types.
pub fn parse_duration_ns(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..number_len].parse().map_err(|_| invalid())?;
        rest = &rest[number_len..];
        let unit_len = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = &rest[..unit_len];
        if unit.is_empty() {
            return Err(format!(
                "time: missing unit in duration {}",
                quote(text.as_bytes())
            ));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = known.ok_or_else(|| {
            format!(
                "time: unknown unit {} in duration {}",
                quote(unit.as_bytes()),
                quote(text.as_bytes())
            )
        })?;
        total += number * scale;
        rest = &rest[unit_len..];
    }
    Ok(total as u64)
}

/// A duration as Go prints it: `3.984339ms`, `5.002105978s`, `1m0s`.
pub fn duration(duration: std::time::Duration) -> String {
    let ns = duration.as_nanos() as u64;
    let decimal = |value: u64, unit_ns: u64, unit: &str| {
        let fraction = value % unit_ns;
        if fraction == 0 {
            return format!("{}{unit}", value / unit_ns);
        }
        let width = unit_ns.ilog10() as usize;
        let digits = format!("{fraction:0width$}");
        format!("{}.{}{unit}", value / unit_ns, digits.trim_end_matches('0'))
    };
    match ns {
        0 => "0s".into(),
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
    }
}

/// Bytes in SI units with two significant digits below ten: `20 kB`, `2.1 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut exponent = 0;
    let mut unit = 1u64;
    while exponent + 1 < UNITS.len() && bytes / unit >= 1000 {
        unit *= 1000;
        exponent += 1;
    }
    let value = (bytes as f64 / unit as f64 * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 {
        format!("{value:.1} {}", UNITS[exponent])
    } else {
        format!("{value:.0} {}", UNITS[exponent])
    }
}

/// `%q`: double quotes, with escapes for what is not printable or not UTF-8.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(c, &mut out));
        chunk
            .invalid()
            .iter()
            .for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
    }
    out.push('"');
    out
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
        c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{ad}' => {
            out.push_str(&format!("\\u{:04x}", c as u32))
        }
        c => out.push(c),
    }
}

/// Reads a Go string literal in double quotes at the start of `text`; returns its bytes and what follows.
pub fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut out = Vec::new();
    loop {
        let mut chars = rest.chars();
        let c = chars.next()?;
        rest = chars.as_str();
        match c {
            '"' => return Some((out, rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut out)?,
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Handles what follows a backslash.
fn unescape<'a>(text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let mut chars = text.chars();
    let c = chars.next()?;
    let rest = chars.as_str();
    let simple = match c {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' | '\'' | '"' => c as u8,
        'x' => u8::from_str_radix(rest.get(..2)?, 16).ok()?,
        '0'..='7' => {
            let value = u16::from_str_radix(text.get(..3)?, 8).ok()?;
            out.push(u8::try_from(value).ok()?);
            return text.get(3..);
        }
        'u' | 'U' => {
            let len = if c == 'u' { 4 } else { 8 };
            let value = char::from_u32(u32::from_str_radix(rest.get(..len)?, 16).ok()?)?;
            out.extend_from_slice(value.encode_utf8(&mut [0; 4]).as_bytes());
            return rest.get(len..);
        }
        _ => return None,
    };
    out.push(simple);
    if c == 'x' {
        rest.get(2..)
    } else {
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(
            quote(b"a\"\\\n\x01\xff\xc3\xa9"),
            "\"a\\\"\\\\\\n\\x01\\xff\u{e9}\""
        );
        for bytes in [
            &b"plain"[..],
            b"q\"\\",
            b"\x00\xfe\n",
            "\u{e9}\u{2028}".as_bytes(),
        ] {
            assert_eq!(unquote_prefix(&quote(bytes)), Some((bytes.to_vec(), "")));
        }
        assert_eq!(
            unquote_prefix("\"a\\101\\u00e9\" rest"),
            Some(("aA\u{e9}".into(), " rest"))
        );
        for bad in ["", "a", "\"a", "\"\\q\"", "\"\\x1\""] {
            assert_eq!(unquote_prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_and_durations() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (20_480, "20 kB"),
            (1_130_496, "1.1 MB"),
            (2_147_483_648, "2.1 GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(duration(Duration::from_nanos(3_984_339)), "3.984339ms");
        assert_eq!(
            duration(Duration::from_nanos(5_002_105_978)),
            "5.002105978s"
        );
        assert_eq!(duration(Duration::from_secs(60)), "1m0s");
        assert_eq!(parse_duration_ns("1m30.5s"), Ok(90_500_000_000));
        assert_eq!(
            parse_duration_ns("5"),
            Err("time: missing unit in duration \"5\"".into())
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(
            parse_int("zz", 16),
            Err("strconv.ParseInt: parsing \"zz\": invalid syntax".into())
        );
        assert_eq!(parse_int("61e9a2058586e23b", 16), Ok(0x61e9a2058586e23b));
        assert_eq!(
            parse_int("9223372036854775808", 10),
            Err("strconv.ParseInt: parsing \"9223372036854775808\": value out of range".into())
        );
        assert_eq!(parse_int("0x10", 0), Ok(16));
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
        assert_eq!(
            parse_uint("-1", 16),
            Err("strconv.ParseUint: parsing \"-1\": invalid syntax".into())
        );
    }
}
