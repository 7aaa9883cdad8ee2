//! What the store tells the hub, and what the hub tells the front.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::page::Miss;

/// Names a watch stream (one gRPC stream of one connection). The caller gives each stream a key of its own and never uses
/// it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub u64);

/// A key with its value as it stood at `mod_revision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValueRef<'a> {
    pub key: &'a [u8],
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
    pub value: &'a [u8],
    pub lease: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change. For a deletion `kv` holds the key and the revision of the deletion, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    pub kind: EventKind,
    pub kv: KeyValueRef<'a>,
}

impl EventRef<'_> {
    /// Only a change of a key that may have existed before has a previous value to show.
    pub(super) fn may_have_previous(&self) -> bool {
        self.kind == EventKind::Delete || self.kv.create_revision != self.kv.mod_revision
    }
}

/// Place of a row: revision, and number of the change within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub main: i64,
    pub sub: i64,
}

/// Receives a key as it stood before; not called when there was none.
pub type Found<'a> = dyn FnMut(&KeyValueRef<'_>) + 'a;

/// Looks up the previous value of the `usize`th event of a publish: the key at `mod_revision - 1`.
pub type Previous<'a> = dyn FnMut(usize, &mut Found<'_>) -> Result<(), Miss> + 'a;

/// The past, as the store can read it.
pub trait History {
    /// The newest revision; everything up to it was published.
    fn revision(&self) -> i64;

    /// Revisions below this one are gone.
    fn compacted(&self) -> i64;

    /// Visits the rows at and after `from` in order until the visitor breaks or there are no more. On a miss the rows before
    /// the missing one have been visited and stay visited: the hub goes on with the one after them.
    fn rows(
        &self,
        from: Position,
        visit: &mut dyn FnMut(Position, &EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Miss>;

    /// The key as it stood at `revision`; nothing is found if it did not exist then or the revision is compacted.
    fn value_at(&self, key: &[u8], revision: i64, found: &mut Found<'_>) -> Result<(), Miss>;
}

/// Whether the client may read what it wants to watch; decided by the caller, who knows users and roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    Granted,
    Denied,
    InvalidToken,
    OldAuthRevision,
    UserEmpty,
}

/// Longest start of a response that is kept in place: header, ids, flags. Longer ones (cancel reasons) go to the shared part.
pub(super) const HEAD_BYTES_MAX: usize = 79;

/// Start of an encoded response, kept in place so that a response costs no allocation.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) len: u8,
    pub(super) bytes: [u8; HEAD_BYTES_MAX],
}

/// One encoded `WatchResponse` for one stream: [`WatchOut::head`] followed by [`WatchOut::tail`]. The tail holds the events
/// and is shared by all watchers that get the same ones. Messages of one stream come in the order in which they are to be sent.
#[derive(Clone)]
pub struct WatchOut {
    pub stream: StreamKey,
    pub(super) head: Head,
    pub tail: Bytes,
}

impl WatchOut {
    pub fn head(&self) -> &[u8] {
        &self.head.bytes[..usize::from(self.head.len)]
    }

    pub fn len(&self) -> usize {
        usize::from(self.head.len) + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message in one piece; copies the events.
    pub fn message(&self) -> Bytes {
        if self.head.len == 0 {
            return self.tail.clone();
        }
        let mut message = Vec::with_capacity(self.len());
        message.extend_from_slice(self.head());
        message.extend_from_slice(&self.tail);
        Bytes::from(message)
    }
}

impl std::fmt::Debug for WatchOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchOut")
            .field("stream", &self.stream)
            .field("bytes", &self.len())
            .finish()
    }
}
