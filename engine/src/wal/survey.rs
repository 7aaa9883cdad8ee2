//! First look at the directory: which segments there are, whether they are linked, and whose they are.

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::config::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use super::dir::{LogDir, SegmentFile};
use super::format::{BadSegmentHeader, SegmentHeader};
use super::recover::Expect;
use super::recover_error::{At, RecoverError};
use super::scan::SegmentView;
use super::segment::Segment;
use super::walk::SegmentFacts;
use super::{Identity, SegmentId};

/// A segment file and what its header says.
pub(super) struct Surveyed {
    /// `None`: there is no log.
    pub identity: Option<Identity>,
    /// Consecutive, oldest first.
    pub segments: Vec<Found>,
    /// Older files that are not part of the log any more.
    pub released: Vec<(SegmentId, u64)>,
    /// The newest file, usable or not.
    pub newest: SegmentId,
}

pub(super) struct Found {
    pub id: SegmentId,
    pub header: Option<(SegmentHeader, u32)>,
    /// Why the segment cannot be used. No matter if it proves to be a prepared one without batches.
    pub problem: Option<String>,
    /// The file is shorter than its header says: somebody cut it off.
    pub short: bool,
    file_blocks: u32,
}

impl Found {
    pub fn view(&self) -> Option<SegmentView> {
        let (header, _) = self
            .header
            .as_ref()
            .filter(|_| self.problem.is_none() || self.short)?;
        Some(SegmentView {
            id: self.id,
            nonce: header.nonce,
            blocks: header.blocks(),
        })
    }

    /// First segment of the log, not of what is left of it.
    pub fn is_first(&self) -> bool {
        self.header
            .as_ref()
            .is_some_and(|(header, _)| header.predecessor == SegmentId(0))
    }

    pub fn recycled(&self) -> bool {
        self.header
            .as_ref()
            .is_some_and(|(header, _)| header.recycled)
    }

    /// No batch can lie at `block` or behind it.
    pub fn is_full_at(&self, block: u32) -> bool {
        self.header
            .as_ref()
            .is_some_and(|(header, _)| block >= header.blocks())
    }

    /// Blocks to look through: what the file holds.
    pub fn blocks(&self) -> u32 {
        self.file_blocks
    }

    pub fn file_bytes(&self) -> u64 {
        u64::from(self.file_blocks) * BLOCK_BYTES as u64
    }

    pub fn into_segment(self, facts: &[SegmentFacts]) -> Segment {
        // Only segments with a header are kept.
        let (header, header_crc) = self.header.expect("a segment in use has a header");
        let facts = facts.iter().find(|facts| facts.id == self.id);
        Segment {
            header,
            header_crc,
            first_batch: facts.map(|facts| facts.first_batch),
            index_min: facts.and_then(|facts| facts.index_min),
        }
    }
}

/// The oldest segment that must be there for what the tree's meta page says.
fn needed(expect: &Expect) -> Option<SegmentId> {
    let claimed = expect
        .claim
        .filter(|claim| claim.batch > 0)
        .map(|claim| claim.segment);
    expect
        .first_needed
        .filter(|needed| *needed > SegmentId(0))
        .or(claimed)
}

/// Lists and flushes the files and reads the headers from segment `from` on.
pub(super) fn survey(
    dir: &dyn LogDir,
    expect: &Expect,
    from: SegmentId,
    notes: &mut Vec<String>,
) -> Result<Surveyed, RecoverError> {
    let io = |segment: SegmentId, doing, error| RecoverError::Io {
        at: At {
            file: dir.name(segment),
            segment,
            offset: 0,
        },
        doing,
        error,
    };
    let mut files = dir
        .segments()
        .map_err(|error| io(SegmentId(0), "listing the log", error))?;
    files.sort_by_key(|file| file.id);
    let Some(newest) = files.last().map(|file| file.id) else {
        if let Some(segment) = needed(expect) {
            let why = "the tree's meta page needs it, and there is no log at all".to_string();
            return Err(RecoverError::Missing {
                file: dir.name(segment),
                segment,
                why,
            });
        }
        return Ok(Surveyed {
            identity: None,
            segments: Vec::new(),
            released: Vec::new(),
            newest: SegmentId(0),
        });
    };
    for file in files.iter().filter(|file| file.id >= from) {
        dir.flush(file.id)
            .map_err(|error| io(file.id, "flushing", error))?;
    }
    let oldest = oldest_of_run(dir, &files, from, expect, notes)?;
    let (released, run): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.id < oldest);
    let mut segments: Vec<Found> = Vec::with_capacity(run.len());
    let mut identity = expect.identity;
    for file in run {
        let found = look(dir, file, segments.last(), &mut identity)?;
        segments.push(found);
    }
    let Some(identity) = identity else {
        // No header could be read, so there is no more to it than what the first one says.
        return Err(unusable(dir, &segments[0]));
    };
    let released = released
        .into_iter()
        .map(|file| (file.id, file.bytes))
        .collect();
    Ok(Surveyed {
        identity: Some(identity),
        segments,
        released,
        newest,
    })
}

