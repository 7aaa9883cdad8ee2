//! Threads for work that may block: page fetches, checkpoints, log files.

use super::mailbox::Mailbox;
use crate::process;
use std::{
    sync::{mpsc, Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long a stop waits for jobs under way, and how often it looks.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
const STOP_POLL: Duration = Duration::from_millis(1);

type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// A few threads at idle priority; results arrive in the mailbox.
pub struct Pool<T: Send + 'static> {
    sender: Option<mpsc::Sender<Job<T>>>,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Send + 'static> Pool<T> {
    pub fn start(name: &str, threads: usize, mailbox: Arc<Mailbox<T>>) -> std::io::Result<Pool<T>> {
        let (sender, receiver) = mpsc::channel::<Job<T>>();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..threads)
            .map(|number| {
                let receiver = receiver.clone();
                let mailbox = mailbox.clone();
                std::thread::Builder::new()
                    .name(format!("{name}-{number}"))
                    .spawn(move || {
                        process::lower_thread_priority();
                        loop {
                            let job = receiver
                                .lock()
                                .unwrap_or_else(PoisonError::into_inner)
                                .recv();
                            match job {
                                Ok(job) => mailbox.push(job()),
                                Err(_) => return,
                            }
                        }
                    })
            })
            .collect::<Result<_, _>>()?;
        Ok(Pool {
            sender: Some(sender),
            threads,
        })
    }

    /// Queues a job. How many can be under way is bounded by who submits: one checkpoint, one fetch per missing page.
    pub fn submit(&self, job: impl FnOnce() -> T + Send + 'static) {
        if let Some(sender) = &self.sender {
            // The receiver lives as long as a thread does, and threads end only after the sender is dropped.
            let _ = sender.send(Box::new(job));
        }
    }

    fn is_idle(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the jobs under way in all of them, but not for one that hangs: the process is to end all the same.
    pub fn stop(pools: &mut [&mut Pool<T>]) {
        for pool in pools.iter_mut() {
            pool.sender = None;
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        while !pools.iter().all(|pool| pool.is_idle()) && Instant::now() < deadline {
            std::thread::sleep(STOP_POLL);
        }
        for thread in pools.iter_mut().flat_map(|pool| pool.threads.drain(..)) {
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}
