//! An etcdctl-compatible client: command grammar, requests and output formats.

pub mod api;
