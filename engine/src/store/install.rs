//! Taking over the state of another member: its copied checkpoint is staged beside this member's page file and then
//! takes its place, all at once.
//!
//! A database of etcd's is made a page file first (`interchange::import`); from then on there is no difference.
//!
//! Order, each step durable before the next: the copy is whole and verified, or it is not taken over; its meta page is written, with this member's
//! own log position and the mark that the log begins anew; it is renamed over the page file; the log is told to begin
//! anew. Before the rename a crash leaves the old state with its log. After it, what is opened is the new state, and the
//! mark says what the log still has to be told (FORMAT.md, "Taking over a copy").

use super::meta::{self, LogMark, OpenError};
use super::{Options, Store};
use crate::interchange::import::{Import, ImportError};
use crate::page::{Copy, CopyError, Opened, Options as PageOptions, PageDir, Pages};
use crate::planted::{planted, Fault};
use bytes::Bytes;
use proto::raftpb::Snapshot;
use std::fmt;

/// Why a copy was not taken over. The member goes on with what it has, unless the files were changed already.
#[derive(Debug)]
pub enum InstallError {
    Stage(StageError),
    /// The copy is in place and does not open.
    Open(String),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::Stage(error) => error.fmt(f),
            InstallError::Open(error) => write!(f, "the copied checkpoint does not open: {error}"),
        }
    }
}

impl std::error::Error for InstallError {}

impl<E: Into<StageError>> From<E> for InstallError {
    fn from(error: E) -> InstallError {
        InstallError::Stage(error.into())
    }
}

/// Why what comes in is given up.
#[derive(Debug)]
pub enum StageError {
    Copy(CopyError),
    Import(ImportError),
    /// The member has no use for it any more.
    Unwanted,
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StageError::Copy(error) => error.fmt(f),
            StageError::Import(error) => error.fmt(f),
            StageError::Unwanted => f.write_str("it is not wanted any more"),
        }
    }
}

impl std::error::Error for StageError {}

impl From<CopyError> for StageError {
    fn from(error: CopyError) -> StageError {
        StageError::Copy(error)
    }
}

impl From<ImportError> for StageError {
    fn from(error: ImportError) -> StageError {
        StageError::Import(error)
    }
}

/// A state of another member that is coming in.
pub enum Arriving {
    /// A checkpoint of our own.
    Copy(Box<Copy>),
    /// A database of etcd's, and then the page file that is made of it.
    Database(Box<Import>),
}

impl Arriving {
    /// Bytes taken in.
    pub fn offset(&self) -> u64 {
        match self {
            Arriving::Copy(copy) => copy.offset(),
            Arriving::Database(import) => import.offset(),
        }
    }

    /// Where the stream is to go on after a break.
    pub fn resume(&mut self) -> u64 {
        match self {
            Arriving::Copy(copy) => copy.resume(),
            Arriving::Database(import) => import.offset(),
        }
    }

    /// Whether it can be taken over.
    pub fn is_whole(&self) -> bool {
        match self {
            Arriving::Copy(copy) => copy.is_whole(),
            Arriving::Database(import) => import.is_whole(),
        }
    }

    /// Whether everything has come and there is still something to be done: see [`StageJob::work`].
    pub fn is_working(&self) -> bool {
        match self {
            Arriving::Copy(_) => false,
            Arriving::Database(import) => import.is_working(),
        }
    }

    /// What the checkpoint has beside its trees, once that is known.
    pub fn content(&self) -> Option<&Bytes> {
        match self {
            Arriving::Copy(copy) => copy.content(),
            Arriving::Database(import) => import.content(),
        }
    }

    /// What the operator should know of it.
    pub fn notice(&self) -> Option<String> {
        match self {
            Arriving::Copy(_) => None,
            Arriving::Database(import) => import.notice(),
        }
    }

    fn finish(self, content: &[u8]) -> Result<(), StageError> {
        match self {
            Arriving::Copy(copy) => Ok(copy.finish(content)?),
            Arriving::Database(import) => Ok(import.finish(content)?),
        }
    }
}

/// Something to be done with a state that is coming in, on the pool.
pub struct StageJob {
    step: Step,
    /// What it takes the place of: given up on the pool, because that may be long files.
    replaced: Option<Arriving>,
}

enum Step {
    BeginCopy(Bytes),
    BeginDatabase(Snapshot, Bytes, bool),
    /// The next bytes, and whether they are the last ones.
    Take(Arriving, Bytes, bool),
    Work(Arriving),
    Discard(Arriving),
}

/// What is there so far, or why it is given up.
pub struct Staged {
    pub result: Result<Arriving, StageError>,
}

