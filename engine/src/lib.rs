//! Storage engine: write-ahead log, pages, trees, MVCC, watch, leases.

pub mod checkpoint;
pub mod map;
pub mod page;
pub mod tree;
