//! The disk of one member: its log directory and its page file, and what a crash makes of both.
//!
//! A log write is durable when it completes, and at a crash before that in any state, sector by sector. The page file
//! keeps unflushed sectors apart ([`SimFile`]). A directory operation of the log is caught at any of its durable stages.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::page::{Keep, PageDir, PageFile, SimFile, PAGE_BYTES};
use engine::wal::{FileOp, FileOpKind, LogDir, MemoryDir, SegmentFile, SegmentId, Write};
use ringd::bootstrap::assemble::{self, LogMedium};
use ringd::promises::{MemoryPromises, PromiseFile};

use super::chance::Chance;
use super::planted;

pub const SECTOR_BYTES: usize = 512;
/// Pages that damage looks at before it takes one that is empty.
const PAGES_TRIED: usize = 8;
/// Log writes among which damage chooses.
const WRITES_REMEMBERED: usize = 64;
/// The last writes of a log may look torn when they are damaged (FORMAT.md): later ones have to claim them first.
const WRITES_CLAIMED_AFTER: usize = 10;

/// Last writes of a log that may be lost together.
const TAIL_WRITES_MAX: u64 = 4;

/// A write of the log that is durable.
struct Written {
    segment: SegmentId,
    offset: u64,
    len: usize,
    /// What it took the place of.
    before: Vec<u8>,
}

impl Written {
    fn place(&self) -> (SegmentId, u64, usize) {
        (self.segment, self.offset, self.len)
    }
}

/// The log's directory, durable content only.
#[derive(Default)]
pub struct LogDisk(MemoryDir);

impl LogDir for LogDisk {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        self.0.segments()
    }

    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(segment, offset, buf)
    }

    fn flush(&self, segment: SegmentId) -> io::Result<()> {
        self.0.flush(segment)
    }

    fn name(&self, segment: SegmentId) -> String {
        self.0.name(segment)
    }
}

impl LogMedium for LogDisk {
    fn run(&self, op: &FileOp) -> io::Result<()> {
        self.0.run(op)
    }

    fn write(&self, write: &Write) -> io::Result<()> {
        self.0
            .write_at(write.segment, write.offset, write.buf.as_slice())
    }
}

/// The page file, the copy that may come in beside it, and the names of both.
#[derive(Default)]
pub struct PageDisk(Mutex<PageFiles>);

#[derive(Default)]
struct PageFiles {
    pages: SimFile,
    incoming: SimFile,
    /// The page file before the last change of names, while that is not durable.
    replaced: Option<SimFile>,
    /// The power goes before the names change, or before that is durable.
    dies: Option<InstallStep>,
}

/// Where in the change of names the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallStep {
    Rename,
    Sync,
}

impl PageDisk {
    fn files(&self) -> MutexGuard<'_, PageFiles> {
        // A panic ends the run.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pages(&self) -> SimFile {
        self.files().pages.clone()
    }

    pub fn incoming(&self) -> SimFile {
        self.files().incoming.clone()
    }

    pub fn die_at(&self, step: InstallStep) {
        self.files().dies = Some(step);
    }

    /// The incoming copy is of no use without the process that wrote it.
    fn crash(&self, power_loss: bool, keep: Keep, chance: &mut Chance) {
        let mut files = self.files();
        files.dies = None;
        files.incoming = SimFile::new();
        if power_loss {
            if let Some(old) = files.replaced.take() {
                if chance.percent(50) {
                    files.pages = old;
                }
            }
        }
        files.pages = files.pages.crash(keep);
    }
}

impl PageDir for PageDisk {
    fn create_incoming(&self) -> io::Result<Arc<dyn PageFile>> {
        let file = SimFile::new();
        self.files().incoming = file.clone();
        Ok(Arc::new(file))
    }

    fn create_spool(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(SimFile::new()))
    }

    fn install(&self) -> io::Result<Arc<dyn PageFile>> {
        let gone = || io::Error::other("the simulated power is gone");
        let mut files = self.files();
        let dies = files.dies.take();
        if dies == Some(InstallStep::Rename) {
            return Err(gone());
        }
        let new = std::mem::take(&mut files.incoming);
        let old = std::mem::replace(&mut files.pages, new);
        files.replaced = Some(old);
        if dies == Some(InstallStep::Sync) {
            return Err(gone());
        }
        if !planted::in_shell(planted::Shell::DirSyncForgotten) {
            files.replaced = None;
        }
        Ok(Arc::new(files.pages.clone()))
    }
}

#[derive(Default)]
pub struct Disk {
    pub log: LogDisk,
    pub pages: Arc<PageDisk>,
    promises: Arc<MemoryPromises>,
    /// Log writes under way, in the order of submission.
    flying: Vec<Write>,
    /// The last writes that are durable.
    written: VecDeque<Written>,
    op: Option<FileOp>,
}

