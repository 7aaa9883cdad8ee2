//! Planted bugs: switches that break one rule each, so that the simulator can show that it would notice. Without the feature
//! `planted-bugs` there is no switch, and each question for one is a constant `false`.

/// A rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "planted-bugs"), allow(dead_code))]
pub enum Fault {
    /// Watchers that are up to date miss a revision now and then.
    WatchSkips,
    /// Watchers do not get the previous value.
    PreviousDropped,
    /// A compaction takes one revision too many.
    CompactOneMore,
    /// The page file of a snapshot does not say that the log begins anew.
    InstallKeepsLog,
    /// The copy of a checkpoint is not checked.
    CopyUnchecked,
    /// The length of a record is used as it is.
    LengthsTrusted,
    /// What later batches claim of the log is not asked when one is damaged.
    ClaimIgnored,
    /// Where a page's cells are is not checked.
    ShapeUnchecked,
    /// Removing from a tree leaves an overflowing value's entry behind.
    RemoveForgets,
    /// The operations for the failure of a transaction are done on success as well.
    FailureTaken,
    /// Elements of a database's page may overlap.
    ElementsOverlap,
    /// A store that is opened again begins at the revision before its last.
    RevisionForgotten,
    /// A checkpoint's pages are not flushed before the meta page that names them.
    FlushSkipped,
    /// Nor are those of a snapshot that came in, and they are not read back from the device before it is put in its place.
    CopyUnflushed,
    /// Pages are used as they come from the device.
    PageUnchecked,
    /// Only the first condition of a transaction is looked at.
    CompareFirstOnly,
    /// Leases end after three quarters of their time.
    ExpireEarly,
    /// Nothing is added to a lease's time for clients whose clocks are slow.
    DriftIgnored,
    /// Progress is told to watchers that are behind as well.
    ProgressAhead,
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
