//! `grpc-timeout`: up to eight digits and a unit.

use crate::limits::{MILLISECOND_NS, SECOND_NS};

/// Longest value: eight digits and the unit.
const VALUE_BYTES_MAX: usize = 9;

/// About 292 years, the most that other implementations can express.
const TIMEOUT_NS_MAX: u64 = i64::MAX as u64;

/// Nanoseconds; 0 is legal and means that the deadline has passed. The error is grpc-go's text.
pub(super) fn parse(value: &[u8]) -> Result<u64, String> {
    let quoted = || String::from_utf8_lossy(value).escape_default().to_string();
    let (&unit, digits) = match value.split_last() {
        Some((unit, digits)) if !digits.is_empty() => (unit, digits),
        _ => {
            return Err(format!(
                "transport: timeout string is too short: \"{}\"",
                quoted()
            ))
        }
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!(
            "transport: timeout string is too long: \"{}\"",
            quoted()
        ));
    }
    let unit_ns = match unit {
        b'H' => 3_600 * SECOND_NS,
        b'M' => 60 * SECOND_NS,
        b'S' => SECOND_NS,
        b'm' => MILLISECOND_NS,
        b'u' => 1_000,
        b'n' => 1,
        _ => {
            return Err(format!(
                "transport: timeout unit is not recognized: \"{}\"",
                quoted()
            ))
        }
    };
    let mut count = 0u64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            let text = String::from_utf8_lossy(digits).escape_default().to_string();
            return Err(format!(
                "strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ));
        }
        count = count * 10 + u64::from(digit - b'0');
    }
    Ok(count.saturating_mul(unit_ns).min(TIMEOUT_NS_MAX))
}
