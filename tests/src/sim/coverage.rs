//! How often each fault fired, and in what state it met a member.

use std::collections::BTreeMap;

/// Counters by name, in order. Names are `kind` or `kind / state`.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    counts: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    pub fn hit(&mut self, kind: &'static str) {
        self.hit_in(kind, "");
    }

    pub fn hit_in(&mut self, kind: &'static str, state: &'static str) {
        *self.counts.entry((kind, state)).or_default() += 1;
    }

    pub fn hit_times(&mut self, kind: &'static str, times: u64) {
        if times > 0 {
            *self.counts.entry((kind, "")).or_default() += times;
        }
    }

    pub fn add(&mut self, other: &Coverage) {
        for (key, count) in &other.counts {
            *self.counts.entry(*key).or_default() += count;
        }
    }

    pub fn count(&self, kind: &str) -> u64 {
        let of_kind = self.counts.iter().filter(|((k, _), _)| *k == kind);
        of_kind.map(|(_, count)| count).sum()
    }

    /// A table, one line per kind.
    pub fn table(&self) -> String {
        let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
        for ((kind, state), count) in &self.counts {
            let cell = match *state {
                "" => count.to_string(),
                state => format!("{count} {state}"),
            };
            match lines.last_mut().filter(|(k, _)| k == kind) {
                Some((_, cells)) => cells.push(cell),
                None => lines.push((kind, vec![cell])),
            }
        }
        let line =
            |(kind, cells): &(&str, Vec<String>)| format!("{kind:>24}  {}", cells.join(", "));
        lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
