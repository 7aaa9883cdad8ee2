//! What must hold, checked while a world runs. Each checker knows only what a client or a member could observe, and the
//! entries that members apply.
//!
//! * [`history`]: one history for all members, and every answer to a client fits into it in real time.
//! * [`consensus`]: the invariants of Raft on what members say of themselves.
//! * [`watchers`]: every watcher sees each revision once, in order, whole.
//! * [`search`]: an order for the calls of each key, found without the log.
//! * [`leases`]: no lease ends early.

pub mod consensus;
pub mod history;
pub mod leases;
pub mod search;
pub mod watchers;

/// What is wrong, or nothing.
pub type Verdict = Result<(), String>;
