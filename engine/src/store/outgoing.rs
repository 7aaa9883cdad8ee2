//! A pinned checkpoint on its way to another member, in the form that it understands, or to a client.

use super::Options;
use crate::interchange::export::Export;
use crate::page::CopySource;
use proto::raftpb::Message;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is sent, as a stream of bytes. Shared by the jobs that read it, one at a time.
pub enum Outgoing {
    /// Our own form, from any place on.
    Checkpoint(Arc<CopySource>),
    /// etcd's database behind its message, from the beginning to the end.
    Database(Box<Mutex<Export>>),
}

impl Outgoing {
    /// For a member that is an etcd. `message` is the one that tells of the snapshot.
    pub fn database(source: Arc<CopySource>, options: Options, message: Message) -> Outgoing {
        let export = Export::for_member(source, options, message);
        Outgoing::Database(Box::new(Mutex::new(export)))
    }

    /// For a client: the file that etcd's tools take.
    pub fn backup(source: Arc<CopySource>, options: Options) -> Outgoing {
        let export = Export::for_tools(source, options);
        Outgoing::Database(Box::new(Mutex::new(export)))
    }

    /// The next bytes from `offset` on; none at the end, and where a database is not laid out yet: then it goes on with the
    /// next call. Reads the page file.
    pub fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        match self {
            Outgoing::Checkpoint(source) => source.read(offset, bytes_max),
            Outgoing::Database(export) => locked(export).read(offset, bytes_max),
        }
    }

    /// Whether nothing follows behind this place.
    pub fn ends_at(&self, place: u64) -> bool {
        match self {
            Outgoing::Checkpoint(source) => place >= source.bytes(),
            Outgoing::Database(export) => locked(export).ends_at(place),
        }
    }

    /// Length of the stream, once it is known.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Outgoing::Checkpoint(source) => Some(source.bytes()),
            Outgoing::Database(export) => locked(export).bytes(),
        }
    }
}

fn locked(export: &Mutex<Export>) -> MutexGuard<'_, Export> {
    export.lock().unwrap_or_else(PoisonError::into_inner)
}
