//! Storage engine: write-ahead log, pages, trees, MVCC, watch, leases.

pub mod checkpoint;
pub mod error;
pub mod faults;
pub mod hash;
pub mod interchange;
pub mod lease;
pub mod map;
pub mod mvcc;
pub mod page;
pub mod planted;
pub mod store;
pub mod tree;
pub mod wal;
pub mod watch;
