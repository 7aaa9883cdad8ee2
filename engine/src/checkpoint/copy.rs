//! Copying a durable checkpoint to another member: a byte stream that can be produced from any place on, and the page
//! file that grows out of it there (FORMAT.md, "Copy of a checkpoint").
//!
//! The stream is a header that names every run of pages, the runs in pieces with a checksum each, and a checksum over all
//! of these. Page numbers stay what they are, so the copy is the checkpoint itself: the same trees under the same roots.
//! Nothing of it can be opened before [`Copy::finish`] wrote the meta page.

use super::{
    bytes_of,
    index::Index,
    meta::{self, blank_meta_page},
    Completed, Pin, CONTENT_BYTES_MAX, ROOTS_MAX,
};
use crate::planted::{planted, Fault};
use crate::{
    page::{
        u32_at, u64_at, AlignedBuf, Extent, Header, Kind, PageError, PageFault, PageFile, PageNo,
        HEADER_BYTES, META_PAGES, PAGE_BYTES,
    },
    tree::Tree,
};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const MAGIC: &[u8; 8] = b"ringdcpy";
const VERSION: u32 = 1;
/// Pages of a piece at most.
const PIECE_PAGES: u32 = 256;
const CRC_BYTES: usize = 4;
/// Magic, version, length of the rest of the header.
const PREFIX_BYTES: usize = 16;
/// The longest header that is taken: some eight million runs.
const HEADER_BYTES_MAX: usize = 64 << 20;

/// A pinned checkpoint, ready to be sent. Shared by the jobs that read it.
pub struct CopySource {
    pin: Pin,
    header: Vec<u8>,
    layout: Layout,
    /// Checksums of the pieces that were read, by place: the last part of the stream needs all of them.
    crcs: Mutex<BTreeMap<usize, u32>>,
}

/// Where the pieces lie in the stream.
#[derive(Clone)]
struct Layout {
    header_bytes: u64,
    /// First byte and pages of each piece.
    pieces: Vec<(u64, Extent)>,
    /// Length of the stream.
    bytes: u64,
}

impl Layout {
    fn new(header_bytes: usize, runs: &[Extent]) -> Layout {
        let mut at = header_bytes as u64;
        let mut pieces = Vec::new();
        for run in runs {
            let mut no = run.start.0;
            while no < run.end() {
                let pages = PIECE_PAGES.min(run.end() - no);
                let start = PageNo(no);
                pieces.push((at, Extent { start, pages }));
                at += CRC_BYTES as u64 + u64::from(pages) * PAGE_BYTES as u64;
                no += pages;
            }
        }
        Layout {
            header_bytes: header_bytes as u64,
            pieces,
            bytes: at + CRC_BYTES as u64,
        }
    }
}

impl Pin {
    /// Finds out what there is to copy. Reads the checkpoint's index: to be run where waiting for the device is allowed.
    pub fn into_source(self) -> Result<CopySource, String> {
        let extent = self.completed.index;
        let mut bytes = vec![0; bytes_of(extent)];
        let read = self.file.read_at(extent.start.offset(), &mut bytes);
        if !matches!(read, Ok(count) if count == bytes.len()) {
            return Err(format!(
                "the checkpoint's index cannot be read: {}",
                read.map_or_else(|error| error.to_string(), |_| "the file is cut".into())
            ));
        }
        Header::check(&bytes, extent.start).map_err(|fault| format!("index: {fault:?}"))?;
        let payload_bytes = Header::of_bytes(&bytes).payload_len() as usize;
        let payload = bytes
            .get(HEADER_BYTES..HEADER_BYTES + payload_bytes)
            .ok_or("the checkpoint's index is cut")?;
        let index = Index::decode(payload, self.completed.high)?;
        let mut unused = index.free;
        unused.extend(index.retired);
        unused.sort_unstable();
        let runs = used_runs(self.completed.high, &unused);
        let header = encode_header(&self.completed, crc32fast::hash(&bytes), &runs);
        Ok(CopySource {
            layout: Layout::new(header.len(), &runs),
            header,
            crcs: Mutex::default(),
            pin: self,
        })
    }
}

/// What is left of the file without its meta pages and the pages that are not in use.
fn used_runs(high: u32, unused: &[Extent]) -> Vec<Extent> {
    let mut runs = Vec::new();
    let mut no = META_PAGES;
    for extent in unused {
        if extent.start.0 > no {
            let pages = extent.start.0 - no;
            let start = PageNo(no);
            runs.push(Extent { start, pages });
        }
        no = no.max(extent.end());
    }
    if no < high {
        let pages = high - no;
        let start = PageNo(no);
        runs.push(Extent { start, pages });
    }
    runs
}

