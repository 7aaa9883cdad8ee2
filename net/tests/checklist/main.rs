//! The hardening checklist, one test per row, against the public interface: bytes in, events and bytes out.

mod abuse;
mod calls;
mod connection;
mod frames;
mod peer;
mod requests;
