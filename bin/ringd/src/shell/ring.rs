//! Log writes through the executor's own ring: a direct write, then a flush, as two operations of the kernel each.

use engine::wal::{driver::LogFiles, Completion, SegmentId, Write};
use glommio::io::{DmaFile, OpenOptions};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
    sync::Arc,
    task::{Context, Waker},
};

/// Segments kept open: the one that is written, its predecessor with the last writes, and the next.
const OPEN_SEGMENTS_MAX: u64 = 3;

#[derive(Default)]
struct Shared {
    open: RefCell<BTreeMap<SegmentId, Rc<DmaFile>>>,
    done: RefCell<Vec<Completion>>,
    waker: RefCell<Option<Waker>>,
    /// A write failed: later ones are not attempted any more.
    failed: Cell<bool>,
}

pub struct RingWriter {
    files: Arc<LogFiles>,
    shared: Rc<Shared>,
}

impl RingWriter {
    pub fn new(files: Arc<LogFiles>) -> RingWriter {
        RingWriter {
            files,
            shared: Rc::default(),
        }
    }

    /// Hands a write to the ring; at most as many are under way as the log has in flight. Must run on an executor.
    pub fn submit(&self, write: Write) {
        let (files, shared) = (self.files.clone(), self.shared.clone());
        glommio::spawn_local(async move {
            let result = match shared.failed.get() {
                true => Err(io::Error::other(
                    "not attempted, an earlier write of the log failed",
                )),
                false => shared.write(&files, &write).await,
            };
            shared.failed.set(shared.failed.get() || result.is_err());
            shared.done.borrow_mut().push(Completion {
                tag: write.tag,
                result,
                buf: write.buf,
            });
            if let Some(waker) = shared.waker.take() {
                waker.wake();
            }
        })
        .detach();
    }

    /// Moves the completions so far to `out`.
    pub fn take(&self, out: &mut Vec<Completion>) {
        out.append(&mut self.shared.done.borrow_mut());
    }

    /// The same; without any, remembers whom to wake.
    pub fn poll(&self, context: &mut Context<'_>, out: &mut Vec<Completion>) {
        self.take(out);
        let mut waker = self.shared.waker.borrow_mut();
        let is_known = |waker: &Waker| waker.will_wake(context.waker());
        if out.is_empty() && !waker.as_ref().is_some_and(is_known) {
            *waker = Some(context.waker().clone());
        }
    }
}

impl Shared {
    /// Returns once the write is durable.
    async fn write(&self, files: &LogFiles, write: &Write) -> io::Result<()> {
        let file = self.file(files, write.segment).await?;
        let bytes = write.buf.as_slice();
        // The kernel takes memory of the ring's own.
        let mut buffer = file.alloc_dma_buffer(bytes.len());
        buffer.as_bytes_mut().copy_from_slice(bytes);
        let written = file.write_at(buffer, write.offset).await?;
        if written != bytes.len() {
            let kind = io::ErrorKind::WriteZero;
            let why = format!("{written} of {} bytes were written", bytes.len());
            return Err(io::Error::new(kind, why));
        }
        file.fdatasync().await?;
        Ok(())
    }

    async fn file(&self, files: &LogFiles, segment: SegmentId) -> io::Result<Rc<DmaFile>> {
        if let Some(file) = self.open.borrow().get(&segment) {
            return Ok(file.clone());
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.dma_open(files.path_of(segment)).await?;
        let file = Rc::new(file);
        let mut open = self.open.borrow_mut();
        // Older segments take no more writes, and one that is recycled gets another number.
        open.retain(|older, _| older.0 + OPEN_SEGMENTS_MAX > segment.0);
        open.insert(segment, file.clone());
        Ok(file)
    }
}
