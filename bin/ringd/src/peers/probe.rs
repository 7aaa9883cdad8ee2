//! Probes: round-trip times, and clocks that differ.

use super::{exchange::Exchange, Transport};

/// How often every member is probed.
const PROBE_NS: u64 = 4_000_000_000;
/// Wall clocks that differ by more are worth a line in the log.
const DRIFT_NS_MAX: i128 = 1_000_000_000;

const SECOND_NS: u64 = 1_000_000_000;
const DAY_S: u64 = 86_400;

impl Transport {
    pub(super) fn probe(&mut self, now_ns: u64) {
        let mut due = Vec::new();
        for (id, peer) in &mut self.peers {
            if !peer.is_remote && peer.probe_next_ns <= now_ns {
                peer.probe_next_ns = now_ns + PROBE_NS;
                due.push(*id);
            }
        }
        for id in due {
            let known = self.peers.get_mut(&id);
            if let Some(peer) = known.filter(|peer| peer.message_streams() > 0) {
                peer.queues.probe = Some(Exchange::Probe { begun_ns: now_ns });
                self.pump(id, now_ns);
            }
        }
    }

    pub(super) fn probed(&mut self, id: u64, begun_ns: u64, body: &[u8], now_ns: u64) {
        let round_trip_ns = now_ns.saturating_sub(begun_ns);
        let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let stated = json.as_ref().and_then(|json| json["Now"].as_str());
        let Some(theirs_ns) = stated.and_then(parse) else {
            return;
        };
        let ours_ns = self.config.unix_ms.saturating_mul(1_000_000) + now_ns - round_trip_ns / 2;
        let drift_ns = i128::from(theirs_ns) - i128::from(ours_ns);
        if drift_ns.abs() > DRIFT_NS_MAX {
            let line = format!(
                "the clock of member {id:x} differs by {} s from this one's; have both follow a time server",
                drift_ns / i128::from(SECOND_NS)
            );
            self.notices.say(now_ns, line);
        }
    }
}

/// The answer to a probe at this time.
pub fn answer(unix_ns: u64) -> String {
    format!("{{\"OK\":true,\"Now\":\"{}\"}}\n", show(unix_ns))
}

/// A time as RFC 3339 writes it, in UTC.
fn show(unix_ns: u64) -> String {
    let seconds = unix_ns / SECOND_NS;
    let (year, month, day) = date(seconds / DAY_S);
    let of_day = seconds % DAY_S;
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    let fraction = unix_ns % SECOND_NS;
    if fraction > 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day that many days after 1970-01-01, by eras of 400 years that begin in March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = match month {
        0..=9 => (month + 3, 0),
        _ => (month - 9, 1),
    };
    (era * 400 + year + carry, month, day)
}

/// Days from 1970-01-01 to a date: the inverse of [`date`].
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (year / 400, year % 400);
    let month = (month + 9) % 12;
    let of_year = (153 * month + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468)
}

/// Reads a time in UTC or with an offset; `None` if it is none, or before 1970.
fn parse(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let part = text.get(from..to)?;
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let of_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let mut rest = text.get(19..)?;
    let mut fraction_ns = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let count = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let digits = fraction.get(..count.min(9))?;
        fraction_ns = digits.parse::<u64>().ok()? * 10u64.pow(9 - digits.len() as u32);
        rest = fraction.get(count..)?;
    }
    let seconds = days(year, month, day)? * DAY_S + of_day;
    let offset_s = match rest.as_bytes() {
        b"Z" => 0,
        [sign, h1, h2, b':', m1, m2] => {
            let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
            let hours = digit(h1)? * 10 + digit(h2)?;
            let minutes = digit(m1)? * 10 + digit(m2)?;
            let offset_s = hours * 3600 + minutes * 60;
            match sign {
                b'+' => offset_s,
                b'-' => -offset_s,
                _ => return None,
            }
        }
        _ => return None,
    };
    let seconds = seconds.checked_add_signed(-offset_s)?;
    seconds.checked_mul(SECOND_NS)?.checked_add(fraction_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read_as_etcd_does() {
        let unix_ns = 1_795_387_427_665_081_250;
        let text = "{\"OK\":true,\"Now\":\"2026-11-22T22:43:47.66508125Z\"}\n";
        assert_eq!(answer(unix_ns), text);
        assert_eq!(parse("2026-11-22T22:43:47.66508125Z"), Some(unix_ns));
        assert_eq!(parse("2026-11-23T00:43:47.66508125+02:00"), Some(unix_ns));
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(show(951_782_400_000_000_000), "2000-02-29T00:00:00Z");
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-11-22T22:43:47",
            "1969-12-31T23:59:59Z",
            "2026-11-22T22:43:47.Z",
            "é026-11-22T22:43:47Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_of_five_centuries() {
        for day in 0..183_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), Some(day));
            assert_eq!(
                parse(&show(day * DAY_S * SECOND_NS % u64::MAX)),
                Some(day * DAY_S * SECOND_NS % u64::MAX)
            );
        }
    }
}
