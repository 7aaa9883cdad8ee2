//! A disk whose writes are durable once completed, and in any state at the level of sectors before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use engine::wal::{FileOp, FileOpKind, LogDir, SegmentFile, SegmentId, Write, BLOCK_BYTES};

use crate::Rng;

pub const SECTOR: usize = 512;

/// The content of the log's directory. Images of one disk share what they have in common.
pub type Image = BTreeMap<SegmentId, Arc<Vec<u8>>>;

/// Reads an image as a directory, and insists that a file is flushed before it is read.
pub struct ImageDir<'a> {
    image: &'a Image,
    flushed: Mutex<BTreeSet<SegmentId>>,
}

impl<'a> ImageDir<'a> {
    pub fn new(image: &'a Image) -> ImageDir<'a> {
        ImageDir {
            image,
            flushed: Mutex::default(),
        }
    }
}

impl LogDir for ImageDir<'_> {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        Ok(self
            .image
            .iter()
            .map(|(id, file)| SegmentFile {
                id: *id,
                bytes: file.len() as u64,
            })
            .collect())
    }

    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        assert!(
            self.flushed.lock().unwrap().contains(&segment),
            "read before it was flushed: {segment}"
        );
        let file = self.image.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let rest = file.get(offset as usize..).unwrap_or(&[]);
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn flush(&self, segment: SegmentId) -> io::Result<()> {
        self.flushed.lock().unwrap().insert(segment);
        Ok(())
    }

    fn name(&self, segment: SegmentId) -> String {
        segment.file_name()
    }
}

/// What becomes of a write that was under way at a crash.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Absent,
    /// This many sectors, from the first.
    Torn(usize),
    Complete,
    /// Each sector by itself.
    Subset(u64),
}

#[derive(Default)]
pub struct Disk {
    pub files: Image,
    /// Writes under way, in the order of submission.
    pub flying: Vec<Write>,
    pub op: Option<FileOp>,
}

impl Disk {
    pub fn new(files: Image) -> Disk {
        Disk {
            files,
            ..Disk::default()
        }
    }

    /// Makes a write durable.
    pub fn complete(&mut self, tag: u64) -> Write {
        let at = self
            .flying
            .iter()
            .position(|write| write.tag == tag)
            .expect("a write under way");
        let write = self.flying.remove(at);
        if !self.files.contains_key(&write.segment) {
            // Only with a mistake planted: the file is there for the process, but not yet durable.
            self.complete_op();
        }
        put(&mut self.files, &write, write.buf.len());
        write
    }

    /// Carries the file operation out and returns its tag.
    pub fn complete_op(&mut self) -> u64 {
        let op = self.op.take().expect("a file operation under way");
        self.files = op_stages(&self.files, &op)
            .pop()
            .expect("at least one stage");
        op.tag
    }

    /// The disk after a crash, with a fate for each write under way.
    pub fn crash(&self, fates: &[Fate]) -> Image {
        let mut image = self.files.clone();
        for (write, fate) in self.flying.iter().zip(fates) {
            apply(&mut image, write, *fate);
        }
        image
    }

    pub fn random_fates(&self, rng: &mut Rng) -> Vec<Fate> {
        self.flying
            .iter()
            .map(|write| random_fate(rng, write.buf.len() / SECTOR))
            .collect()
    }

    /// The states in which a crash may leave the directory while the operation runs.
    pub fn op_images(&self, image: &Image) -> Vec<Image> {
        self.op
            .as_ref()
            .map_or_else(Vec::new, |op| op_stages(image, op))
    }
}

fn random_fate(rng: &mut Rng, sectors: usize) -> Fate {
    match rng.below(6) {
        0 => Fate::Absent,
        1 => Fate::Complete,
        2 => Fate::Torn(rng.below(sectors as u64 + 1) as usize),
        _ => Fate::Subset(rng.draw()),
    }
}

fn put(image: &mut Image, write: &Write, len: usize) {
    let Some(file) = image.get_mut(&write.segment) else {
        return;
    };
    let file = Arc::make_mut(file);
    let from = write.offset as usize;
    assert!(
        from % BLOCK_BYTES == 0 && from >= BLOCK_BYTES,
        "writes are aligned and spare the header"
    );
    file[from..from + len].copy_from_slice(&write.buf.as_slice()[..len]);
}

fn apply(image: &mut Image, write: &Write, fate: Fate) {
    match fate {
        Fate::Absent => {}
        Fate::Complete => put(image, write, write.buf.len()),
        Fate::Torn(sectors) => put(image, write, sectors * SECTOR),
        Fate::Subset(seed) => {
            let mut rng = Rng::new(seed);
            let Some(file) = image.get_mut(&write.segment) else {
                return;
            };
            let file = Arc::make_mut(file);
            for (i, sector) in write.buf.as_slice().chunks(SECTOR).enumerate() {
                if rng.one_in(2) {
                    let from = write.offset as usize + i * SECTOR;
                    file[from..from + SECTOR].copy_from_slice(sector);
                }
            }
        }
    }
}

/// The durable states that a file operation goes through, the finished one last.
fn op_stages(files: &Image, op: &FileOp) -> Vec<Image> {
    let mut stages = vec![files.clone()];
    let mut after = files.clone();
    match &op.kind {
        FileOpKind::Prepare {
            segment,
            recycle,
            bytes,
            header,
            ..
        } => {
            let old = recycle.map(|old| after.remove(&old).expect("a file to recycle"));
            if recycle.is_some() {
                // Renamed aside: the temporary name is not the log's.
                stages.push(after.clone());
            }
            let mut file = old.map_or_else(Vec::new, |old| old.to_vec());
            file.resize(*bytes as usize, 0);
            file[..header.len()].copy_from_slice(header.as_slice());
            after.insert(*segment, Arc::new(file));
        }
        FileOpKind::Remove { segment } => {
            after.remove(segment).expect("a file to remove");
        }
    }
    stages.push(after);
    stages
}
