//! Watch: every change, to everyone who asked, in order, once.
//!
//! [`WatchHub`] knows all streams and watchers of this member. The store feeds it one call per new revision
//! ([`WatchHub::publish`]); the front feeds it requests and tells it which streams are slow; encoded responses come out of
//! [`WatchHub::take_out`].
//!
//! A watcher is either *synced*, then it has every event up to the hub's revision and gets new ones as they are published, or
//! *behind*, then it has a next revision and reads history in [`WatchHub::catch_up`] until it is synced. Nothing is ever
//! queued for a watcher that could not be queued in full: one whose stream is slow falls behind and keeps its place, so
//! memory is bounded and nothing is lost.
//!
//! Promised to each watcher: events in ascending revision and in execution order within one; none twice, none left out; a
//! revision never spread over two responses unless fragments were asked for; `created` before everything else; no event at
//! or below the revision of a progress response after it.

mod catch_up;
mod gathered;
mod hub;
mod progress;
mod publish;
mod ranges;
mod requests;
mod scan;
mod streams;
mod targets;
mod types;
mod watchers;
mod wire;

pub use catch_up::SCAN_WATCHERS_MAX;
pub use hub::{
    Config, Stats, WatchHub, CONNECTION_WATCHERS_MAX, FRAGMENT_OVERHEAD_BYTES,
    PROGRESS_INTERVAL_DEFAULT_NS, PROGRESS_INTERVAL_MIN_NS,
};
pub use scan::{BATCH_REVISIONS_MAX, SCAN_BYTES_MAX, SCAN_ROWS_MAX};
pub use streams::{STREAM_QUEUE_BYTES_MAX, STREAM_QUEUE_RESPONSES_MAX};
pub use types::{
    EventKind, EventRef, Found, History, KeyValueRef, Permission, Position, Previous, StreamKey,
    WatchOut,
};
pub use wire::Identity;
