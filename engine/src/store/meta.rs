//! The store's part of a meta page: everything that is not in the trees.
//!
//! ```text
//! version u8 = 2; 1 is the same without what comes after restarts
//! applied index | applied term | revision | compacted + 1 | finished + 1          (varints)
//! job u8: 0, or 1 and floor + 1 | target | next main | next sub                     (varints)
//! length and bytes of raftpb.ConfState | length and bytes of the log position | first needed segment
//! restarts u8: 0 or 1
//! the running hash: version u8 | known u8: 0, or 1 and hash (8)
//!     number of former eras | of each: index varint, hash (8)
//! ```
//!
//! The page that holds it has its checksum, so it has none of its own.

use super::compaction::{Compactor, Job};
use super::results::{Kept, Results};
use super::settings::Settings;
use super::{Options, Store};
use crate::lease::Lessor;
use crate::mvcc::varint::{put_varint, take_varint};
use crate::mvcc::write::Scratch;
use crate::mvcc::{Revision, Trees};
use crate::page::{CheckpointJob, Meta, Miss, PageError, Pages};
use crate::planted::{planted, Fault};
use crate::tree::{Relocator, Tree};
use crate::watch::WatchHub;
use bytes::Bytes;
use prost::Message;
use proto::raftpb::ConfState;
use std::fmt;

const VERSION: u8 = 2;
/// The oldest one that is read.
const VERSION_MIN: u8 = 1;

/// The quota is on the file's length: up to one part in so many of it the file may become longer for the sake of free pages
/// that lie together.
const ROOMY_QUOTA_SHARE: u64 = 2;

/// Where the log stood, in the log's own terms: kept and given back, never interpreted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogMark {
    /// Position that the trees contain. Never beyond what this member's log has made durable.
    pub position: Bytes,
    pub first_needed_segment: u64,
    /// The trees came from another member after this position: the log holds nothing that follows them until it was told
    /// to begin anew behind them.
    pub restarts: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Content {
    applied_index: u64,
    applied_term: u64,
    revision: i64,
    compacted: i64,
    finished: i64,
    job: Option<Job>,
    conf_state: ConfState,
    log: LogMark,
    results: Kept,
}

/// Why a store did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Open again when the pages are there.
    Miss(Miss),
    /// Written by a later version.
    Version { found: u8 },
    /// The page's checksum is right and its content is not: a defect of the program that wrote it.
    Content,
    /// The number of roots is not this version's.
    Roots { found: usize },
    /// A page is damaged or cannot be read.
    Page(PageError),
}

impl From<Miss> for OpenError {
    fn from(miss: Miss) -> OpenError {
        OpenError::Miss(miss)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Miss(miss) => write!(f, "{} pages are not read yet", miss.pages.len()),
            OpenError::Version { found } => write!(
                f,
                "the store has format {found}, this version reads {VERSION}: start the version that wrote it"
            ),
            OpenError::Page(error) => error.fmt(f),
            OpenError::Content => f.write_str("the store's meta page is malformed"),
            OpenError::Roots { found } => write!(
                f,
                "the store's meta page has {found} trees, this version knows {}",
                crate::mvcc::TREES
            ),
        }
    }
}

impl std::error::Error for OpenError {}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(len)?;
    *input = rest;
    Some(bytes)
}

