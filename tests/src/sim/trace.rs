//! What happened: a hash of everything, and in words the last events before a failure.
//!
//! A run keeps the hash only. When it fails it is repeated from its seed, which gives the same run, with the words of its
//! end kept.

use std::collections::VecDeque;
use std::fmt::Write as _;

/// A line of the trace is cut at this length, in bytes.
const LINE_BYTES_MAX: usize = 300;

#[derive(Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Keep lines from this event on.
    from: Option<u64>,
    /// Lines kept at most.
    lines_max: usize,
    lines: VecDeque<String>,
}

impl Trace {
    pub fn new(from: Option<u64>, lines_max: usize) -> Trace {
        Trace {
            from,
            lines_max,
            ..Trace::default()
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn events(&self) -> u64 {
        self.events
    }

    /// Notes one more input or effect. `what` must depend on all that the run decides from.
    pub fn mix(&mut self, what: u64) {
        self.hash = (self.hash.rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        let mut word = [0; 8];
        word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.mix(u64::from_le_bytes(word) ^ (bytes.len() as u64) << 56);
    }

    /// Puts an event into words, if anybody wants them.
    pub fn say(&mut self, now_ns: u64, words: impl FnOnce() -> String) {
        self.events += 1;
        if self.from.is_none_or(|from| self.events < from) {
            return;
        }
        if self.lines.len() >= self.lines_max {
            self.lines.pop_front();
        }
        let mut line = format!("{:>12.6}s ", now_ns as f64 / 1e9);
        let _ = write!(line, "{}", words());
        if line.len() > LINE_BYTES_MAX {
            let mut end = LINE_BYTES_MAX;
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
        }
        self.lines.push_back(line);
    }

    /// Whether the next event is kept in words.
    pub fn wants_words(&self) -> bool {
        self.from.is_some_and(|from| self.events + 1 >= from)
    }

    pub fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines).into()
    }
}
