//! A database of etcd's out of a pinned checkpoint, as a stream.
//!
//! The checkpoint is gone through twice, in slices: first to find out how long the database becomes and where its root lies,
//! which it begins with, and then to write it. The pin is all that this holds back; whoever changes the store meanwhile does
//! not notice. Memory is bounded by a slice and the pages that are kept readable.

use super::bbolt::write::{Layout, Writer};
use super::{backend, v2_store};
use crate::mvcc::Revision;
use crate::page::{CopySource, Miss};
use crate::store::{Options, Store};
use bytes::Bytes;
use prost::Message as _;
use proto::raftpb::Message;
use sha2::{Digest as _, Sha256};
use std::{io, sync::Arc};

/// Entries, and bytes of them, that one slice goes through at most.
const SLICE_ENTRIES: usize = 4000;
const SLICE_BYTES: usize = 2 << 20;
/// Bytes of the checksum at the end of a file for tools.
pub const CHECKSUM_BYTES: u64 = 32;
/// Pages of the checkpoint that are kept readable.
const RESIDENT_BYTES_MAX: u64 = 16 << 20;
/// Fetches of one slice.
const ROUNDS_MAX: usize = 64;

/// A database that is being written.
pub struct Export {
    /// Keeps the pin.
    source: Arc<CopySource>,
    options: Options,
    /// What goes before the database in a transfer to a member.
    message: Option<Message>,
    /// Of everything given so far, where it is to follow at the end.
    checksum: Option<Sha256>,
    pass: Pass,
    /// Bytes given.
    place: u64,
    /// Bytes in all, once that is known.
    bytes: Option<u64>,
}

enum Pass {
    Opening,
    Measuring(Box<Walk>),
    Writing(Box<Walk>),
    Done,
}

/// A way through the store.
struct Walk {
    store: Store,
    writer: Writer,
    section: Section,
}

enum Section {
    BeforeRows,
    Rows(Revision),
    Leases(Option<u64>),
    AfterLeases,
}

impl Export {
    /// A snapshot for a member: its message with the members in it, and the database behind.
    pub fn for_member(source: Arc<CopySource>, options: Options, message: Message) -> Export {
        Export {
            message: Some(message),
            ..Export::bare(source, options)
        }
    }

    /// A file for etcd's tools: the database, and its SHA-256 behind it.
    pub fn for_tools(source: Arc<CopySource>, options: Options) -> Export {
        Export {
            checksum: Some(Sha256::new()),
            ..Export::bare(source, options)
        }
    }

    /// The database alone.
    pub fn bare(source: Arc<CopySource>, options: Options) -> Export {
        Export {
            source,
            options,
            message: None,
            checksum: None,
            pass: Pass::Opening,
            place: 0,
            bytes: None,
        }
    }

    /// Length of the stream, once it is known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Whether the stream ends at this place.
    pub fn ends_at(&self, place: u64) -> bool {
        self.bytes == Some(place)
    }

    /// The next bytes of the stream, about `bytes_max`, or none if the slice came to none yet. Reads the page file.
    pub fn read(&mut self, place: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        if place != self.place {
            return Err(io::Error::other(
                "a database cannot be sent from the middle",
            ));
        }
        let mut out = Vec::new();
        self.pass = match std::mem::replace(&mut self.pass, Pass::Done) {
            Pass::Opening => Pass::Measuring(Box::new(self.open()?)),
            Pass::Measuring(mut walk) => match walk.run(usize::MAX)? {
                None => Pass::Measuring(walk),
                Some(layout) => {
                    out = self.preamble(&walk.store);
                    let checksum = self.checksum.as_ref().map_or(0, |_| CHECKSUM_BYTES);
                    self.bytes = Some(out.len() as u64 + layout.bytes() + checksum);
                    Pass::Writing(Box::new(walk.again(layout)))
                }
            },
            Pass::Writing(mut walk) => {
                let end = walk.run(bytes_max)?;
                out = walk.writer.take_output();
                if let Some(checksum) = &mut self.checksum {
                    checksum.update(&out);
                }
                if let Some(checksum) = self.checksum.take_if(|_| end.is_some()) {
                    out.extend_from_slice(&checksum.finalize());
                }
                match end {
                    None => Pass::Writing(walk),
                    Some(_) => Pass::Done,
                }
            }
            Pass::Done => Pass::Done,
        };
        self.place += out.len() as u64;
        Ok(out)
    }

