//! Lines for the operator, none of them more often than bearable.

use std::collections::BTreeMap;

/// The same line is told again after this long.
const REPEAT_NS: u64 = 60_000_000_000;
/// Lines that wait to be told. Above: dropped.
const LINES_MAX: usize = 32;
/// Different lines remembered; above it the oldest is forgotten.
const REMEMBERED_MAX: usize = 64;

#[derive(Default)]
pub struct Notices {
    told: BTreeMap<String, u64>,
    lines: Vec<String>,
}

impl Notices {
    pub fn say(&mut self, now_ns: u64, line: String) {
        let told_ns = self.told.get(&line);
        if told_ns.is_some_and(|told_ns| now_ns.saturating_sub(*told_ns) < REPEAT_NS) {
            return;
        }
        if self.told.len() >= REMEMBERED_MAX {
            let oldest = self.told.iter().min_by_key(|(_, told_ns)| **told_ns);
            if let Some(oldest) = oldest.map(|(line, _)| line.clone()) {
                self.told.remove(&oldest);
            }
        }
        self.told.insert(line.clone(), now_ns);
        if self.lines.len() < LINES_MAX {
            self.lines.push(line);
        }
    }

    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_told_once_a_minute_and_few_are_remembered() {
        let mut notices = Notices::default();
        notices.say(0, "a".into());
        notices.say(REPEAT_NS - 1, "a".into());
        notices.say(REPEAT_NS, "a".into());
        assert_eq!(notices.take(), ["a", "a"]);
        for number in 0..1_000 {
            notices.say(number, number.to_string());
        }
        assert_eq!(notices.told.len(), REMEMBERED_MAX);
        assert_eq!(notices.take().len(), LINES_MAX);
    }
}
