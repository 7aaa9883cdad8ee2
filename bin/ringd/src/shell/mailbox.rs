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

impl<T> Inner<T> {
    fn remember(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(kept) if kept.will_wake(waker) => {}
            kept => *kept = Some(waker.clone()),
        }
    }
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
                inner.remember(waker);
            }
        }
    }

    /// Remembers whom to wake, for a sleep that ends by itself: should the executor oversleep, the next completion or nudge
    /// has it look at its timers.
    pub fn listen(&self, waker: &Waker) {
        self.lock().remember(waker);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // A panicking thread cannot leave the queue half-changed: pushes and takes are single operations.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            atomic::{AtomicUsize, Ordering},
            Arc,
        },
        task::Wake,
    };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_sleeps_is_woken_once_whatever_lies_in_the_mailbox() {
        let count = Arc::new(Count::default());
        let wakes = || count.0.load(Ordering::SeqCst);
        let waker = Waker::from(count.clone());
        let mailbox = Mailbox::default();
        mailbox.push(1);
        mailbox.listen(&waker);
        assert_eq!(wakes(), 0);
        mailbox.nudge();
        mailbox.push(2);
        mailbox.nudge();
        assert_eq!(wakes(), 1);
        mailbox.listen(&waker);
        mailbox.push(3);
        assert_eq!(wakes(), 2);
        let mut items = Vec::new();
        mailbox.take(&mut items, Some(&waker));
        assert_eq!(items, [1, 2, 3]);
    }
}
