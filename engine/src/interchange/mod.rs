//! What is exchanged with etcd: its database, as a member or a tool of it gives and takes it.
//!
//! * [`bbolt`] is the file format: pages, and nothing of what is in them.
//! * [`backend`] is what etcd keeps in such a file: names, keys and small values; `v2_store` is the membership that goes
//!   with a snapshot.
//! * [`import`] makes a store's page file of such a database, [`export`] makes such a database of a pinned checkpoint. Both
//!   work in slices, with memory that does not grow with the data.
//!
//! Pages of the format have no checksums. What comes in is therefore held against every rule of its structure before any
//! part of it is used, and against what etcd can have written before it counts.

pub mod backend;
pub mod bbolt;
pub mod export;
pub mod fuzzing;
pub mod import;
mod v2_store;
