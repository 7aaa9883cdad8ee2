//! A human-readable listing of log files, for whoever has to look into one.

use std::fmt::{self, Write as _};
use std::io;

use proto::raftpb::EntryType;

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::dir::{LogDir, SegmentFile};
use super::format::{BatchHeader, SegmentHeader};
use super::record::{Mark, Record, Records};
use super::scan::{Reader, SegmentView};

const READ_WINDOW_BYTES: usize = 1 << 20;
/// Entry data shown, in bytes.
const DATA_SHOWN_BYTES: usize = 32;

/// Writes a listing of everything in the directory to `out`: segment headers, batches and, with `records`, what is in
/// them. It judges nothing: batches that are not part of the log any more are listed too, and marked. Gaps are stated.
pub fn dump(dir: &dyn LogDir, records: bool, out: &mut dyn io::Write) -> io::Result<()> {
    let mut files = dir.segments()?;
    files.sort_by_key(|file| file.id);
    let mut chain = Chain::default();
    for file in files {
        writeln!(out, "segment {}: {} bytes", dir.name(file.id), file.bytes)?;
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        let read = dir.read_at(file.id, 0, block.as_mut_slice())?;
        match SegmentHeader::parse(&block.as_slice()[..read]) {
            Ok((header, crc)) => {
                writeln!(out, "  {}", Described(&header, crc))?;
                dump_batches(dir, file, &header, records, &mut chain, out)?;
            }
            Err(bad) => writeln!(out, "  header not valid: {bad:?}")?,
        }
    }
    Ok(())
}

/// The batch listed last that continued the log, and its CRC.
#[derive(Default)]
struct Chain {
    last: Option<(BatchHeader, u32)>,
}

impl Chain {
    /// Whether a batch goes on from the last one; it becomes the last one if so.
    fn take(&mut self, header: &BatchHeader, crc: u32) -> bool {
        let follows = self.last.is_none_or(|(last, last_crc)| {
            header.sequence == last.sequence + 1
                && header.previous_crc == last_crc
                && (header.opening || header.incarnation == last.incarnation)
        });
        if follows {
            self.last = Some((*header, crc));
        }
        follows
    }
}

fn dump_batches(
    dir: &dyn LogDir,
    file: SegmentFile,
    segment: &SegmentHeader,
    records: bool,
    chain: &mut Chain,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let view = SegmentView {
        id: file.id,
        nonce: segment.nonce,
        blocks: segment.blocks(),
    };
    let mut reader = Reader::new(dir, segment.identity, READ_WINDOW_BYTES);
    let in_file = u32::try_from(file.bytes.div_ceil(BLOCK_BYTES as u64)).unwrap_or(u32::MAX);
    let end = view.blocks.min(in_file);
    let mut block = 1;
    let mut other_from = None;
    while block < end {
        let Some((header, crc)) = reader.header(&view, block).map_err(|failed| failed.error)?
        else {
            other_from.get_or_insert(block);
            block += 1;
            continue;
        };
        dump_other(out, &mut other_from, block)?;
        let payload = reader
            .payload(&view, &header)
            .map_err(|failed| failed.error)?;
        let note = match (&payload, payload.is_some() && chain.take(&header, crc)) {
            (None, _) => "  PAYLOAD CRC WRONG",
            (Some(_), false) => "  NOT CHAINED",
            (Some(_), true) => "",
        };
        writeln!(out, "  {}{note}", DescribedBatch(&header, crc))?;
        match payload {
            Some(payload) if records => dump_records(Records::new(payload), out)?,
            Some(_) => {}
            // A batch that is not whole may be followed, within its length, by another that is.
            None => {
                block += 1;
                continue;
            }
        }
        block += header.blocks;
    }
    dump_other(out, &mut other_from, end)
}

fn dump_other(out: &mut dyn io::Write, from: &mut Option<u32>, to: u32) -> io::Result<()> {
    match from.take() {
        Some(from) => writeln!(
            out,
            "  blocks {from} to {}: no batch of this segment",
            to - 1
        ),
        None => Ok(()),
    }
}

fn dump_records(records: Records, out: &mut dyn io::Write) -> io::Result<()> {
    for record in records {
        match record {
            Ok(record) => writeln!(out, "    {}", DescribedRecord(&record))?,
            Err(bad) => writeln!(out, "    at payload offset {}: {}", bad.offset, bad.why)?,
        }
    }
    Ok(())
}

struct Described<'a>(&'a SegmentHeader, u32);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Described(header, crc) = self;
        write!(
            f,
            "cluster {:x} member {:x} ",
            header.identity.cluster_id, header.identity.member_id
        )?;
        write!(
            f,
            "length {} nonce {:016x} crc {crc:08x} ",
            header.bytes, header.nonce
        )?;
        write!(
            f,
            "predecessor {} ({:08x})",
            header.predecessor.0, header.predecessor_crc
        )?;
        f.write_str(if header.recycled { " recycled" } else { "" })
    }
}

struct DescribedBatch<'a>(&'a BatchHeader, u32);

impl fmt::Display for DescribedBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DescribedBatch(header, crc) = self;
        write!(
            f,
            "offset {:8} ",
            u64::from(header.block) * BLOCK_BYTES as u64
        )?;
        write!(f, "batch {} claims {} ", header.sequence, header.claim)?;
        write!(
            f,
            "records {} bytes {} ",
            header.records, header.payload_bytes
        )?;
        write!(
            f,
            "incarnation {:016x} crc {crc:08x} previous {:08x}",
            header.incarnation, header.previous_crc
        )?;
        f.write_str(if header.opening { " opening" } else { "" })?;
        f.write_str(if header.seal { " seal" } else { "" })
    }
}

struct DescribedRecord<'a>(&'a Record);

impl fmt::Display for DescribedRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Record::Entry(entry) => {
                let kind = entry.r#type.unwrap_or(0);
                match EntryType::try_from(kind) {
                    Ok(kind) => write!(
                        f,
                        "entry {} term {} ",
                        entry.index.unwrap_or(0),
                        entry.term.unwrap_or(0)
                    )
                    .and_then(|()| f.write_str(kind.as_str_name())),
                    Err(_) => write!(
                        f,
                        "entry {} term {} type {kind}",
                        entry.index.unwrap_or(0),
                        entry.term.unwrap_or(0)
                    ),
                }?;
                let data = entry.data.as_deref().unwrap_or(&[]);
                write!(f, " {} bytes ", data.len())?;
                data.iter()
                    .take(DATA_SHOWN_BYTES)
                    .try_for_each(|byte| match byte {
                        b' '..=b'~' => f.write_char(char::from(*byte)),
                        _ => f.write_char('.'),
                    })
            }
            Record::HardState(state) => write!(
                f,
                "hard state: term {} vote {:x} commit {}",
                state.term.unwrap_or(0),
                state.vote.unwrap_or(0),
                state.commit.unwrap_or(0)
            ),
            Record::Mark(Mark::Start { index, term }) => {
                write!(f, "start after entry {index} term {term}")
            }
            Record::Mark(Mark::Checkpoint {
                number,
                index,
                term,
            }) => {
                write!(f, "checkpoint {number} holds entry {index} term {term}")
            }
            Record::Mark(Mark::Membership { index, members }) => {
                write!(f, "members at entry {index}: {members:?}")
            }
        }
    }
}
