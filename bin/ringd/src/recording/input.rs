//! Inputs as bytes, and back.
//!
//! What came from a client, another member or the clock is kept whole. Of a job's end the trace keeps which job it was, and
//! a digest of what came of it.

use super::codec::{digest, Malformed, Reader, Writer};
use crate::{
    member::{Input, SnapshotChunk, SnapshotFormat, UpkeepDone},
    peers::PeerFailure,
    request::{CallId, PeerRequest, Request},
};
use bytes::Bytes;
use std::io;

/// What an input says.
pub enum Told {
    /// All of it.
    Input(Input),
    /// That something was carried out; with an error if it failed in a way that a replay takes over.
    Done(Done, io::Result<()>),
}

/// The name of a job of the disk, among those that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    LogWritten { tag: u64 },
    LogFile { tag: u64 },
    LogRead { from: u64 },
    Fetched { id: u64 },
    Checkpointed,
    CheckpointFull,
    Grown,
    PagesScrubbed,
    LogScrubbed,
    PromisesWritten,
    Reapplied,
    Prepared { peer: u64, id: u64 },
    SnapshotRead { peer: u64, id: u64, offset: u64 },
    Staged { transfer: u64 },
    Installed,
}

/// An input as a trace has it.
pub fn encode(input: &Input) -> Vec<u8> {
    let mut out = Writer::default();
    encode_into(input, &mut out);
    out.0
}

pub(super) fn encode_into(input: &Input, out: &mut Writer) {
    match input {
        Input::Ask { call, request } => {
            out.u8(1);
            out.u64(call.0);
            encode_request(request, out);
        }
        Input::Cancel { call } => {
            out.u8(2);
            out.u64(call.0);
        }
        Input::Blocked { call, blocked } => {
            out.u8(3);
            out.u64(call.0);
            out.flag(*blocked);
        }
        Input::Message(message) => {
            out.u8(4);
            out.message(&**message);
        }
        Input::Unreachable { peer } => {
            out.u8(5);
            out.u64(*peer);
        }
        Input::Refused { peer } => {
            out.u8(6);
            out.u64(*peer);
        }
        Input::Connected { peer, connected } => {
            out.u8(7);
            out.u64(*peer);
            out.flag(*connected);
        }
        Input::PeerAnswered { ask, result } => {
            out.u8(8);
            out.u64(*ask);
            match result {
                Ok(body) => {
                    out.u32(0);
                    out.bytes(body);
                }
                Err(failure) => {
                    out.u32(u32::from(failure.code) + 1);
                    out.bytes(&failure.body);
                }
            }
        }
        Input::RemovedHere => out.u8(9),
        Input::WentBack { why } => {
            out.u8(14);
            out.text(why);
        }
        Input::Stop => out.u8(10),
        Input::Wake => out.u8(11),
        Input::Pulse => out.u8(12),
        Input::Work => out.u8(13),
        Input::LogWritten { .. }
        | Input::LogFile { .. }
        | Input::LogRead { .. }
        | Input::Fetched { .. }
        | Input::Checkpointed { .. }
        | Input::CheckpointFull { .. }
        | Input::Upkeep(_) => encode_disk(input, out),
        Input::SnapshotPrepared { .. }
        | Input::SnapshotWanted { .. }
        | Input::SnapshotRead { .. }
        | Input::SnapshotSent { .. }
        | Input::SnapshotChunk(_)
        | Input::Staged { .. }
        | Input::Installed { .. } => encode_snapshot(input, out),
    }
}

fn encode_disk(input: &Input, out: &mut Writer) {
    match input {
        Input::LogWritten { tag, result, .. } => {
            out.u8(20);
            out.u64(*tag);
            out.outcome(result);
        }
        Input::LogFile { tag, result } => {
            out.u8(21);
            out.u64(*tag);
            out.outcome(result);
        }
        Input::LogRead { from, result } => {
            out.u8(22);
            out.u64(*from);
            let mut found = Writer::default();
            match result {
                Ok(entries) => entries.iter().for_each(|entry| found.message(entry)),
                Err(error) => found.text(&error.to_string()),
            }
            out.u64(digest(&found.0));
        }
        Input::Fetched { done } => {
            out.u8(23);
            out.u64(done.id());
            let outcomes: Vec<_> = done.outcomes().collect();
            out.u64(digest(format!("{outcomes:?}").as_bytes()));
        }
        Input::Checkpointed { result } => {
            out.u8(24);
            out.outcome(result);
            if let Ok(done) = result {
                out.u64(done.checkpoint());
                out.u64(done.file_bytes().unwrap_or(u64::MAX));
                out.flag(done.is_short_of_space());
            }
        }
        Input::CheckpointFull { .. } => out.u8(25),
        Input::Upkeep(UpkeepDone::Grown(result)) => {
            out.u8(26);
            out.outcome(result);
            out.u64(*result.as_ref().unwrap_or(&0));
        }
        Input::Upkeep(UpkeepDone::Pages(done)) => {
            out.u8(27);
            out.u64(digest(format!("{done:?}").as_bytes()));
        }
        Input::Upkeep(UpkeepDone::Log(job, result)) => {
            out.u8(28);
            let result = result.as_ref().map_err(ToString::to_string);
            out.u64(digest(format!("{job:?} {result:?}").as_bytes()));
        }
        Input::Upkeep(UpkeepDone::Promises((promises, result))) => {
            out.u8(29);
            out.outcome(result);
            out.u64(digest(&promises.encode()));
        }
        Input::Upkeep(UpkeepDone::Reapplied(done)) => {
            out.u8(30);
            out.u64(done.applied());
        }
        _ => {}
    }
}