    fn open(&self) -> io::Result<Walk> {
        let pin = self.source.pin();
        let store = Store::open(
            pin.reader(RESIDENT_BYTES_MAX),
            &pin.meta(),
            self.options.clone(),
        );
        Ok(Walk {
            store: store.map_err(|error| io::Error::other(error.to_string()))?,
            writer: Writer::measuring(),
            section: Section::BeforeRows,
        })
    }

    fn preamble(&mut self, store: &Store) -> Vec<u8> {
        let Some(mut message) = self.message.take() else {
            return Vec::new();
        };
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.data = Some(Bytes::from(v2_store::encode(&store.membership())));
        }
        let message = message.encode_to_vec();
        let mut out = (message.len() as u64).to_be_bytes().to_vec();
        out.extend_from_slice(&message);
        out
    }
}

impl Walk {
    fn again(self, layout: Layout) -> Walk {
        Walk {
            store: self.store,
            writer: Writer::writing(layout),
            section: Section::BeforeRows,
        }
    }

    /// Goes through a slice, until there are `bytes_max` bytes of output; the layout at the end of everything.
    fn run(&mut self, bytes_max: usize) -> io::Result<Option<Layout>> {
        match &mut self.section {
            Section::BeforeRows => {
                for (name, entries) in self.store.buckets_before_rows() {
                    put_bucket(&mut self.writer, name, entries);
                }
                self.section = Section::Rows(Revision::default());
            }
            Section::Rows(next) => {
                let writer = &mut self.writer;
                let more = slice(&mut self.store, writer, bytes_max, |store, each| {
                    store.each_row(next, each)
                })?;
                if !more {
                    self.writer.end_bucket(backend::KEY);
                    self.section = Section::Leases(Some(0));
                }
            }
            Section::Leases(next) => {
                let writer = &mut self.writer;
                let more = slice(&mut self.store, writer, bytes_max, |store, each| {
                    store.each_lease(next, each)
                })?;
                if !more {
                    self.writer.end_bucket(backend::LEASE);
                    self.section = Section::AfterLeases;
                }
            }
            Section::AfterLeases => {
                let [members, removed, (meta, mut entries)] = self.store.buckets_after_leases();
                entries.extend(self.store.applied_meta());
                entries.sort();
                for (name, entries) in [members, removed, (meta, entries)] {
                    put_bucket(&mut self.writer, name, entries);
                }
                return Ok(Some(self.writer.finish()));
            }
        }
        Ok(None)
    }
}

fn put_bucket(writer: &mut Writer, name: &'static str, entries: Vec<(Vec<u8>, Vec<u8>)>) {
    for (key, value) in entries {
        writer.put(&key, &value);
    }
    writer.end_bucket(name);
}

/// Puts entries until the slice is over, fetching what they need. Whether there are more.
fn slice(
    store: &mut Store,
    writer: &mut Writer,
    bytes_max: usize,
    mut walk: impl FnMut(&Store, &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<bool, Miss>,
) -> io::Result<bool> {
    let (mut entries, mut bytes) = (0, 0);
    for _ in 0..ROUNDS_MAX {
        let walked = walk(store, &mut |key, value| {
            writer.put(key, value);
            entries += 1;
            bytes += key.len() + value.len();
            entries < SLICE_ENTRIES && bytes < SLICE_BYTES && writer.output_bytes() < bytes_max
        });
        let miss = match walked {
            Ok(more) => return Ok(more),
            Err(miss) => miss,
        };
        let pages = store.pages_mut();
        if let Some(job) = pages.fetch_job(&miss) {
            let fetched = pages.fetch_done(job.run());
            fetched.map_err(|error| io::Error::other(error.to_string()))?;
        }
    }
    Ok(true)
}
