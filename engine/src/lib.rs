//! Storage engine: write-ahead log, pages, trees, MVCC, watch, leases.

pub mod lease;
pub mod page;
pub mod tree;
pub mod watch;