impl assemble::Disk for Disk {
    fn pages(&self) -> io::Result<Arc<dyn PageFile>> {
        Ok(Arc::new(self.pages.pages()))
    }

    fn log(&self) -> &dyn LogMedium {
        &self.log
    }

    fn promises(&self) -> Arc<dyn PromiseFile> {
        self.promises.clone()
    }

    fn set_aside(&self) -> io::Result<Vec<String>> {
        self.pages.files().pages = SimFile::new();
        self.log.0.files().clear();
        Ok(vec!["nothing".to_string()])
    }
}

impl Disk {
    pub fn begin_write(&mut self, write: Write) {
        self.flying.push(write);
    }

    pub fn begin_op(&mut self, op: FileOp) {
        debug_assert!(self.op.is_none(), "the log has one file operation out");
        self.op = Some(op);
    }

    pub fn writes_under_way(&self) -> usize {
        self.flying.len()
    }

    /// Ends a write; with an error, any part of it may have reached the disk.
    pub fn end_write(&mut self, tag: u64, fails: bool, chance: &mut Chance) -> Option<Ended> {
        let at = self.flying.iter().position(|write| write.tag == tag)?;
        let write = self.flying.remove(at);
        let result = if fails {
            self.tear(&write, chance);
            Err(io::Error::from_raw_os_error(libc::EIO))
        } else {
            if self.written.len() >= WRITES_REMEMBERED {
                self.written.pop_front();
            }
            let mut before = vec![0; write.buf.len()];
            let _ = self.log.read_at(write.segment, write.offset, &mut before);
            self.written.push_back(Written {
                segment: write.segment,
                offset: write.offset,
                len: write.buf.len(),
                before,
            });
            self.log.write(&write)
        };
        Some((write, result))
    }