fn take_flag(input: &mut &[u8]) -> Option<bool> {
    let (&byte, rest) = input.split_first()?;
    *input = rest;
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

impl Content {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for number in [
            self.applied_index,
            self.applied_term,
            self.revision as u64,
            (self.compacted + 1) as u64,
            (self.finished + 1) as u64,
        ] {
            put_varint(&mut out, number);
        }
        out.push(u8::from(self.job.is_some()));
        if let Some(job) = &self.job {
            put_varint(&mut out, (job.floor + 1) as u64);
            for number in [job.target, job.next.main, job.next.sub] {
                put_varint(&mut out, number as u64);
            }
        }
        put_bytes(&mut out, &self.conf_state.encode_to_vec());
        put_bytes(&mut out, &self.log.position);
        put_varint(&mut out, self.log.first_needed_segment);
        out.push(u8::from(self.log.restarts));
        self.results.encode(&mut out);
        out
    }

    fn decode(mut input: &[u8]) -> Result<Content, OpenError> {
        let version = input.first().copied().unwrap_or(0);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(OpenError::Version { found: version });
        }
        input = &input[1..];
        Content::decode_fields(version, &mut input)
            .filter(|_| input.is_empty())
            .ok_or(OpenError::Content)
    }

    fn decode_fields(version: u8, input: &mut &[u8]) -> Option<Content> {
        let applied_index = take_varint(input)?;
        let applied_term = take_varint(input)?;
        let signed = |input: &mut &[u8]| i64::try_from(take_varint(input)?).ok();
        let revision = signed(input)?;
        let compacted = signed(input)? - 1;
        let finished = signed(input)? - 1;
        let (&has_job, rest) = input.split_first()?;
        *input = rest;
        let job = match has_job {
            0 => None,
            1 => Some(Job {
                floor: signed(input)? - 1,
                target: signed(input)?,
                next: Revision::new(signed(input)?, signed(input)?),
            }),
            _ => return None,
        };
        Some(Content {
            applied_index,
            applied_term,
            revision,
            compacted,
            finished,
            job,
            conf_state: ConfState::decode(take_bytes(input)?).ok()?,
            log: LogMark {
                position: Bytes::copy_from_slice(take_bytes(input)?),
                first_needed_segment: take_varint(input)?,
                restarts: take_flag(input)?,
            },
            results: match version {
                1 => Kept::default(),
                _ => Kept::decode(input)?,
            },
        })
    }
}

/// What a checkpoint holds, as far as Raft has to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Contained {
    pub applied_index: u64,
    pub applied_term: u64,
    pub revision: i64,
    pub conf_state: ConfState,
}

/// Reads what a checkpoint holds from the content that its store gave it.
pub fn contained(content: &[u8]) -> Result<Contained, OpenError> {
    let content = Content::decode(content)?;
    Ok(Contained {
        applied_index: content.applied_index,
        applied_term: content.applied_term,
        revision: content.revision,
        conf_state: content.conf_state,
    })
}

/// The content for a checkpoint of what a database of etcd's holds, without a place in a log.
pub(crate) fn imported(contained: Contained, compacted: i64, finished: i64) -> Vec<u8> {
    Content {
        applied_index: contained.applied_index,
        applied_term: contained.applied_term,
        revision: contained.revision,
        compacted,
        finished,
        job: None,
        conf_state: contained.conf_state,
        log: LogMark::default(),
        // Known again from the next era on.
        results: Kept::default(),
    }
    .encode()
}

/// The content of another member's checkpoint with this member's place in its own log.
pub fn relocated(content: &[u8], log: LogMark) -> Result<Vec<u8>, OpenError> {
    let content = Content::decode(content)?;
    Ok(Content { log, ..content }.encode())
}

impl Store {
    /// Freezes the present state and returns the job that writes it; `None` while a former one runs. `log` is the log
    /// position that the applied entries reach.
    pub fn begin_checkpoint(&mut self, log: LogMark) -> Option<CheckpointJob> {
        assert!(!self.is_applying(), "half an entry in a checkpoint");
        let roomy_bytes = match self.relocator.is_held() {
            true => 0,
            false => self.options.quota_bytes.unwrap_or(u64::MAX) / ROOMY_QUOTA_SHARE,
        };
        self.pages.set_roomy(roomy_bytes);
        let before = std::mem::replace(&mut self.log, log);
        let content = self.checkpoint_content();
        let job = self.pages.begin_checkpoint(&self.roots(), &content);
        match job {
            None => self.log = before,
            Some(_) => {
                self.edge_is_dirty = false;
                self.relocator.checkpoint_begun(&mut self.pages);
            }
        }
        job
    }

    /// Opens what a checkpoint stored. Waits for the device: for start and snapshot installation only.
    pub fn open(mut pages: Pages, meta: &Meta, options: Options) -> Result<Store, OpenError> {
        loop {
            let opened = Store::restore(pages, &meta.roots, &meta.content, options.clone());
            let miss = match opened {
                Ok(store) => return Ok(store),
                Err((given_back, OpenError::Miss(miss))) => {
                    pages = *given_back;
                    miss
                }
                Err((_, error)) => return Err(error),
            };
            // Nothing else fetches yet, so there is a job; without one there would be no end.
            let job = pages.fetch_job(&miss).ok_or(OpenError::Miss(miss))?;
            pages.fetch_done(job.run()).map_err(OpenError::Page)?;
        }
    }

