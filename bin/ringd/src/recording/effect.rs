//! Effects as bytes: everything that they say, in a form that does not depend on where it lies in memory.

use super::codec::{digest, Malformed, Reader, Writer};
use crate::member::{Effect, UpkeepJob};
use engine::wal::{FileOp, FileOpKind};

/// An effect as a trace keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectMark {
    pub kind: u8,
    pub bytes: u32,
    pub digest: u64,
}

/// Marks of effects.
pub fn effects(effects: &[Effect]) -> Vec<EffectMark> {
    let mark = |effect| {
        let mut out = Writer::default();
        let kind = encode(effect, &mut out);
        EffectMark {
            kind,
            bytes: out.0.len() as u32,
            digest: digest(&out.0),
        }
    };
    effects.iter().map(mark).collect()
}

#[cfg_attr(not(debug_assertions), allow(dead_code))]
pub(super) fn encode_marks(marks: &[EffectMark], out: &mut Writer) {
    out.u32(marks.len() as u32);
    for mark in marks {
        out.u8(mark.kind);
        out.u32(mark.bytes);
        out.u64(mark.digest);
    }
}

pub(super) fn decode_marks(reader: &mut Reader<'_>) -> Result<Vec<EffectMark>, Malformed> {
    let count = reader.u32()?;
    let mut marks = Vec::new();
    for _ in 0..count {
        marks.push(EffectMark {
            kind: reader.u8()?,
            bytes: reader.u32()?,
            digest: reader.u64()?,
        });
    }
    Ok(marks)
}

/// Writes all that an effect says and gives its kind.
fn encode(effect: &Effect, out: &mut Writer) -> u8 {
    match effect {
        Effect::Reply { call, result } => {
            out.u64(call.0);
            match result {
                Ok(bytes) => out.bytes(bytes),
                Err(status) => {
                    out.u32(status.code);
                    out.text(&status.message);
                }
            }
            1
        }
        Effect::Stream { call, message } => {
            out.u64(call.0);
            out.bytes(message);
            2
        }
        Effect::End { call, status } => {
            out.u64(call.0);
            if let Some(status) = status {
                out.u32(status.code);
                out.text(&status.message);
            }
            3
        }
        Effect::Send(message) => {
            out.message(&**message);
            4
        }
        Effect::AskPeer { ask, peer, request } => {
            out.u64(*ask);
            out.u64(*peer);
            out.text(&format!("{request:?}"));
            5
        }
        Effect::MembersChanged => 6,
        Effect::Wake { after_ns } => {
            out.u64(*after_ns);
            7
        }
        Effect::Removed => 8,
        Effect::Halt(reason) => {
            out.text(reason);
            9
        }
        Effect::WriteLog(_)
        | Effect::LogFile(_)
        | Effect::ReadLog { .. }
        | Effect::Fetch(_)
        | Effect::Checkpoint(_)
        | Effect::Upkeep(_) => encode_disk(effect, out),
        Effect::PrepareSnapshot { .. }
        | Effect::SendSnapshot { .. }
        | Effect::ReadSnapshot { .. }
        | Effect::SnapshotBytes { .. }
        | Effect::CancelSnapshot { .. }
        | Effect::Stage { .. }
        | Effect::SnapshotTaken { .. }
        | Effect::Install(_) => encode_snapshot(effect, out),
    }
}

fn encode_disk(effect: &Effect, out: &mut Writer) -> u8 {
    match effect {
        Effect::WriteLog(write) => {
            out.u64(write.tag);
            out.u64(write.segment.0);
            out.u64(write.offset);
            out.bytes(write.buf.as_slice());
            20
        }
        Effect::LogFile(op) => {
            encode_file_op(op, out);
            21
        }
        Effect::ReadLog { from, job } => {
            out.u64(*from);
            out.text(&format!("{job:?}"));
            22
        }
        Effect::Fetch(job) => {
            out.u64(job.id());
            job.pages().iter().for_each(|page| out.u32(page.0));
            23
        }
        Effect::Checkpoint(job) => {
            out.u64(job.checkpoint());
            out.u32(job.checksum());
            24
        }
        Effect::Upkeep(UpkeepJob::Grow(job)) => {
            out.u64(job.bytes());
            25
        }
        Effect::Upkeep(UpkeepJob::ScrubPages(job)) => {
            let (from, end) = job.slice();
            out.u32(from.0);
            out.u32(end.0);
            26
        }
        Effect::Upkeep(UpkeepJob::ScrubLog(job)) => {
            out.text(&format!("{job:?}"));
            27
        }
        Effect::Upkeep(UpkeepJob::Promises(job)) => {
            out.u64(digest(&job.content()));
            29
        }
        Effect::Upkeep(UpkeepJob::Reapply(job)) => {
            out.u64(job.from());
            30
        }
        _ => 0,
    }
}

fn encode_file_op(op: &FileOp, out: &mut Writer) {
    out.u64(op.tag);
    match &op.kind {
        FileOpKind::Prepare {
            segment,
            recycle,
            bytes,
            header,
            demand,
        } => {
            out.u64(segment.0);
            out.u64(recycle.map_or(u64::MAX, |segment| segment.0));
            out.u64(*bytes);
            out.bytes(header.as_slice());
            out.text(&format!("{demand:?}"));
        }
        FileOpKind::Remove { segment } => out.u64(segment.0),
    }
}

fn encode_snapshot(effect: &Effect, out: &mut Writer) -> u8 {
    match effect {
        Effect::PrepareSnapshot { peer, id, pin } => {
            out.u64(*peer);
            out.u64(*id);
            out.u64(pin.meta().checkpoint);
            40
        }
        Effect::SendSnapshot { peer, id, message } => {
            out.u64(*peer);
            out.u64(*id);
            out.message(&**message);
            41
        }
        Effect::ReadSnapshot {
            peer,
            id,
            offset,
            bytes_max,
            source,
        } => {
            out.u64(*peer);
            out.u64(*id);
            out.u64(*offset);
            out.u64(*bytes_max as u64);
            out.u64(source.bytes().unwrap_or_default());
            42
        }
        Effect::SnapshotBytes {
            peer,
            id,
            offset,
            bytes,
            last,
        } => {
            out.u64(*peer);
            out.u64(*id);
            out.u64(*offset);
            out.bytes(bytes);
            out.flag(*last);
            43
        }
        Effect::CancelSnapshot { peer, id } => {
            out.u64(*peer);
            out.u64(*id);
            44
        }
        Effect::Stage { transfer, job } => {
            out.u64(*transfer);
            out.bytes(job.bytes());
            45
        }
        Effect::SnapshotTaken {
            transfer,
            offset,
            result,
        } => {
            out.u64(*transfer);
            out.u64(*offset);
            match result {
                Ok(last) => out.flag(*last),
                Err(why) => out.text(why),
            }
            46
        }
        Effect::Install(job) => {
            out.u64(job.arriving.offset());
            out.text(&format!("{:?}", job.log));
            47
        }
        _ => 0,
    }
}