    /// Damages what is durable, and says what and how: a bit flips, a write went to the place of another one, or one that was
    /// reported as flushed never arrived.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<&'static str> {
        if chance.percent(50) {
            return self.rot_pages(chance);
        }
        match chance.below(4) {
            0 => self.misdirect_batch(chance),
            1 => self.lose_batch(chance),
            _ => self.flip_in_log(chance),
        }
    }

    /// The same of the pages alone.
    pub fn rot_pages(&mut self, chance: &mut Chance) -> Option<&'static str> {
        match chance.below(4) {
            0 => self.misdirect_page(chance),
            1 => self.lose_page(chance),
            _ => self.flip_in_pages(chance),
        }
    }

    /// The last writes of the log of a machine that is down never arrived, so that the places hold what they held before.
    pub fn lose_tail(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let count = chance
            .between(1, TAIL_WRITES_MAX)
            .min(self.written.len() as u64);
        for _ in 0..count {
            let lost = self.written.pop_back()?;
            self.log
                .0
                .write_at(lost.segment, lost.offset, &lost.before)
                .ok()?;
        }
        (count > 0).then_some("tail of the log that never arrived")
    }

    fn flip_in_pages(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let at = self.some_page(chance)? + chance.below(PAGE_BYTES as u64);
        let bit = 1 << chance.below(8);
        self.pages.pages().damage(at, |byte| byte ^ bit);
        Some("bit rot in the pages")
    }

    fn flip_in_log(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let (segment, offset, len) = self.claimed_batch(chance)?;
        let at = offset + chance.below(len as u64);
        let mut files = self.log.0.files();
        let byte = files.get_mut(&segment)?.get_mut(at as usize)?;
        *byte ^= 1 << chance.below(8);
        Some("bit rot in the log")
    }

    /// A batch that later ones claim, so that its loss shows. Often one of the newest of these: only the log says that they
    /// ever were, older ones are in a checkpoint as well.
    fn claimed_batch(&self, chance: &mut Chance) -> Option<(SegmentId, u64, usize)> {
        let old = self.written.len().checked_sub(WRITES_CLAIMED_AFTER)?.max(1);
        let newest = *chance.pick(&[1, 8, WRITES_REMEMBERED]);
        let back = chance.below(old.min(newest) as u64) as usize;
        self.written.get(old - 1 - back).map(Written::place)
    }

    /// One batch lies where another one was, perhaps in another segment.
    fn misdirect_batch(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let (to, to_offset, to_len) = self.claimed_batch(chance)?;
        let other = chance.below(self.written.len() as u64) as usize;
        let (from, from_offset, from_len) = self.written.get(other)?.place();
        if (from, from_offset) == (to, to_offset) {
            return None;
        }
        let mut batch = vec![0; from_len.min(to_len)];
        self.log.0.read_at(from, from_offset, &mut batch).ok()?;
        self.log.0.write_at(to, to_offset, &batch).ok()?;
        Some("misdirected log write")
    }

    fn lose_batch(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let (segment, offset, len) = self.claimed_batch(chance)?;
        self.log.0.write_at(segment, offset, &vec![0; len]).ok()?;
        Some("log flush that lied")
    }

    /// Offset of some page, more likely of one that ever held anything.
    fn some_page(&self, chance: &mut Chance) -> Option<u64> {
        let file = self.pages.pages();
        let pages = file.len().ok()? / PAGE_BYTES as u64;
        let mut found = None;
        for _ in 0..PAGES_TRIED {
            let offset = chance.below(pages) * PAGE_BYTES as u64;
            found = (pages > 0).then_some(offset);
            let mut content = vec![0; PAGE_BYTES];
            file.read_at(offset, &mut content).ok()?;
            if content.iter().any(|byte| *byte != 0) {
                break;
            }
        }
        found
    }

    fn overwrite_page(&self, offset: u64, content: &[u8]) {
        let pages = self.pages.pages();
        for (at, byte) in (offset..).zip(content) {
            pages.damage(at, |_| *byte);
        }
    }

    /// One page lies where another one was.
    fn misdirect_page(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let (from, to) = (self.some_page(chance)?, self.some_page(chance)?);
        let mut content = vec![0; PAGE_BYTES];
        self.pages.pages().read_at(from, &mut content).ok()?;
        self.overwrite_page(to, &content);
        (from != to).then_some("misdirected page write")
    }

    fn lose_page(&mut self, chance: &mut Chance) -> Option<&'static str> {
        let page = self.some_page(chance)?;
        self.overwrite_page(page, &[0; PAGE_BYTES]);
        Some("page flush that lied")
    }

    /// A file of a machine that is down is gone, and says of what.
    pub fn lose(&mut self, chance: &mut Chance) -> &'static str {
        if chance.percent(30) {
            self.pages.files().pages = SimFile::new();
            return "pages lost";
        }
        if chance.percent(50) {
            self.log.0.files().clear();
            return "log lost";
        }
        let mut files = self.log.0.files();
        let ids: Vec<SegmentId> = files.keys().copied().collect();
        if !ids.is_empty() {
            files.remove(chance.pick(&ids));
        }
        "log segment lost"
    }

    /// The log that they belong to is no more.
    pub fn forget_writes(&mut self) {
        self.written.clear();
    }

    /// Ends a file operation. On a full disk nothing new can be made.
    pub fn end_op(&mut self, is_full: bool) -> Option<(u64, io::Result<()>)> {
        let op = self.op.take()?;
        let makes = matches!(op.kind, FileOpKind::Prepare { recycle: None, .. });
        let result = match is_full && makes {
            true => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            false => self.log.run(&op),
        };
        Some((op.tag, result))
    }

    /// The machine or the process is gone. After a power loss, what was not flushed is kept in part; a process that dies
    /// leaves its completed writes to the kernel, which keeps them.
    pub fn crash(&mut self, power_loss: bool, chance: &mut Chance) {
        if power_loss && planted::in_shell(planted::Shell::LogUnflushed) {
            if let Some(last) = self.written.back() {
                let _ = self.log.0.write_at(last.segment, last.offset, &last.before);
            }
        }
        for write in std::mem::take(&mut self.flying) {
            self.tear(&write, chance);
        }
        if let Some(op) = self.op.take() {
            self.tear_op(&op, chance);
        }
        let keep = match power_loss {
            false => Keep::All,
            true => match chance.below(4) {
                0 => Keep::None,
                1 => Keep::All,
                2 => Keep::Prefix(chance.below(1001)),
                _ => Keep::Random(chance.draw()),
            },
        };
        self.pages.crash(power_loss, keep, chance);
    }

    /// Leaves some sectors of a write: none, all, the first ones, or any.
    fn tear(&mut self, write: &Write, chance: &mut Chance) {
        let bytes = write.buf.as_slice();
        let sectors = bytes.len() / SECTOR_BYTES;
        let (first, one_in) = match chance.below(4) {
            0 => (0, 0),
            1 => (sectors, 0),
            2 => (chance.below(sectors as u64 + 1) as usize, 0),
            _ => (0, 2),
        };
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let kept = number < first || one_in > 0 && chance.below(one_in) == 0;
            if kept {
                let offset = write.offset + (number * SECTOR_BYTES) as u64;
                // The segment may be gone with the operation that makes it.
                let _ = self.log.0.write_at(write.segment, offset, sector);
            }
        }
    }

    /// Leaves a directory operation undone, done, or, where a file is recycled, with that renamed aside.
    fn tear_op(&mut self, op: &FileOp, chance: &mut Chance) {
        match chance.below(3) {
            0 => {}
            1 => {
                // What cannot be carried out now could not have been before the crash either.
                let _ = self.log.run(op);
            }
            _ => {
                if let FileOpKind::Prepare {
                    recycle: Some(old), ..
                } = &op.kind
                {
                    self.log.0.files().remove(old);
                }
            }
        }
    }
}

/// A write that ended, and how.
pub type Ended = (Write, io::Result<()>);
