//! Reading ahead while a log is recovered: the next window comes from the device while the last one is being checked.

use std::io;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::{Builder, Scope};

use super::buffer::AlignedBuf;
use super::dir::LogDir;
use super::SegmentId;

struct Window {
    segment: SegmentId,
    offset: u64,
    buf: AlignedBuf,
}

/// One window on its way at most. It ends with the scope that its thread runs in.
pub(super) struct Ahead {
    wanted: Sender<Window>,
    read: Receiver<(Window, io::Result<usize>)>,
    pending: bool,
    /// The buffer of the next window, while none is on its way.
    spare: Option<AlignedBuf>,
}

impl Ahead {
    /// None where no thread can be had: reading then takes longer, nothing else.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        dir: &'scope dyn LogDir,
        window_bytes: usize,
    ) -> Option<Ahead> {
        let (wanted, requests) = channel::<Window>();
        let (answers, read) = channel();
        Builder::new()
            .name("log-ahead".into())
            .spawn_scoped(scope, move || {
                for mut window in requests {
                    let buf = window.buf.as_mut_slice();
                    let result = dir.read_at(window.segment, window.offset, buf);
                    if answers.send((window, result)).is_err() {
                        return;
                    }
                }
            })
            .ok()?;
        Some(Ahead {
            wanted,
            read,
            pending: false,
            spare: Some(AlignedBuf::zeroed(window_bytes)),
        })
    }

    /// Puts the window at this place into `buf` if that is the one on its way.
    pub fn take(
        &mut self,
        segment: SegmentId,
        offset: u64,
        buf: &mut AlignedBuf,
    ) -> Option<io::Result<usize>> {
        if !std::mem::take(&mut self.pending) {
            return None;
        }
        let (mut window, result) = self.read.recv().ok()?;
        let wanted = window.segment == segment && window.offset == offset;
        if wanted {
            std::mem::swap(buf, &mut window.buf);
        }
        self.spare = Some(window.buf);
        wanted.then_some(result)
    }

    pub fn ask(&mut self, segment: SegmentId, offset: u64) {
        let Some(buf) = self.spare.take() else {
            return;
        };
        let window = Window {
            segment,
            offset,
            buf,
        };
        self.pending = self.wanted.send(window).is_ok();
    }
}
