//! What a single member does when its files are large, damaged, lost or full, seen from outside the process.

mod auto_compaction;
mod defragment;
mod disk_full;
mod flood;
mod kill;
mod lost_log;
mod member;
mod rot;
