//! Writer threads: they carry the log's writes to the disk while the executor goes on.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::buffer::AlignedBuf;
use super::config::IN_FLIGHT_MAX;
use super::driver::LogFiles;
use super::writer::Write;

/// The stored waker is woken at least this often: the executor can miss a wake-up of its own and sleep for ever, and only
/// an event from outside helps it then.
const BEAT: Duration = Duration::from_millis(100);

/// How long the end waits for writes under way, and how often it looks.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
const STOP_POLL: Duration = Duration::from_micros(500);

/// A write that was carried out, or failed.
pub struct Completion {
    pub tag: u64,
    pub result: io::Result<()>,
    /// To be given back with [`super::Wal::reuse`].
    pub buf: AlignedBuf,
}

#[derive(Default)]
struct State {
    /// At most [`IN_FLIGHT_MAX`] long, by the log's own bound.
    queue: VecDeque<Write>,
    done: Vec<Completion>,
    waker: Option<Waker>,
    /// Somebody blocks until a write is done.
    waiting: bool,
    /// A write failed: what is queued is not attempted any more.
    failed: bool,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    finished: Condvar,
    stopped: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock, so the state is whole in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One to four threads that write, and one that keeps the beat.
pub struct WriterThreads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl WriterThreads {
    pub fn start(files: Arc<LogFiles>, writers: usize) -> io::Result<WriterThreads> {
        let shared = Arc::new(Shared::default());
        let mut pool = WriterThreads {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for i in 0..writers.clamp(1, IN_FLIGHT_MAX) {
            let (shared, files) = (Arc::clone(&shared), Arc::clone(&files));
            let thread = thread::Builder::new().name(format!("wal-writer-{i}"));
            pool.threads
                .push(thread.spawn(move || write_all(&shared, &files))?);
        }
        let thread = thread::Builder::new().name("wal-beat".into());
        pool.threads.push(thread.spawn(move || beat(&shared))?);
        Ok(pool)
    }

    /// Hands a write over.
    pub fn submit(&self, write: Write) {
        self.shared.lock().queue.push_back(write);
        self.shared.work.notify_one();
    }

    /// Blocks until there are completions, or the time is over; true if there were any.
    pub fn wait_completions(&self, patience: Duration, out: &mut Vec<Completion>) -> bool {
        let mut state = self.shared.lock();
        state.waiting = true;
        let (mut state, _) = self
            .shared
            .finished
            .wait_timeout_while(state, patience, |state| state.done.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting = false;
        out.append(&mut state.done);
        !out.is_empty()
    }

    /// Moves the completions so far to `out`; true if there were any.
    pub fn take_completions(&self, out: &mut Vec<Completion>) -> bool {
        let mut state = self.shared.lock();
        out.append(&mut state.done);
        !out.is_empty()
    }

    /// Ready once there are completions, or the beat came: the caller looks after its other duties then.
    pub fn poll_completions(
        &self,
        context: &mut Context<'_>,
        out: &mut Vec<Completion>,
    ) -> Poll<()> {
        let mut state = self.shared.lock();
        if !state.done.is_empty() {
            out.append(&mut state.done);
            return Poll::Ready(());
        }
        // One waker at a time, cloned only when it changed: every clone counts against a limit of the executor.
        if !state
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            state.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for WriterThreads {
    /// Ends the threads, after what is queued is written. One whose write hangs is left behind: the process is to end all
    /// the same.
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        self.shared.stopped.notify_all();
        let deadline = Instant::now() + STOP_PATIENCE;
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(STOP_POLL);
            }
            if thread.is_finished() {
                // A thread that panicked has said so itself.
                let _ = thread.join();
            }
        }
    }
}

fn write_all(shared: &Shared, files: &LogFiles) {
    let mut state = shared.lock();
    loop {
        let Some(write) = state.queue.pop_front() else {
            if state.stop {
                return;
            }
            state = shared
                .work
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let failed = state.failed;
        drop(state);
        let result = if failed {
            Err(io::Error::other(
                "not attempted, an earlier write of the log failed",
            ))
        } else {
            files.write_inline(&write)
        };
        state = shared.lock();
        state.failed |= result.is_err();
        state.done.push(Completion {
            tag: write.tag,
            result,
            buf: write.buf,
        });
        // Whoever waits takes the completion itself; the waker stays for those that it does not wait for.
        let waker = match state.waiting {
            true => None,
            false => state.waker.take(),
        };
        let waiting = state.waiting;
        // Woken under the lock, it would only fall asleep again for want of it.
        drop(state);
        if waiting {
            shared.finished.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        state = shared.lock();
    }
}

fn beat(shared: &Shared) {
    let mut state = shared.lock();
    while !state.stop {
        let waited = shared.stopped.wait_timeout(state, BEAT);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
            state = shared.lock();
        }
    }
}
