//! A page file in memory that can lose power.
//!
//! It keeps what is durable apart from what was written since the last flush, in sectors of 512 bytes, and makes the
//! images that a crash may leave behind: any subset of the unflushed sectors, and of the file's unflushed lengths.

use super::{AlignedBuf, PageFile};
use crate::map::Map;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const SECTOR_BYTES: usize = 512;

#[derive(Clone)]
enum Change {
    /// A sector: its offset and new content.
    Sector(u64, Box<[u8; SECTOR_BYTES]>),
    Len(u64),
}

/// The content of the file, and which bytes of it are not what was written there.
#[derive(Clone, Default)]
struct Image {
    bytes: Vec<u8>,
    /// By offset: what stood there before it was damaged.
    damaged: BTreeMap<u64, u8>,
}

#[derive(Clone, Default)]
struct Disk {
    durable: Image,
    /// The page cache: durable and unflushed together.
    cached: Image,
    unflushed: Vec<Change>,
    operations: u64,
    /// Operation at which the power goes: it changes nothing durable, and everything after it fails.
    power_lost_at: Option<u64>,
    space_max: Option<u64>,
    /// Fail reads that touch this byte.
    bad_byte: Option<u64>,
    fail_flush: bool,
    /// Reads that gave a damaged byte.
    damaged_reads: u64,
}

/// Which unflushed changes a crash keeps.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    None,
    All,
    /// All up to the given share in thousandths, in the order written: a torn write.
    Prefix(u64),
    /// Each by a throw of the given seed.
    Random(u64),
}

/// The file. Clones share it.
#[derive(Clone, Default)]
pub struct SimFile(Arc<Mutex<Disk>>);

/// SplitMix64: enough chance for a disk.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn lost() -> io::Error {
    io::Error::other("the simulated power is gone")
}

impl SimFile {
    /// An empty file.
    pub fn new() -> SimFile {
        SimFile::default()
    }

    pub fn from_bytes(bytes: Vec<u8>) -> SimFile {
        SimFile::from_image(Image {
            bytes,
            ..Image::default()
        })
    }

    fn from_image(image: Image) -> SimFile {
        SimFile(Arc::new(Mutex::new(Disk {
            cached: image.clone(),
            durable: image,
            ..Disk::default()
        })))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is durable now.
    pub fn durable(&self) -> Vec<u8> {
        self.disk().durable.bytes.clone()
    }

    /// Operations that changed the file so far.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// The power goes during the operation with this number.
    pub fn lose_power_at(&self, operation: u64) {
        self.disk().power_lost_at = Some(operation);
    }

    /// Growing beyond this fails with "no space left".
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.disk().space_max = bytes;
    }

    /// Reads that touch this byte fail.
    pub fn break_byte(&self, offset: Option<u64>) {
        self.disk().bad_byte = offset;
    }

    pub fn fail_flush(&self, fail: bool) {
        self.disk().fail_flush = fail;
    }

    /// Damages the device and the page cache alike.
    pub fn damage(&self, offset: u64, change: impl Fn(u8) -> u8) {
        let mut disk = self.disk();
        let Disk {
            durable, cached, ..
        } = &mut *disk;
        for image in [durable, cached] {
            image.damage(offset, &change);
        }
    }

    /// How often something was read that is not what had been written, because of [`SimFile::damage`].
    pub fn damaged_reads(&self) -> u64 {
        self.disk().damaged_reads
    }

    /// Cuts the file, durably.
    pub fn truncate(&self, len: u64) {
        let mut disk = self.disk();
        let less = |image: &Image| image.bytes.len().min(len as usize);
        let (durable, cached) = (less(&disk.durable), less(&disk.cached));
        disk.durable.resize(durable);
        disk.cached.resize(cached);
        disk.unflushed.clear();
    }

    /// The file as a crash now may leave it.
    pub fn crash(&self, keep: Keep) -> SimFile {
        let disk = self.disk();
        let count = disk.unflushed.len() as u64;
        let mut image = disk.durable.clone();
        for (at, change) in (0u64..).zip(&disk.unflushed) {
            let kept = match keep {
                Keep::None => false,
                Keep::All => true,
                Keep::Prefix(thousandths) => at * 1000 < count * thousandths,
                Keep::Random(seed) => mix(seed ^ mix(at)) & 1 == 0,
            };
            if kept {
                change.apply(&mut image);
            }
        }
        SimFile::from_image(image)
    }
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Sector(offset, bytes) => image.write(*offset, &bytes[..]),
            Change::Len(len) => image.resize(*len as usize),
        }
    }
}

impl Image {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        if self.bytes.len() < end {
            self.resize(end);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        let whole_again = offset..end as u64;
        if !self.damaged.is_empty() {
            self.damaged.retain(|at, _| !whole_again.contains(at));
        }
    }

    fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.damaged.split_off(&(len as u64));
    }

    fn damage(&mut self, offset: u64, change: impl Fn(u8) -> u8) {
        let Some(byte) = self.bytes.get_mut(offset as usize) else {
            return;
        };
        let written = *self.damaged.entry(offset).or_insert(*byte);
        *byte = change(*byte);
        if *byte == written {
            self.damaged.remove(&offset);
        }
    }

    fn is_damaged(&self, range: std::ops::Range<u64>) -> bool {
        !self.damaged.is_empty() && self.damaged.range(range).next().is_some()
    }
}

