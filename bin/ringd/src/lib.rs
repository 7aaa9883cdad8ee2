//! The server: configuration, the member that ties consensus, log and store together, and its services.
//!
//! Bytes of a connection become requests in [`front`] and [`services`]; [`member`] decides what is proposed, persisted,
//! applied and answered; [`server`] puts the two together; [`shell`] gives them sockets, files and threads. Everything but
//! the shell is free of I/O.

pub mod bootstrap;
pub mod concurrency;
pub mod config;
pub mod descriptors;
pub mod front;
pub mod identity;
pub mod logging;
pub mod member;
pub mod methods;
pub mod peers;
pub mod planted;
pub mod process;
pub mod promises;
pub mod recording;
pub mod request;
pub mod run;
pub mod server;
pub mod services;
pub mod shell;
pub mod status;
