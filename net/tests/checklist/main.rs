//! The hardening checklist, one test per row, against the public interface: bytes in, events and bytes out.

mod connection;
mod peer;
