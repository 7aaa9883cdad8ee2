//! How log writes reach the device: through writer threads, for which the executor waits a moment when it has nothing else
//! to do. It never waits for long: a device that hangs holds up what has to be durable, and nothing else.

use super::ring::RingWriter;
use crate::member::Input;
use engine::page::is_disk_full;
use engine::wal::{driver::LogFiles, probe_once, Completion, Probe, Write, WriterThreads};
use std::{io, sync::Arc, task::Context, time::Duration};

/// Writer threads: as many writes as the log has in flight.
const WRITERS: usize = 2;
/// A device whose 99.9th percentile is above this is never waited for.
const WAIT_P999_NS_MAX: u64 = 10_000_000;
/// The executor waits this long for a write: some times what a fast device takes...
const WAIT_MAX: Duration = Duration::from_millis(2);
/// ...and after a longer one it does not wait for so many writes.
const WAIT_PENALTY_WRITES: u32 = 1_000;

/// The setting of `--wal-io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalIo {
    Auto,
    /// The executor never waits.
    Thread,
    /// A single member writes on the executor itself, and stands still when the device does.
    Inline,
    /// Through the executor's ring.
    Ring,
}

pub struct LogIo {
    files: Arc<LogFiles>,
    threads: WriterThreads,
    /// In the mode of that name.
    ring: Option<RingWriter>,
    mode: WalIo,
    /// Writes that are still not waited for after a slow one.
    penalty: u32,
    completions: Vec<Completion>,
}

impl LogIo {
    /// Starts the writer threads; in `auto` mode the directory is measured first, unless an earlier start found it fast.
    pub fn start(mode: WalIo, files: Arc<LogFiles>) -> io::Result<(LogIo, Option<Probe>)> {
        let is_fast = |found: &Probe| found.inline_p999_ns <= WAIT_P999_NS_MAX;
        let measured = match mode {
            WalIo::Auto => match probe_once(&files, is_fast) {
                // Nothing is known then, and threads do no harm.
                Err(error) if is_disk_full(&error) => None,
                found => Some(found?),
            },
            WalIo::Thread | WalIo::Inline | WalIo::Ring => None,
        };
        if mode == WalIo::Ring && !files.is_direct() {
            let path = files.path().display();
            return Err(io::Error::other(format!(
                "--wal-io=ring needs a file system with direct I/O, which {path} is not on: choose auto, thread or inline"
            )));
        }
        let mode = match measured {
            None if mode == WalIo::Auto => WalIo::Thread,
            Some(found) if !is_fast(&found) => WalIo::Thread,
            _ => mode,
        };
        let log = LogIo {
            threads: WriterThreads::start(files.clone(), WRITERS)?,
            ring: (mode == WalIo::Ring).then(|| RingWriter::new(files.clone())),
            files,
            mode,
            penalty: 0,
            completions: Vec::new(),
        };
        Ok((log, measured))
    }

    /// Carries a write out. `may_wait`: no other member counts on this one's heartbeat; `alone`: nobody else waits for the
    /// executor, so that it may as well wait for the device. What ends meanwhile goes to `inputs`.
    pub fn submit(&mut self, write: Write, may_wait: bool, alone: bool, inputs: &mut Vec<Input>) {
        if may_wait && self.mode == WalIo::Inline {
            let result = self.files.write_inline(&write);
            inputs.push(Input::LogWritten {
                tag: write.tag,
                result,
                buffer: write.buf,
            });
            return;
        }
        if let Some(ring) = &self.ring {
            return ring.submit(write);
        }
        self.threads.submit(write);
        let waits = may_wait && alone && self.mode == WalIo::Auto && self.penalty == 0;
        self.penalty = self.penalty.saturating_sub(1);
        if !waits {
            return;
        }
        if !self
            .threads
            .wait_completions(WAIT_MAX, &mut self.completions)
        {
            self.penalty = WAIT_PENALTY_WRITES;
        }
        self.convert(inputs);
    }

    /// Moves the completions of the threads to `inputs`; without any, remembers whom to wake.
    pub fn poll(&mut self, context: &mut Context<'_>, inputs: &mut Vec<Input>) {
        if let Some(ring) = &self.ring {
            ring.poll(context, &mut self.completions);
        }
        // Ready or not, what counts is what arrived.
        let _ = self
            .threads
            .poll_completions(context, &mut self.completions);
        self.convert(inputs);
    }

    pub fn take(&mut self, inputs: &mut Vec<Input>) {
        if let Some(ring) = &self.ring {
            ring.take(&mut self.completions);
        }
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
