//! What a single member does when its files are large, damaged, lost or full, seen from outside the process.

mod defragment;
mod member;