fn encode_header(completed: &Completed, index_crc: u32, runs: &[Extent]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend_from_slice(&completed.number.to_le_bytes());
    let mut put = |value: u32| rest.extend_from_slice(&value.to_le_bytes());
    put(completed.high);
    put(completed.index.start.0);
    put(completed.index.pages);
    put(index_crc);
    put(completed.roots.len() as u32);
    put(completed.content.len() as u32);
    put(runs.len() as u32);
    completed.roots.iter().for_each(|tree| put(tree.root.0));
    for run in runs {
        put(run.start.0);
        put(run.pages);
    }
    rest.extend_from_slice(&completed.content);
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&((rest.len() + CRC_BYTES) as u32).to_le_bytes());
    header.extend_from_slice(&rest);
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header
}

struct Announced {
    completed: Completed,
    index_crc: u32,
    runs: Vec<Extent>,
}

/// Bytes before the lists: number, high, index (3), three counts.
const FIXED_BYTES: usize = 8 + 7 * 4;

fn decode_header(header: &[u8]) -> Result<Announced, CopyError> {
    let bad = CopyError::Malformed;
    let (body, crc) = header.split_at(header.len() - CRC_BYTES);
    if u32_at(crc, 0) != crc32fast::hash(body) {
        return Err(bad("the header's checksum does not match"));
    }
    let rest = &body[PREFIX_BYTES..];
    if rest.len() < FIXED_BYTES {
        return Err(bad("the header is too short"));
    }
    let number = |at: usize| u32_at(rest, 8 + 4 * at);
    let (high, index) = (number(0), number(1));
    let index = Extent {
        start: PageNo(index),
        pages: number(2),
    };
    let (roots, content, runs) = (number(4) as usize, number(5) as usize, number(6) as usize);
    let lists = roots
        .saturating_mul(4)
        .saturating_add(runs.saturating_mul(8))
        .saturating_add(content);
    if roots > ROOTS_MAX || content > CONTENT_BYTES_MAX || rest.len() - FIXED_BYTES != lists {
        return Err(bad("the header states more than it holds"));
    }
    let (roots_at, runs_at) = (FIXED_BYTES, FIXED_BYTES + 4 * roots);
    let runs_end = runs_at + 8 * runs;
    let run = |n: usize| Extent {
        start: PageNo(u32_at(rest, runs_at + 8 * n)),
        pages: u32_at(rest, runs_at + 8 * n + 4),
    };
    let runs: Vec<Extent> = (0..runs).map(run).collect();
    let mut least = META_PAGES;
    for run in &runs {
        if run.start.0 < least || run.pages == 0 || run.end() > high {
            return Err(bad("the runs are not ascending"));
        }
        least = run.end();
    }
    let inside = |run: &Extent| run.start <= index.start && index.end() <= run.end();
    if index.pages == 0 || !runs.iter().any(inside) {
        return Err(bad("the index is not among the pages"));
    }
    let root = |n: usize| Tree::at(PageNo(u32_at(rest, roots_at + 4 * n)));
    Ok(Announced {
        completed: Completed {
            number: u64_at(rest, 0),
            slot: 0,
            index,
            roots: (0..roots).map(root).collect(),
            content: Bytes::copy_from_slice(&rest[runs_end..]),
            high,
        },
        index_crc: number(3),
        runs,
    })
}

impl CopySource {
    /// Where the pieces begin in the stream.
    pub fn piece_offsets(&self) -> Vec<u64> {
        let pieces = self.layout.pieces.iter();
        pieces.map(|(offset, _)| *offset).collect()
    }

    /// Length of the stream.
    pub fn bytes(&self) -> u64 {
        self.layout.bytes
    }

