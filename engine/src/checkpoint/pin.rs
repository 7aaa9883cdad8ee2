//! Keeping a durable checkpoint readable while newer ones come and go.

use super::{Completed, Meta};
use crate::page::{Options, PageFile, Pages, Space, PAGE_BYTES};
use std::sync::Arc;

/// Holds the newest durable checkpoint: none of its pages is used again while this lives. `Send`; reading goes through
/// [`Pin::reader`] on any thread.
pub struct Pin {
    number: Arc<u64>,
    pub(super) file: Arc<dyn PageFile>,
    pub(super) completed: Completed,
    options: Options,
}

impl Pages {
    /// Pins the newest durable checkpoint. What was changed since is not in it: whoever needs that makes a checkpoint first.
    pub fn pin(&mut self) -> Pin {
        let number = Arc::new(self.completed.number);
        self.pins.push(Arc::downgrade(&number));
        Pin {
            number,
            file: self.file.clone(),
            completed: self.completed.clone(),
            options: self.options.clone(),
        }
    }

    /// Bytes that could be used again but for a pin. Past a bound the pin is to be given up, not the member.
    pub fn pinned_bytes(&self, pin: &Pin) -> u64 {
        self.space.retired_since(*pin.number) * PAGE_BYTES as u64
    }

    /// Makes the pages of dropped pins usable again before the next checkpoint does.
    pub fn release_pins(&mut self) {
        self.settle_space();
    }
}

impl Pin {
    pub fn meta(&self) -> Meta {
        Meta {
            roots: self.completed.roots.clone(),
            content: self.completed.content.clone(),
            checkpoint: self.completed.number,
        }
    }

    /// A page space of its own over the pinned checkpoint, with its own residency. It never makes a checkpoint; what is
    /// changed in it stays in its memory.
    pub fn reader(&self, resident_bytes_max: u64) -> Pages {
        let options = Options {
            resident_bytes_max,
            ..self.options.clone()
        };
        let number = self.completed.number;
        let space = Space::restore(self.completed.high, &[], Vec::new(), number);
        let shape = crate::tree::check_shape;
        let completed = self.completed.clone();
        Pages::assemble(
            self.file.clone(),
            options,
            number + 1,
            completed,
            space,
            shape,
            true,
        )
    }
}