fn encode_snapshot(input: &Input, out: &mut Writer) {
    match input {
        Input::SnapshotPrepared { peer, id, result } => {
            out.u8(40);
            out.u64(*peer);
            out.u64(*id);
            let bytes = result.as_ref().map(|source| source.bytes());
            out.u64(digest(format!("{bytes:?}").as_bytes()));
        }
        Input::SnapshotWanted {
            peer,
            id,
            format,
            offset,
        } => {
            out.u8(41);
            out.u64(*peer);
            out.u64(*id);
            out.flag(*format == SnapshotFormat::Etcd);
            out.u64(*offset);
        }
        Input::SnapshotRead {
            peer,
            id,
            offset,
            result,
        } => {
            out.u8(42);
            out.u64(*peer);
            out.u64(*id);
            out.u64(*offset);
            out.outcome(result);
            out.u64(result.as_ref().map_or(0, |bytes| digest(bytes)));
        }
        Input::SnapshotSent {
            peer,
            id,
            delivered,
        } => {
            out.u8(43);
            out.u64(*peer);
            out.u64(*id);
            out.flag(*delivered);
        }
        Input::SnapshotChunk(chunk) => {
            out.u8(44);
            out.u64(chunk.transfer);
            out.u64(chunk.id);
            out.flag(chunk.format == SnapshotFormat::Etcd);
            out.u64(chunk.offset);
            out.flag(chunk.last);
            out.message(&*chunk.message);
            out.bytes(&chunk.bytes);
        }
        Input::Staged { transfer, staged } => {
            out.u8(45);
            out.u64(*transfer);
            let offset = staged.result.as_ref().map(|copy| copy.offset());
            out.u64(digest(format!("{offset:?}").as_bytes()));
        }
        Input::Installed { result } => {
            out.u8(46);
            let found = result.as_ref();
            let found = found.map(|store| (store.applied(), store.revision()));
            out.u64(digest(format!("{found:?}").as_bytes()));
        }
        _ => {}
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Told, Malformed> {
    let mut reader = Reader(bytes);
    let r = &mut reader;
    let kind = r.u8()?;
    let input = match kind {
        1 => Input::Ask {
            call: CallId(r.u64()?),
            request: decode_request(r)?,
        },
        2 => Input::Cancel {
            call: CallId(r.u64()?),
        },
        3 => Input::Blocked {
            call: CallId(r.u64()?),
            blocked: r.flag()?,
        },
        4 => Input::Message(Box::new(r.message()?)),
        5 => Input::Unreachable { peer: r.u64()? },
        6 => Input::Refused { peer: r.u64()? },
        7 => Input::Connected {
            peer: r.u64()?,
            connected: r.flag()?,
        },
        8 => {
            let (ask, code) = (r.u64()?, r.u32()?);
            let body = Bytes::copy_from_slice(r.bytes()?);
            let result = match code.checked_sub(1) {
                None => Ok(body),
                Some(code) => Err(PeerFailure {
                    code: code as u16,
                    body,
                }),
            };
            Input::PeerAnswered { ask, result }
        }
        9 => Input::RemovedHere,
        14 => Input::WentBack { why: r.text()? },
        10 => Input::Stop,
        11 => Input::Wake,
        12 => Input::Pulse,
        13 => Input::Work,
        41 => Input::SnapshotWanted {
            peer: r.u64()?,
            id: r.u64()?,
            format: format(r)?,
            offset: r.u64()?,
        },
        43 => Input::SnapshotSent {
            peer: r.u64()?,
            id: r.u64()?,
            delivered: r.flag()?,
        },
        44 => Input::SnapshotChunk(SnapshotChunk {
            transfer: r.u64()?,
            id: r.u64()?,
            format: format(r)?,
            offset: r.u64()?,
            last: r.flag()?,
            message: Box::new(r.message()?),
            bytes: Bytes::copy_from_slice(r.bytes()?),
        }),
        _ => return decode_done(kind, r),
    };
    match reader.0 {
        [] => Ok(Told::Input(input)),
        _ => Err(Malformed("an input is longer than it says")),
    }
}

fn format(r: &mut Reader<'_>) -> Result<SnapshotFormat, Malformed> {
    Ok(match r.flag()? {
        true => SnapshotFormat::Etcd,
        false => SnapshotFormat::Ringd,
    })
}

fn decode_done(kind: u8, r: &mut Reader<'_>) -> Result<Told, Malformed> {
    let done = match kind {
        20 => Done::LogWritten { tag: r.u64()? },
        21 => Done::LogFile { tag: r.u64()? },
        22 => Done::LogRead { from: r.u64()? },
        23 => Done::Fetched { id: r.u64()? },
        24 => Done::Checkpointed,
        25 => Done::CheckpointFull,
        26 => Done::Grown,
        27 => Done::PagesScrubbed,
        28 => Done::LogScrubbed,
        29 => Done::PromisesWritten,
        30 => Done::Reapplied,
        40 => Done::Prepared {
            peer: r.u64()?,
            id: r.u64()?,
        },
        42 => Done::SnapshotRead {
            peer: r.u64()?,
            id: r.u64()?,
            offset: r.u64()?,
        },
        45 => Done::Staged { transfer: r.u64()? },
        46 => Done::Installed,
        _ => return Err(Malformed("an input of unknown kind")),
    };
    let outcome = match done {
        Done::LogWritten { .. }
        | Done::LogFile { .. }
        | Done::Checkpointed
        | Done::PromisesWritten
        | Done::Grown
        | Done::SnapshotRead { .. } => r.outcome()?,
        _ => Ok(()),
    };
    Ok(Told::Done(done, outcome))
}

/// Numbers each variant and names its message, once for both directions.
macro_rules! requests {
    ($($number:literal $variant:ident,)* ; $($empty_number:literal $empty:ident,)*) => {
        fn encode_request(request: &Request, out: &mut Writer) {
            match request {
                $(Request::$variant(request) => {
                    out.u8($number);
                    out.message(request);
                })*
                $(Request::$empty => out.u8($empty_number),)*
                Request::Txn(txn) => {
                    out.u8(101);
                    out.message(&**txn);
                }
                Request::Peer(request) => {
                    out.u8(102);
                    encode_peer_request(request, out);
                }
            }
        }

        fn decode_request(r: &mut Reader<'_>) -> Result<Request, Malformed> {
            Ok(match r.u8()? {
                $($number => Request::$variant(r.message()?),)*
                $($empty_number => Request::$empty,)*
                101 => Request::Txn(Box::new(r.message()?)),
                102 => Request::Peer(decode_peer_request(r)?),
                _ => return Err(Malformed("a request of unknown kind")),
            })
        }
    };
}

requests! {
    1 Range,
    2 RangeStream,
    3 Put,
    4 DeleteRange,
    5 Compact,
    6 Watch,
    7 LeaseGrant,
    8 LeaseRevoke,
    9 LeaseKeepAlive,
    10 LeaseTimeToLive,
    11 MemberList,
    12 Alarm,
    13 HashKv,
    14 MoveLeader,
    15 Downgrade,
    16 MemberAdd,
    17 MemberRemove,
    18 MemberUpdate,
    19 MemberPromote,
    ;
    50 LeaseLeases,
    51 Status,
    52 Defragment,
    53 Hash,
    54 Snapshot,
}

fn encode_peer_request(request: &PeerRequest, out: &mut Writer) {
    match request {
        PeerRequest::Members => out.u8(1),
        PeerRequest::Version => out.u8(2),
        PeerRequest::HashKv { revision } => {
            out.u8(3);
            out.u64(*revision as u64);
        }
        PeerRequest::DowngradeEnabled => out.u8(4),
        PeerRequest::KeepAlive(request) => {
            out.u8(5);
            out.message(request);
        }
        PeerRequest::TimeToLive(request) => {
            out.u8(6);
            out.message(request);
        }
        PeerRequest::Promote { id } => {
            out.u8(7);
            out.u64(*id);
        }
        PeerRequest::Results(body) => {
            out.u8(8);
            out.bytes(body);
        }
        PeerRequest::Copy(body) => {
            out.u8(9);
            out.bytes(body);
        }
    }
}

fn decode_peer_request(r: &mut Reader<'_>) -> Result<PeerRequest, Malformed> {
    Ok(match r.u8()? {
        1 => PeerRequest::Members,
        2 => PeerRequest::Version,
        3 => PeerRequest::HashKv {
            revision: r.u64()? as i64,
        },
        4 => PeerRequest::DowngradeEnabled,
        5 => PeerRequest::KeepAlive(r.message()?),
        6 => PeerRequest::TimeToLive(r.message()?),
        7 => PeerRequest::Promote { id: r.u64()? },
        8 => PeerRequest::Results(r.bytes()?.to_vec().into()),
        9 => PeerRequest::Copy(r.bytes()?.to_vec().into()),
        _ => return Err(Malformed("a question of unknown kind")),
    })
}
