//! Watch.

mod types;

pub use types::{
    EventKind, EventRef, Found, History, KeyValueRef, Permission, Position, Previous, StreamKey,
    WatchOut,
};
