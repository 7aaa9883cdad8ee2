//! How log writes reach the device: through writer threads, so that a device that hangs holds up what has to be durable and
//! nothing else. A single voter with one caller and a device that was fast for a thousand writes writes on the executor: that
//! saves two thread switches, a tenth of such a put, and may cost the length of one slow write now and then.

use crate::member::Input;
use engine::page::is_disk_full;
use engine::wal::{driver::LogFiles, probe, Completion, Probe, Write, WriterThreads};
use std::{
    io,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

/// Writer threads: as many writes as the log has in flight.
const WRITERS: usize = 2;
/// On a device whose 99.9th percentile is above this at the start, the executor never writes itself.
const INLINE_P999_NS_MAX: u64 = 10_000_000;
/// A write that took the executor longer than this, some times what a fast device takes...
const INLINE_MAX: Duration = Duration::from_millis(2);
/// ...leaves so many writes to the threads: at most one in a thousand keeps others waiting.
const INLINE_PENALTY_WRITES: u32 = 1_000;

/// The setting of `--wal-io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalIo {
    /// A single member writes on the executor while the device is fast and one caller waits, else through threads.
    Auto,
    /// The executor never waits.
    Thread,
    /// A single member writes on the executor itself, and stands still when the device does.
    Inline,
}

pub struct LogIo {
    files: Arc<LogFiles>,
    threads: WriterThreads,
    mode: WalIo,
    /// Writes that are still left to the threads after a slow one.
    penalty: u32,
    /// The tags of the writes that the threads have, and since when.
    threaded: Vec<(u64, Instant)>,
    completions: Vec<Completion>,
}

impl LogIo {
    /// Starts the writer threads; in `auto` mode measures the directory first.
    pub fn start(mode: WalIo, files: Arc<LogFiles>) -> io::Result<(LogIo, Option<Probe>)> {
        let measured = match mode {
            WalIo::Auto => match probe(&files) {
                // Nothing is known then, and threads do no harm.
                Err(error) if is_disk_full(&error) => None,
                found => Some(found?),
            },
            WalIo::Thread | WalIo::Inline => None,
        };
        let mode = match measured {
            None if mode == WalIo::Auto => WalIo::Thread,
            Some(found) if found.inline_p999_ns > INLINE_P999_NS_MAX => WalIo::Thread,
            _ => mode,
        };
        let log = LogIo {
            threads: WriterThreads::start(files.clone(), WRITERS)?,
            files,
            mode,
            penalty: 0,
            threaded: Vec::new(),
            completions: Vec::new(),
        };
        Ok((log, measured))
    }

    /// Carries a write out. `may_wait`: no other member counts on this one's heartbeat; `alone`: nobody else waits for the
    /// executor, so that it may as well wait for the device. What ends at once goes to `inputs`.
    pub fn submit(&mut self, write: Write, may_wait: bool, alone: bool, inputs: &mut Vec<Input>) {
        let inline = match self.mode {
            WalIo::Inline => may_wait,
            // What the threads wait for, the executor would wait for as well.
            WalIo::Auto => may_wait && alone && self.penalty == 0 && self.threaded.is_empty(),
            WalIo::Thread => false,
        };
        self.penalty = self.penalty.saturating_sub(1);
        let began = Instant::now();
        if !inline {
            self.threaded.push((write.tag, began));
            self.threads.submit(write);
            return;
        }
        let result = self.files.write_inline(&write);
        self.judge(began);
        inputs.push(Input::LogWritten {
            tag: write.tag,
            result,
            buffer: write.buf,
        });
    }

    /// Moves the completions of the threads to `inputs`; without any, remembers whom to wake.
    pub fn poll(&mut self, context: &mut Context<'_>, inputs: &mut Vec<Input>) {
        // Ready or not, what counts is what arrived.
        let _ = self
            .threads
            .poll_completions(context, &mut self.completions);
        self.convert(inputs);
    }

    pub fn take(&mut self, inputs: &mut Vec<Input>) {
        self.threads.take_completions(&mut self.completions);
        self.convert(inputs);
    }

    fn judge(&mut self, began: Instant) {
        if began.elapsed() > INLINE_MAX {
            self.penalty = INLINE_PENALTY_WRITES;
        }
    }

    fn convert(&mut self, inputs: &mut Vec<Input>) {
        for done in 0..self.completions.len() {
            let tag = self.completions[done].tag;
            if let Some(at) = self.threaded.iter().position(|(t, _)| *t == tag) {
                let (_, began) = self.threaded.swap_remove(at);
                self.judge(began);
            }
        }
        inputs.extend(self.completions.drain(..).map(|done| Input::LogWritten {
            tag: done.tag,
            result: done.result,
            buffer: done.buf,
        }));
    }
}
