//! Taking over the state of another member: its copied checkpoint is staged beside this member's page file and then
//! takes its place, all at once.
//!
//! Order, each step durable before the next: the copy is whole and verified, or it is not taken over; its meta page is written, with this member's
//! own log position and the mark that the log begins anew; it is renamed over the page file; the log is told to begin
//! anew. Before the rename a crash leaves the old state with its log. After it, what is opened is the new state, and the
//! mark says what the log still has to be told (FORMAT.md, "Taking over a copy").

use super::meta::{self, LogMark, OpenError};
use super::{Options, Store};
use crate::page::{Copy, CopyError, Opened, Options as PageOptions, PageDir, Pages};
use crate::planted::{planted, Fault};
use bytes::Bytes;
use std::fmt;

/// Why a copy was not taken over. The member goes on with what it has, unless the files were changed already.
#[derive(Debug)]
pub enum InstallError {
    Copy(CopyError),
    /// The copy is in place and does not open.
    Open(String),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InstallError::Copy(error) => error.fmt(f),
            InstallError::Open(error) => write!(f, "the copied checkpoint does not open: {error}"),
        }
    }
}

impl std::error::Error for InstallError {}

impl From<CopyError> for InstallError {
    fn from(error: CopyError) -> InstallError {
        InstallError::Copy(error)
    }
}

/// The next bytes of a copy, to be written on the pool. The last ones also have it verified.
pub struct StageJob {
    copy: Option<Copy>,
    bytes: Bytes,
}

/// The copy so far, or why it is given up.
pub struct Staged {
    pub result: Result<Copy, CopyError>,
}

impl StageJob {
    /// Begins a copy, or goes on with one.
    pub fn new(copy: Option<Copy>, bytes: Bytes) -> StageJob {
        StageJob { copy, bytes }
    }

    /// The bytes to be written.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn run(self, dir: &dyn PageDir) -> Staged {
        let begun = match self.copy {
            Some(copy) => Ok(copy),
            None => dir
                .create_incoming()
                .map(Copy::new)
                .map_err(CopyError::from),
        };
        let result = begun.and_then(|mut copy| {
            copy.take(&self.bytes)?;
            if copy.is_whole() {
                copy.verify()?;
            }
            Ok(copy)
        });
        Staged { result }
    }
}

/// Puts a whole copy in the place of the page file and opens it, on the pool.
pub struct InstallJob {
    pub copy: Copy,
    /// The durable end of this member's log, and whether that begins anew behind the copy or goes on from it.
    pub log: LogMark,
    pub pages: PageOptions,
    pub store: Options,
}

impl InstallJob {
    pub fn run(self, dir: &dyn PageDir) -> Result<Box<Store>, InstallError> {
        let malformed = |_: OpenError| CopyError::Malformed("its content is not a store's");
        let content = self.copy.content().cloned().unwrap_or_default();
        let log = LogMark {
            restarts: self.log.restarts && !planted(Fault::InstallKeepsLog),
            ..self.log
        };
        let content = meta::relocated(&content, log).map_err(malformed)?;
        self.copy.finish(&content)?;
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
