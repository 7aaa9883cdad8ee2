//! Completions from other threads to the executor.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// A queue that threads fill and the pump empties. One waker is kept and taken when used, so that a burst of
/// completions costs one wake-up.
pub struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    items: Vec<T>,
    waker: Option<Waker>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Mailbox {
            inner: Mutex::new(Inner {
                items: Vec::new(),
                waker: None,
            }),
        }
    }
}

impl<T> Mailbox<T> {
    pub fn push(&self, item: T) {
        let waker = {
            let mut inner = self.lock();
            inner.items.push(item);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the pump though there is nothing for it: see the metronome.
    pub fn nudge(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes everything; when there is nothing, remembers whom to wake.
    pub fn take(&self, into: &mut Vec<T>, waker: Option<&Waker>) {
        let mut inner = self.lock();
        into.append(&mut inner.items);
        if into.is_empty() {
            if let Some(waker) = waker {
                match &mut inner.waker {
                    Some(kept) if kept.will_wake(waker) => {}
                    kept => *kept = Some(waker.clone()),
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // A panicking thread cannot leave the queue half-changed: pushes and takes are single operations.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