impl Disk {
    /// Counts an operation; true if it is the one during which the power goes.
    fn begin(&mut self) -> io::Result<bool> {
        let now = self.operations;
        if self.power_lost_at.is_some_and(|at| now > at) {
            return Err(lost());
        }
        self.operations += 1;
        Ok(self.power_lost_at == Some(now))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(offset % SECTOR_BYTES as u64 == 0 && bytes.len() % SECTOR_BYTES == 0);
        for (at, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let mut content = Box::new([0; SECTOR_BYTES]);
            content.copy_from_slice(sector);
            let change = Change::Sector(offset + (at * SECTOR_BYTES) as u64, content);
            change.apply(&mut self.cached);
            self.unflushed.push(change);
        }
    }

    fn read(&mut self, direct: bool, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let range = offset..offset + buf.len() as u64;
        if self.bad_byte.is_some_and(|b| range.contains(&b)) {
            return Err(io::Error::other("the simulated sector is unreadable"));
        }
        let image = if direct { &self.durable } else { &self.cached };
        self.damaged_reads += u64::from(image.is_damaged(range));
        let there = image.bytes.get(offset as usize..).unwrap_or(&[]);
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        Ok(n)
    }
}

impl PageFile for SimFile {
    fn name(&self) -> String {
        "simulated page file".to_owned()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk().cached.bytes.len() as u64)
    }

    fn read_at_direct(&self, offset: u64, buf: &mut AlignedBuf) -> io::Result<usize> {
        self.disk().read(true, offset, buf)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk().read(false, offset, buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let is_last = disk.begin()?;
        disk.write(offset, bytes);
        if is_last {
            return Err(lost());
        }
        Ok(())
    }

    fn write_meta(&self, offset: u64, page: &AlignedBuf) -> io::Result<()> {
        let mut disk = self.disk();
        let is_last = disk.begin()?;
        if is_last {
            disk.write(offset, page);
            return Err(lost());
        }
        let Disk {
            durable, cached, ..
        } = &mut *disk;
        for image in [durable, cached] {
            image.write(offset, page);
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.fail_flush {
            return Err(io::Error::other("the simulated flush failed"));
        }
        if disk.begin()? {
            return Err(lost());
        }
        let Disk {
            durable, unflushed, ..
        } = &mut *disk;
        unflushed.drain(..).for_each(|change| change.apply(durable));
        Ok(())
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        if disk.space_max.is_some_and(|max| len > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let is_last = disk.begin()?;
        if (disk.cached.bytes.len() as u64) < len {
            disk.cached.resize(len as usize);
            disk.unflushed.push(Change::Len(len));
        }
        if is_last {
            return Err(lost());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let is_last = disk.begin()?;
        disk.cached.resize(len as usize);
        disk.unflushed.push(Change::Len(len));
        if is_last {
            return Err(lost());
        }
        Ok(())
    }

    fn map(&self) -> Option<Arc<Map>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether reading the first two sectors meets damage.
    fn meets(file: &SimFile) -> bool {
        let before = file.damaged_reads();
        file.read_at(0, &mut [0; 2 * SECTOR_BYTES]).unwrap();
        file.damaged_reads() > before
    }

    #[test]
    fn damage_is_met_until_it_is_written_over() {
        let file = SimFile::from_bytes(vec![7; 4 * SECTOR_BYTES]);
        assert!(!meets(&file));
        file.damage(SECTOR_BYTES as u64, |byte| byte ^ 1);
        assert!(meets(&file));
        file.write_at(0, &[1; SECTOR_BYTES]).unwrap();
        assert!(meets(&file), "another sector was written");
        file.write_at(SECTOR_BYTES as u64, &[2; SECTOR_BYTES])
            .unwrap();
        assert!(!meets(&file));
    }

    #[test]
    fn a_crash_brings_damage_back_that_was_not_written_over_durably() {
        let file = SimFile::from_bytes(vec![7; 2 * SECTOR_BYTES]);
        file.damage(3, |byte| byte ^ 1);
        file.write_at(0, &[1; SECTOR_BYTES]).unwrap();
        assert!(meets(&file.crash(Keep::None)));
        assert!(!meets(&file.crash(Keep::All)));
        file.flush().unwrap();
        assert!(!meets(&file.crash(Keep::None)));
    }

    #[test]
    fn what_is_written_anyway_is_no_damage() {
        let file = SimFile::from_bytes(vec![7; 2 * SECTOR_BYTES]);
        file.damage(3, |_| 7);
        assert!(!meets(&file));
        file.damage(3, |byte| byte ^ 1);
        file.damage(3, |byte| byte ^ 1);
        assert!(!meets(&file));
        file.damage(2 * SECTOR_BYTES as u64 - 1, |_| 0);
        file.set_len(SECTOR_BYTES as u64).unwrap();
        assert!(!meets(&file));
    }
}
