//! The other members: what is sent to them, asked of them and heard from them.

mod types;

pub use types::{PeerAddress, PeerAsk, PeerFailure};