/// The error for a segment that the log needs and that cannot be used.
pub(super) fn unusable(dir: &dyn LogDir, found: &Found) -> RecoverError {
    let at = At {
        file: dir.name(found.id),
        segment: found.id,
        offset: 0,
    };
    let why = found
        .problem
        .clone()
        .unwrap_or_else(|| "the segment cannot be used".into());
    RecoverError::BadSegment { at, why }
}

/// Where the consecutive run of files that ends with the newest begins.
fn oldest_of_run(
    dir: &dyn LogDir,
    files: &[SegmentFile],
    from: SegmentId,
    expect: &Expect,
    notes: &mut Vec<String>,
) -> Result<SegmentId, RecoverError> {
    let mut oldest = SegmentId(0);
    let mut gap = None;
    for (i, file) in files.iter().enumerate().filter(|(_, file)| file.id >= from) {
        let follows = i > 0 && files[i - 1].id >= from && files[i - 1].id.next() == file.id;
        if !follows {
            gap = (i > 0 && files[i - 1].id >= from).then(|| files[i - 1].id.next());
            oldest = file.id;
        }
    }
    let missing = |segment: SegmentId, why: &str| {
        Err(RecoverError::Missing {
            file: dir.name(segment),
            segment,
            why: why.to_string(),
        })
    };
    if oldest == SegmentId(0) {
        return missing(from, "it comes after a damaged one");
    }
    if let Some(segment) = needed(expect).filter(|needed| *needed < oldest) {
        // The one that is not there may be a later one, with which the run begins.
        let segment = gap.filter(|gap| *gap > segment).unwrap_or(segment);
        return missing(segment, "the tree's meta page needs it, or an older one");
    }
    if let Some(segment) = gap {
        // Without word from the tree every segment counts.
        if expect.first_needed.is_none() {
            return missing(segment, "there are older and newer ones");
        }
        notes.push(format!(
            "{} and older segments are no longer needed and incomplete, given up",
            dir.name(segment)
        ));
    }
    Ok(oldest)
}

/// Reads the header of one file and checks it against its name, length, owner and predecessor.
fn look(
    dir: &dyn LogDir,
    file: SegmentFile,
    previous: Option<&Found>,
    identity: &mut Option<Identity>,
) -> Result<Found, RecoverError> {
    let at = At {
        file: dir.name(file.id),
        segment: file.id,
        offset: 0,
    };
    let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
    let read = dir.read_at(file.id, 0, block.as_mut_slice());
    let read = read.map_err(|error| RecoverError::Io {
        at: at.clone(),
        doing: "reading",
        error,
    })?;
    let file_blocks = u32::try_from(file.bytes.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX);
    let mut found = Found {
        id: file.id,
        header: None,
        problem: None,
        short: false,
        file_blocks,
    };
    match SegmentHeader::parse(&block.as_slice()[..read]) {
        Ok((header, crc)) => {
            let expected = *identity.get_or_insert(header.identity);
            if expected != header.identity {
                return Err(RecoverError::Foreign {
                    at,
                    found: header.identity,
                    expected,
                });
            }
            found.problem = contradiction(&header, file.id, previous);
            found.short = file.bytes < header.bytes;
            if found.problem.is_none() && found.short {
                found.problem = Some(format!(
                    "the file has {} bytes of {}",
                    file.bytes, header.bytes
                ));
            } else {
                found.short = false;
            }
            found.header = Some((header, crc));
        }
        Err(BadSegmentHeader::Version(version)) => {
            return Err(RecoverError::Version { at, found: version })
        }
        Err(BadSegmentHeader::Short) => {
            found.problem = Some(format!("the file has {} bytes only", file.bytes))
        }
        Err(BadSegmentHeader::Crc) => {
            found.problem = Some("the header of the segment fails its checksum".into())
        }
        Err(BadSegmentHeader::Magic) => found.problem = Some("this is not a log segment".into()),
    }
    Ok(found)
}

fn contradiction(
    header: &SegmentHeader,
    id: SegmentId,
    previous: Option<&Found>,
) -> Option<String> {
    if header.segment != id {
        return Some(format!("the header is that of segment {}", header.segment));
    }
    let aligned = header.bytes % BLOCK_BYTES as u64 == 0;
    if !aligned || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&header.bytes) {
        return Some(format!(
            "the header states an impossible length of {} bytes",
            header.bytes
        ));
    }
    match previous {
        None if header.predecessor != SegmentId(0) && header.predecessor.next() != id => Some(
            format!("the header names {} as its predecessor", header.predecessor),
        ),
        Some(previous) if header.predecessor != previous.id => Some(format!(
            "the header does not name {} as its predecessor",
            previous.id
        )),
        Some(Found {
            header: Some((_, crc)),
            ..
        }) if *crc != header.predecessor_crc => {
            Some("the header names another life of its predecessor".into())
        }
        _ => None,
    }
}