    /// What a checkpoint of this moment has to store beside the roots.
    pub fn checkpoint_content(&self) -> Vec<u8> {
        let content = Content {
            applied_index: self.applied_index,
            applied_term: self.applied_term,
            revision: self.revision,
            compacted: self.compacted,
            finished: self.compactor.finished(),
            job: self.compactor.job(),
            conf_state: self.conf_state.clone(),
            log: self.log.clone(),
            results: self.results.kept(),
        };
        let content = content.encode();
        // A configuration of a hundred members fits.
        debug_assert!(content.len() <= crate::checkpoint::CONTENT_BYTES_MAX);
        content
    }

    /// The roots, in the order in which [`Store::open`] takes them.
    pub fn roots(&self) -> [Tree; crate::mvcc::TREES] {
        self.trees.roots()
    }

    /// The log position of the last checkpoint that was begun.
    pub fn log_mark(&self) -> &LogMark {
        &self.log
    }

    /// One attempt of [`Store::open`]. Reads settings and leases, never the keys. After a miss the pages come back
    /// and the caller tries again.
    fn restore(
        pages: Pages,
        roots: &[Tree],
        content: &[u8],
        options: Options,
    ) -> Result<Store, (Box<Pages>, OpenError)> {
        let opened = Content::decode(content).and_then(|content| {
            let found = roots.len();
            let trees = Trees::from_roots(roots).ok_or(OpenError::Roots { found })?;
            let settings = Settings::load(&trees.settings, &pages)?;
            Ok((content, trees, settings))
        });
        let (content, trees, settings) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err((Box::new(pages), error)),
        };
        let lessor = Lessor::new(options.lease.clone());
        let hub = WatchHub::new(options.watch.clone(), content.revision);
        let compactor = Compactor::restore(content.finished, content.job, content.compacted);
        let mut store = Store {
            pages,
            trees,
            relocator: Relocator::new(options.relocation),
            options,
            revision: content.revision - i64::from(planted(Fault::RevisionForgotten)),
            compacted: content.compacted,
            applied_index: content.applied_index,
            applied_term: content.applied_term,
            conf_state: content.conf_state,
            log: content.log,
            results: Results::restore(content.results, content.applied_index),
            large_write: None,
            settings,
            lessor,
            hub,
            compactor,
            edge_is_dirty: false,
            scratch: Scratch::default(),
        };
        match store.lease_records() {
            Ok(records) => store.lessor.restore(records),
            Err(miss) => return Err((Box::new(store.pages), miss.into())),
        }
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::ERA_ENTRIES;
    use super::*;

    #[test]
    fn content_survives_and_damage_is_told() {
        let content = Content {
            applied_index: 1 << 40,
            applied_term: 7,
            revision: 99,
            compacted: -1,
            finished: -1,
            job: Some(Job {
                floor: -1,
                target: 50,
                next: Revision::new(20, 3),
            }),
            conf_state: ConfState {
                voters: vec![1, 2, u64::MAX],
                ..ConfState::default()
            },
            log: LogMark {
                position: Bytes::from_static(b"position"),
                first_needed_segment: 12,
                restarts: true,
            },
            results: kept_results(),
        };
        let bytes = content.encode();
        assert_eq!(Content::decode(&bytes), Ok(content.clone()));
        for cut in 0..bytes.len() {
            assert!(Content::decode(&bytes[..cut]).is_err());
        }
        assert_eq!(Content::decode(&[9]), Err(OpenError::Version { found: 9 }));

        // The version before had no running hash.
        let mut hash = Vec::new();
        content.results.encode(&mut hash);
        let mut old = bytes[..bytes.len() - hash.len()].to_vec();
        old[0] = 1;
        let opened = Content::decode(&old).unwrap();
        assert_eq!(opened.results, Kept::default());
        assert_eq!(opened.log, content.log);
    }

    fn kept_results() -> Kept {
        let mut results = Results::default();
        for index in 1..=3 * ERA_ENTRIES + 5 {
            results.end(index, 1, 1, -1);
        }
        results.kept()
    }
}