    /// What the caller gave the checkpoint.
    pub fn content(&self) -> &Bytes {
        &self.pin.completed.content
    }

    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// The stream from `offset` on: up to the end of a piece, and of a later one while that stays below `bytes_max`. Reads
    /// the page file.
    pub fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = offset;
        while at < self.layout.bytes {
            let part = self.part(at)?;
            if !out.is_empty() && out.len() + part.len() > bytes_max {
                break;
            }
            at += part.len() as u64;
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    /// The rest of the part of the stream that `at` lies in.
    fn part(&self, at: u64) -> io::Result<Vec<u8>> {
        if at < self.layout.header_bytes {
            return Ok(self.header[at as usize..].to_vec());
        }
        let next = self
            .layout
            .pieces
            .partition_point(|(start, _)| *start <= at);
        let trailer = self.layout.bytes - CRC_BYTES as u64;
        if at >= trailer {
            // The checksums of all pieces make the last one.
            let mut all = crc32fast::Hasher::new();
            all.update(&self.header);
            for place in 0..self.layout.pieces.len() {
                let known = self.crcs().get(&place).copied();
                let crc = match known {
                    Some(crc) => crc,
                    None => u32_at(&self.piece(place)?, 0),
                };
                all.update(&crc.to_le_bytes());
            }
            let crc = all.finalize().to_le_bytes();
            return Ok(crc[(at - trailer) as usize..].to_vec());
        }
        let (start, _) = self.layout.pieces[next - 1];
        Ok(self.piece(next - 1)?.split_off((at - start) as usize))
    }

    fn crcs(&self) -> MutexGuard<'_, BTreeMap<usize, u32>> {
        self.crcs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn piece(&self, place: usize) -> io::Result<Vec<u8>> {
        let (_, extent) = self.layout.pieces[place];
        let mut piece = vec![0; CRC_BYTES + bytes_of(extent)];
        let read = self
            .pin
            .file
            .read_at(extent.start.offset(), &mut piece[CRC_BYTES..])?;
        if read + CRC_BYTES != piece.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let crc = crc32fast::hash(&piece[CRC_BYTES..]);
        piece[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
        self.crcs().insert(place, crc);
        Ok(piece)
    }
}

/// Why a copy cannot be used.
#[derive(Debug)]
pub enum CopyError {
    /// The stream contradicts itself: damaged on the way, or of another version.
    Malformed(&'static str),
    /// A page of it is damaged, and was so where it came from.
    Page(PageError),
    Io(io::Error),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Malformed(why) => write!(f, "the copied checkpoint is malformed: {why}"),
            CopyError::Page(error) => {
                write!(f, "the copied checkpoint has a damaged page: {error}")
            }
            CopyError::Io(error) => write!(f, "writing the copied checkpoint failed: {error}"),
        }
    }
}

impl std::error::Error for CopyError {}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> CopyError {
        CopyError::Io(error)
    }
}

/// A copy that is coming in. Its page file is written as far as whole pieces have come.
pub struct Copy {
    file: Arc<dyn PageFile>,
    buffer: Vec<u8>,
    /// Bytes of the stream that were used up, up to the end of a piece.
    taken: u64,
    announced: Option<(Announced, Layout)>,
    /// Pieces taken.
    pieces: usize,
    crcs: crc32fast::Hasher,
    is_whole: bool,
    is_verified: bool,
}

impl Copy {
    /// Begins with an empty file.
    pub fn new(file: Arc<dyn PageFile>) -> Copy {
        Copy {
            file,
            buffer: Vec::new(),
            taken: 0,
            announced: None,
            pieces: 0,
            crcs: crc32fast::Hasher::new(),
            is_whole: false,
            is_verified: false,
        }
    }

    /// Where the stream is to go on after a break; what came of a further piece is forgotten.
    pub fn resume(&mut self) -> u64 {
        self.buffer.clear();
        self.taken
    }

    /// Bytes taken in, those of an unfinished piece included.
    pub fn offset(&self) -> u64 {
        self.taken + self.buffer.len() as u64
    }

    /// Whether everything has come.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// What the sender gave the checkpoint, once the header has come.
    pub fn content(&self) -> Option<&Bytes> {
        let announced = self.announced.as_ref();
        announced.map(|(announced, _)| &announced.completed.content)
    }

