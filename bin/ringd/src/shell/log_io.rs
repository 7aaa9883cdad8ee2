//! How log writes reach the device: on the executor when nothing else is to be done, otherwise through writer threads.

use crate::member::Input;
use engine::page::is_disk_full;
use engine::wal::{driver::LogFiles, probe, Completion, Probe, Write, WriterThreads};
use std::{io, sync::Arc, task::Context};

/// Writer threads: as many writes as the log has in flight.
const WRITERS: usize = 2;
/// A device whose 99.9th percentile is above this never gets inline writes: they would stop everything else for it.
const INLINE_P999_NS_MAX: u64 = 10_000_000;
/// An inline write that took longer than this sends the next ones to the threads...
const INLINE_SLOW_NS: u64 = 5_000_000;
/// ...for so many writes.
const INLINE_PENALTY_WRITES: u32 = 1_000;

/// The setting of `--wal-io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalIo {
    Auto,
    Thread,
    Inline,
}

pub struct LogIo {
    files: Arc<LogFiles>,
    threads: WriterThreads,
    mode: WalIo,
    /// Writes that still go to the threads after a slow inline one.
    penalty: u32,
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
            completions: Vec::new(),
        };
        Ok((log, measured))
    }

    /// Carries a write out. `alone`: nobody else waits for the executor, so that it may as well wait for the device.
    /// Returns the completion of an inline write.
    pub fn submit(&mut self, write: Write, alone: bool) -> Option<Input> {
        let inline = match self.mode {
            WalIo::Thread => false,
            WalIo::Inline => true,
            WalIo::Auto => alone && self.penalty == 0,
        };
        self.penalty = self.penalty.saturating_sub(1);
        if !inline {
            self.threads.submit(write);
            return None;
        }
        let begun = std::time::Instant::now();
        let result = self.files.write_inline(&write);
        if begun.elapsed().as_nanos() as u64 > INLINE_SLOW_NS {
            self.penalty = INLINE_PENALTY_WRITES;
        }
        Some(Input::LogWritten {
            tag: write.tag,
            result,
            buffer: write.buf,
        })
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

    fn convert(&mut self, inputs: &mut Vec<Input>) {
        inputs.extend(self.completions.drain(..).map(|done| Input::LogWritten {
            tag: done.tag,
            result: done.result,
            buffer: done.buf,
        }));
    }
}
