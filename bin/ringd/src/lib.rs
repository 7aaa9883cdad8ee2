//! The server: configuration, the member that ties consensus, log and store together, and its services.

pub mod config;
pub mod identity;
pub mod logging;
pub mod process;