    /// Takes the next bytes of the stream and writes the pieces that they complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.buffer.extend_from_slice(bytes);
        if self.announced.is_none() && !self.take_header()? {
            return Ok(());
        }
        let mut used = 0;
        while let Some(piece) = self.next_piece() {
            let len = CRC_BYTES + bytes_of(piece);
            let Some(part) = self.buffer.get(used..used + len) else {
                break;
            };
            let (crc, pages) = part.split_at(CRC_BYTES);
            if u32_at(crc, 0) != crc32fast::hash(pages) && !planted(Fault::CopyUnchecked) {
                return Err(CopyError::Malformed("a piece's checksum does not match"));
            }
            self.file.write_at(piece.start.offset(), pages)?;
            self.crcs.update(crc);
            self.pieces += 1;
            used += len;
        }
        if self.next_piece().is_none() && !self.is_whole {
            if let Some(crc) = self.buffer.get(used..used + CRC_BYTES) {
                if u32_at(crc, 0) != self.crcs.clone().finalize() {
                    return Err(CopyError::Malformed("the last checksum does not match"));
                }
                self.is_whole = true;
                used += CRC_BYTES;
            }
        }
        self.buffer.drain(..used);
        self.taken += used as u64;
        match self.is_whole && !self.buffer.is_empty() {
            true => Err(CopyError::Malformed("there is more than was announced")),
            false => Ok(()),
        }
    }

    fn next_piece(&self) -> Option<Extent> {
        let (_, layout) = self.announced.as_ref()?;
        layout.pieces.get(self.pieces).map(|(_, extent)| *extent)
    }

    fn take_header(&mut self) -> Result<bool, CopyError> {
        let Some(prefix) = self.buffer.get(..PREFIX_BYTES) else {
            return Ok(false);
        };
        if prefix[..8] != MAGIC[..] || u32_at(prefix, 8) != VERSION {
            return Err(CopyError::Malformed("it is of an unknown format"));
        }
        let rest = u32_at(prefix, 12) as usize;
        if !(CRC_BYTES..=HEADER_BYTES_MAX).contains(&rest) {
            return Err(CopyError::Malformed("the header's length is out of bounds"));
        }
        let Some(header) = self.buffer.get(..PREFIX_BYTES + rest) else {
            return Ok(false);
        };
        let announced = decode_header(header)?;
        let layout = Layout::new(header.len(), &announced.runs);
        let len = u64::from(announced.completed.high) * PAGE_BYTES as u64;
        self.file.grow(len)?;
        self.crcs.update(header);
        self.taken = header.len() as u64;
        self.buffer.drain(..header.len());
        self.announced = Some((announced, layout));
        Ok(true)
    }

    /// Verifies every page on the device, once everything has come. Reads the whole file.
    pub fn verify(&mut self) -> Result<(), CopyError> {
        let announced = self.announced.as_ref().filter(|_| self.is_whole);
        let Some((announced, _)) = announced else {
            return Err(CopyError::Malformed("the end of it is missing"));
        };
        self.flush()?;
        let unchecked = planted(Fault::CopyUnchecked) || planted(Fault::CopyUnflushed);
        for run in announced.runs.iter().filter(|_| !unchecked) {
            self.verify_run(*run)?;
        }
        self.is_verified = true;
        Ok(())
    }

    /// Writes the meta page with `content` in place of the sender's. From then on the file can be opened; the caller puts
    /// it into place.
    pub fn finish(mut self, content: &[u8]) -> Result<(), CopyError> {
        if !self.is_verified {
            self.verify()?;
        }
        let Some((announced, _)) = self.announced.take() else {
            return Err(CopyError::Malformed("the end of it is missing"));
        };
        if content.len() > CONTENT_BYTES_MAX {
            return Err(CopyError::Malformed("its content is too long"));
        }
        let mut completed = announced.completed;
        completed.content = Bytes::copy_from_slice(content);
        let other = 1 - completed.slot;
        let at = |slot: u32| u64::from(slot) * PAGE_BYTES as u64;
        self.file.write_meta(at(other), &blank_meta_page(other))?;
        let page = meta::encode(&completed, announced.index_crc);
        self.file.write_meta(at(completed.slot), &page)?;
        Ok(self.flush()?)
    }

    fn flush(&self) -> io::Result<()> {
        match planted(Fault::CopyUnflushed) {
            true => Ok(()),
            false => self.file.flush(),
        }
    }

    /// A run is made of whole pages and extents, one behind the other.
    fn verify_run(&self, run: Extent) -> Result<(), CopyError> {
        let failed = |no: u32, fault: PageFault| {
            CopyError::Page(PageError {
                file: self.file.name(),
                page: PageNo(no),
                fault,
            })
        };
        let mut no = run.start.0;
        let mut buffer = AlignedBuf::zeroed(0);
        let mut first = no;
        while no < run.end() {
            let at = (no - first) as usize * PAGE_BYTES;
            if at >= buffer.len() {
                buffer = self.read(no, PIECE_PAGES.min(run.end() - no))?;
                first = no;
                continue;
            }
            let pages = Header::of_bytes(&buffer[at..]).announced_pages();
            let pages = pages.filter(|pages| *pages <= run.end() - no);
            let pages = pages.ok_or_else(|| failed(no, PageFault::Checksum))?;
            let len = pages as usize * PAGE_BYTES;
            if buffer.len() - at < len {
                buffer = self.read(no, pages.max(PIECE_PAGES.min(run.end() - no)))?;
                first = no;
                continue;
            }
            let bytes = &buffer[at..at + len];
            Header::check(bytes, PageNo(no)).map_err(|fault| failed(no, fault))?;
            let kind = Header::of_bytes(bytes).kind();
            if let (Some(Kind::Leaf | Kind::Branch), Some(page)) = (kind, bytes.first_chunk()) {
                crate::tree::check_shape(page)
                    .map_err(|why| failed(no, PageFault::Malformed(why)))?;
            }
            no += pages;
        }
        Ok(())
    }

    fn read(&self, no: u32, pages: u32) -> Result<AlignedBuf, CopyError> {
        let mut buffer = AlignedBuf::zeroed(pages as usize * PAGE_BYTES);
        let read = self.file.read_at_direct(PageNo(no).offset(), &mut buffer)?;
        match read == buffer.len() {
            true => Ok(buffer),
            false => Err(CopyError::Io(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}
