//! Planted bugs: switches that break one rule each, so that the fuzz targets can show that they would notice. Without the
//! feature `planted-bugs` there is no switch, and each question for one is a constant `false`.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Fault {
    /// The last byte of a frame that came in pieces is another one.
    TornFrame,
    /// A header that must never be indexed is passed on as one that may.
    SecretForgotten,
    /// A new table size is not announced.
    ResizeUntold,
    /// Messages of any size are taken.
    LimitIgnored,
    /// The digits of a chunk's size are lost where the input is cut.
    ChunkSizeCut,
    /// The reader of an append stream forgets which message came last.
    PlaceForgotten,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants a bug in everything that this thread runs, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.with(|planted| planted.set(fault));
    }

    pub(crate) fn planted(fault: Fault) -> bool {
        PLANTED.with(|planted| planted.get() == Some(fault))
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::plant;
#[cfg(feature = "planted-bugs")]
pub(crate) use switch::planted;

#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub(crate) fn planted(_fault: Fault) -> bool {
    false
}
