//! The text of one line.

use std::{
    io::Write as _,
    time::{Duration, SystemTime},
};

use super::{Field, Format, Level, Value};
use crate::config::duration::format_ns;

/// Appends a line with its newline to `out`.
#[allow(clippy::too_many_arguments)]
pub fn format_line(
    out: &mut Vec<u8>,
    format: Format,
    now: SystemTime,
    level: Level,
    logger: Option<&str>,
    caller: &str,
    msg: &str,
    fields: &[Field<'_>],
) {
    match format {
        Format::Json => {
            out.extend_from_slice(b"{\"level\":\"");
            out.extend_from_slice(level.as_str().as_bytes());
            out.extend_from_slice(b"\",\"ts\":\"");
            timestamp(out, now);
            out.push(b'"');
            if let Some(logger) = logger {
                out.extend_from_slice(b",\"logger\":");
                string(out, logger);
            }
            out.extend_from_slice(b",\"caller\":");
            string(out, caller);
            out.extend_from_slice(b",\"msg\":");
            string(out, msg);
            for field in fields {
                out.push(b',');
                pair(out, field);
            }
            out.extend_from_slice(b"}\n");
        }
        Format::Console => {
            timestamp(out, now);
            let _ = write!(out, "\t{}\t", level.as_str());
            if let Some(logger) = logger {
                let _ = write!(out, "{logger}\t");
            }
            let _ = write!(out, "{caller}\t{msg}");
            for (at, field) in fields.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"\t{" } else { b", " });
                pair(out, field);
            }
            if !fields.is_empty() {
                out.push(b'}');
            }
            out.push(b'\n');
        }
    }
}

fn pair(out: &mut Vec<u8>, (name, value): &Field<'_>) {
    string(out, name);
    out.push(b':');
    match value {
        Value::Str(s) => string(out, s),
        Value::Uint(v) => drop(write!(out, "{v}")),
        Value::Int(v) => drop(write!(out, "{v}")),
        Value::Bool(v) => drop(write!(out, "{v}")),
        Value::Float(v) if v.is_finite() => drop(write!(out, "{v}")),
        Value::Float(v) => string(out, &v.to_string()),
        Value::Duration(v) => string(
            out,
            &format_ns(i64::try_from(v.as_nanos()).unwrap_or(i64::MAX)),
        ),
        Value::Id(v) => drop(write!(out, "\"{v:x}\"")),
        Value::Strs(list) => {
            out.push(b'[');
            for (at, item) in list.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                string(out, item);
            }
            out.push(b']');
        }
        Value::Json(v) => drop(serde_json::to_writer(out, v)),
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing into a Vec can't fail, and a str always has a JSON form.
    let _ = serde_json::to_writer(out, text);
}

/// `2026-11-22T22:22:50.921117Z`: UTC with microseconds.
fn timestamp(out: &mut Vec<u8>, now: SystemTime) {
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let secs = since_epoch.as_secs();
    let (year, month, day) = civil_date(secs / 86_400);
    let of_day = secs % 86_400;
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since_epoch.subsec_micros()
    );
}

/// Days since 1970-01-01 to year, month, day in the Gregorian calendar, counting years from March so that the leap day
/// is the last one.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_PER_400_YEARS: u64 = 146_097;
    let days = days + DAYS_FROM_0000_03_01;
    let era = days / DAYS_PER_400_YEARS;
    let day_of_era = days % DAYS_PER_400_YEARS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_utc_with_microseconds() {
        let text = |secs, micros: u32| {
            let mut out = Vec::new();
            timestamp(
                &mut out,
                SystemTime::UNIX_EPOCH + Duration::new(secs, micros * 1000),
            );
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(0, 0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(text(951_782_400, 1), "2000-02-29T00:00:00.000001Z");
        assert_eq!(text(951_868_799, 999_999), "2000-02-29T23:59:59.999999Z");
        assert_eq!(text(1_795_386_170, 117_139), "2026-11-22T22:22:50.117139Z");
        assert_eq!(text(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z");
    }

    #[test]
    fn console_lines_are_tab_separated() {
        let mut out = Vec::new();
        let fields = [("path", Value::from("s.db")), ("n", Value::from(1u64))];
        format_line(
            &mut out,
            Format::Console,
            SystemTime::UNIX_EPOCH,
            Level::Info,
            None,
            "a/b.rs:1",
            "restored",
            &fields,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "1970-01-01T00:00:00.000000Z\tinfo\ta/b.rs:1\trestored\t{\"path\":\"s.db\", \"n\":1}\n"
        );
    }
}