impl StageJob {
    /// The first bytes of a checkpoint of our own.
    pub fn copy(bytes: Bytes) -> StageJob {
        StageJob::of(Step::BeginCopy(bytes))
    }

    /// The first bytes of a database, which belongs to this snapshot; `last` if there are no more.
    pub fn database(snapshot: Snapshot, bytes: Bytes, last: bool) -> StageJob {
        StageJob::of(Step::BeginDatabase(snapshot, bytes, last))
    }

    /// The next bytes.
    pub fn take(arriving: Arriving, bytes: Bytes, last: bool) -> StageJob {
        StageJob::of(Step::Take(arriving, bytes, last))
    }

    /// The next slice of what is to be done before it can be taken over.
    pub fn work(arriving: Arriving) -> StageJob {
        StageJob::of(Step::Work(arriving))
    }

    /// Gives it up.
    pub fn discard(arriving: Arriving) -> StageJob {
        StageJob::of(Step::Discard(arriving))
    }

    fn of(step: Step) -> StageJob {
        StageJob {
            step,
            replaced: None,
        }
    }

    /// Gives something else up as well.
    pub fn in_place_of(self, replaced: Option<Arriving>) -> StageJob {
        StageJob { replaced, ..self }
    }

    /// The bytes to be written.
    pub fn bytes(&self) -> &[u8] {
        match &self.step {
            Step::BeginCopy(bytes) | Step::BeginDatabase(_, bytes, _) | Step::Take(_, bytes, _) => {
                bytes
            }
            Step::Work(_) | Step::Discard(_) => &[],
        }
    }

    pub fn run(self, dir: &dyn PageDir) -> Staged {
        drop(self.replaced);
        Staged {
            result: self.step.run(dir),
        }
    }
}

impl Step {
    fn run(self, dir: &dyn PageDir) -> Result<Arriving, StageError> {
        let failed = CopyError::from;
        let (mut arriving, bytes, last) = match self {
            Step::BeginCopy(bytes) => {
                let copy = Copy::new(dir.create_incoming().map_err(failed)?);
                (Arriving::Copy(Box::new(copy)), bytes, false)
            }
            Step::BeginDatabase(snapshot, bytes, last) => {
                let spool = dir.create_spool().map_err(failed)?;
                let target = dir.create_incoming().map_err(failed)?;
                let import = Import::new(spool, target, snapshot);
                (Arriving::Database(Box::new(import)), bytes, last)
            }
            Step::Take(arriving, bytes, last) => (arriving, bytes, last),
            Step::Work(arriving) => (arriving, Bytes::new(), false),
            Step::Discard(arriving) => {
                drop(arriving);
                return Err(StageError::Unwanted);
            }
        };
        match &mut arriving {
            Arriving::Copy(copy) => {
                copy.take(&bytes)?;
                if copy.is_whole() {
                    copy.verify()?;
                }
            }
            Arriving::Database(import) => {
                import.take(&bytes)?;
                if last {
                    import.end()?;
                }
                import.advance()?;
            }
        }
        Ok(arriving)
    }
}

/// Puts a state that is whole in the place of the page file and opens it, on the pool.
pub struct InstallJob {
    pub arriving: Arriving,
    /// The durable end of this member's log, and whether that begins anew behind the copy or goes on from it.
    pub log: LogMark,
    pub pages: PageOptions,
    pub store: Options,
}

impl InstallJob {
    pub fn run(self, dir: &dyn PageDir) -> Result<Box<Store>, InstallError> {
        let malformed = |_: OpenError| CopyError::Malformed("its content is not a store's");
        let content = self.arriving.content().cloned().unwrap_or_default();
        let log = LogMark {
            restarts: self.log.restarts && !planted(Fault::InstallKeepsLog),
            ..self.log
        };
        let content = meta::relocated(&content, log).map_err(malformed)?;
        self.arriving.finish(&content)?;
        let file = dir.install().map_err(CopyError::from)?;
        let open = |error: &dyn fmt::Display| InstallError::Open(error.to_string());
        let Opened { pages, meta, .. } = Pages::open(file, self.pages).map_err(|e| open(&e))?;
        let meta = meta.ok_or_else(|| open(&"it has no checkpoint"))?;
        let store = Store::open(pages, &meta, self.store).map_err(|e| open(&e))?;
        Ok(Box::new(store))
    }
}

impl Store {
    /// Goes on with the state of another member. Watchers stay and read what they missed from the new history; leases
    /// are those of the new state, without time passing for them.
    pub fn take_over(&mut self, mut new: Store) {
        std::mem::swap(&mut new.hub, &mut self.hub);
        new.hub.restored(new.revision);
        new.pages.number_jobs_after(&self.pages);
        *self = new;
    }
}
