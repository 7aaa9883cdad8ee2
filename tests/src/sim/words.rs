//! Inputs and effects in words for a reader, and as numbers for the hash of the trace.

use prost::Message as _;
use proto::raftpb;
use ringd::member::{Effect, Input, UpkeepDone, UpkeepJob};
use ringd::request::{CallId, Request};

use super::trace::Trace;

pub fn message(m: &raftpb::Message, name: impl Fn(u64) -> String) -> String {
    let entries = match (m.entries.first(), m.entries.last()) {
        (Some(first), Some(last)) => format!(" entries {}..{}", first.index(), last.index()),
        _ => String::new(),
    };
    format!(
        "{} {}->{} term {} log {}/{} commit {}{}{}{entries}",
        m.r#type().as_str_name(),
        name(m.from()),
        name(m.to()),
        m.term(),
        m.log_term(),
        m.index(),
        m.commit(),
        if m.reject() { " reject" } else { "" },
        match m.reject_hint() {
            0 => String::new(),
            hint => format!(" hint {hint}"),
        },
    )
}

pub fn input(input: &Input, name: impl Fn(u64) -> String) -> String {
    match input {
        Input::Ask { call, request } => format!("asked {}: {}", call_name(*call), ask(request)),
        Input::Cancel { call } => format!("cancelled {}", call_name(*call)),
        Input::Blocked { call, blocked } => format!("{} blocked: {blocked}", call_name(*call)),
        Input::LogWritten { tag, result, .. } => format!("log write {tag} done: {result:?}"),
        Input::LogFile { tag, result } => format!("log file {tag} done: {result:?}"),
        Input::LogRead { from, result } => match result {
            Ok(entries) => format!("log read from {from}: {} entries", entries.len()),
            Err(error) => format!("log read from {from}: {error}"),
        },
        Input::Fetched { .. } => "pages fetched".to_string(),
        Input::Checkpointed { result } => match result {
            Ok(done) => format!("checkpoint {} done", done.checkpoint()),
            Err(error) => format!("checkpoint failed: {error}"),
        },
        Input::CheckpointFull { job } => format!("no room for checkpoint {}", job.checkpoint()),
        Input::Upkeep(done) => match done {
            UpkeepDone::Grown(result) => format!("page file grown: {result:?}"),
            UpkeepDone::Pages(done) => format!("pages scrubbed: {done:?}"),
            UpkeepDone::Log(_, result) => format!("log scrubbed: {result:?}"),
            UpkeepDone::Promises(written) => format!("promises written: {written:?}"),
            UpkeepDone::Reapplied(done) => format!("a copy has entry {}", done.applied()),
        },
        Input::Message(m) => format!("got {}", message(m, name)),
        Input::Unreachable { peer } => format!("unreachable: {}", name(*peer)),
        Input::Refused { peer } => format!("refused by {}", name(*peer)),
        Input::Connected { peer, connected } => format!("{} connected: {connected}", name(*peer)),
        Input::PeerAnswered { ask, result } => match result {
            Ok(body) => format!("ask {ask} answered, {} bytes", body.len()),
            Err(failure) => format!("ask {ask} failed: {}", failure.code),
        },
        Input::SnapshotPrepared { peer, id, result } => match result {
            Ok(source) => format!(
                "snapshot {id:x} for {} prepared: {} bytes",
                name(*peer),
                source.bytes()
            ),
            Err(error) => format!("snapshot {id:x} for {} failed: {error}", name(*peer)),
        },
        Input::SnapshotWanted {
            peer, id, offset, ..
        } => {
            format!("snapshot {id:x} wanted by {} from {offset}", name(*peer))
        }
        Input::SnapshotRead { offset, result, .. } => match result {
            Ok(bytes) => format!("snapshot read at {offset}: {} bytes", bytes.len()),
            Err(error) => format!("snapshot read at {offset}: {error}"),
        },
        Input::SnapshotSent {
            peer, delivered, ..
        } => format!("snapshot sent to {}: {delivered}", name(*peer)),
        Input::SnapshotChunk(chunk) => format!(
            "snapshot {:x} of {} by transfer {}: {} bytes at {}{}",
            chunk.id,
            name(chunk.message.from()),
            chunk.transfer,
            chunk.bytes.len(),
            chunk.offset,
            if chunk.last { ", the last" } else { "" }
        ),
        Input::Staged { transfer, staged } => match &staged.result {
            Ok(copy) => format!("staged {transfer} up to {}", copy.offset()),
            Err(error) => format!("staging {transfer} failed: {error}"),
        },
        Input::Installed { result } => match result {
            Ok(store) => format!("installed, applied {:?}", store.applied()),
            Err(error) => format!("installing failed: {error}"),
        },
        Input::RemovedHere => "removed, they say".to_string(),
        Input::WentBack { why } => why.clone(),
        Input::Stop => "stop".to_string(),
        Input::Wake => "wake".to_string(),
        Input::Pulse => "pulse".to_string(),
        Input::Work => "work".to_string(),
    }
}

pub fn effect(effect: &Effect, name: impl Fn(u64) -> String) -> String {
    match effect {
        Effect::Reply { call, result } => match result {
            Ok(bytes) => format!("answers {}: {} bytes", call_name(*call), bytes.len()),
            Err(status) => format!("refuses {}: {}", call_name(*call), status.message),
        },
        Effect::Stream { call, message } => {
            format!("streams {} bytes to {}", message.len(), call_name(*call))
        }
        Effect::End { call, status } => match status {
            Some(status) => format!("ends {}: {}", call_name(*call), status.message),
            None => format!("ends {}", call_name(*call)),
        },
        Effect::WriteLog(write) => format!(
            "log write {}: {} at {}, {} bytes",
            write.tag,
            write.segment,
            write.offset,
            write.buf.len()
        ),
        Effect::LogFile(op) => format!("log file {}: {}", op.tag, op.segment()),
        Effect::ReadLog { from, .. } => format!("reads the log from {from}"),
        Effect::Fetch(_) => "fetches pages".to_string(),
        Effect::Checkpoint(job) => format!("begins checkpoint {}", job.checkpoint()),
        Effect::Upkeep(job) => match job {
            UpkeepJob::Grow(_) => "grows the page file".to_string(),
            UpkeepJob::ScrubPages(_) => "scrubs pages".to_string(),
            UpkeepJob::ScrubLog(_) => "scrubs the log".to_string(),
            UpkeepJob::Promises(_) => "writes its promises".to_string(),
            UpkeepJob::Reapply(job) => format!("has a copy go on from {}", job.from()),
        },
        Effect::Send(m) => format!("sends {}", message(m, name)),
        Effect::AskPeer { ask, peer, request } => {
            format!("asks {} ({ask}): {request:?}", name(*peer))
        }
        Effect::PrepareSnapshot { peer, id, .. } => {
            format!("prepares snapshot {id:x} for {}", name(*peer))
        }
        Effect::SendSnapshot { peer, id, message } => {
            format!(
                "sends snapshot {id:x} to {}: {:?}",
                name(*peer),
                message.snapshot
            )
        }
        Effect::ReadSnapshot { id, offset, .. } => format!("reads snapshot {id:x} at {offset}"),
        Effect::SnapshotBytes {
            id,
            offset,
            bytes,
            last,
            ..
        } => format!(
            "snapshot {id:x} at {offset}: {} bytes, last {last}",
            bytes.len()
        ),
        Effect::CancelSnapshot { peer, id } => {
            format!("cancels snapshot {id:x} for {}", name(*peer))
        }
        Effect::Stage { transfer, .. } => format!("stages a piece of transfer {transfer}"),
        Effect::SnapshotTaken {
            transfer,
            offset,
            result,
        } => {
            format!("has taken transfer {transfer} up to {offset}: {result:?}")
        }
        Effect::Install(_) => "installs".to_string(),
        Effect::MembersChanged => "members changed".to_string(),
        Effect::Wake { after_ns } => format!("wants a wake-up in {after_ns} ns"),
        Effect::Removed => "is removed".to_string(),
        Effect::Halt(reason) => format!("HALTS: {reason}"),
    }
}

fn call_name(call: CallId) -> String {
    format!("call {}.{}", call.connection(), call.stream())
}

pub fn ask(request: &Request) -> String {
    let mut text = format!("{request:?}");
    text.truncate(160);
    text
}

/// Mixes everything into the hash that the world decides from.
pub fn mix_effect(effect: &Effect, trace: &mut Trace) {
    match effect {
        Effect::Reply { call, result } => {
            trace.mix(call.0 ^ 1);
            match result {
                Ok(bytes) => trace.mix_bytes(bytes),
                Err(status) => trace.mix_bytes(status.message.as_bytes()),
            }
        }
        Effect::Stream { call, message } => {
            trace.mix(call.0 ^ 2);
            trace.mix_bytes(message);
        }
        Effect::End { call, .. } => trace.mix(call.0 ^ 3),
        Effect::WriteLog(write) => {
            trace.mix(write.tag ^ 4 << 60);
            trace.mix(write.offset ^ write.segment.0 << 40);
            trace.mix_bytes(write.buf.as_slice());
        }
        Effect::LogFile(op) => trace.mix(op.tag ^ 5 << 60),
        Effect::ReadLog { from, .. } => trace.mix(from ^ 6 << 60),
        Effect::Fetch(_) => trace.mix(7),
        Effect::Checkpoint(job) => trace.mix(job.checkpoint() ^ 8 << 60),
        Effect::Upkeep(job) => trace.mix(match job {
            UpkeepJob::Grow(_) => 16,
            UpkeepJob::ScrubPages(_) => 17,
            UpkeepJob::ScrubLog(_) => 18,
            UpkeepJob::Promises(_) => 19,
            UpkeepJob::Reapply(job) => 20 ^ job.from() << 8,
        }),
        Effect::Send(m) => {
            trace.mix(9);
            mix_message(m, trace);
        }
        Effect::AskPeer { ask, peer, .. } => trace.mix(ask ^ peer),
        Effect::PrepareSnapshot { peer, id, .. } => trace.mix(peer ^ id ^ 13 << 60),
        Effect::SendSnapshot { id, message, .. } => {
            trace.mix(id ^ 14 << 60);
            mix_message(message, trace);
        }
        Effect::ReadSnapshot { id, offset, .. } => trace.mix(id ^ offset << 20 ^ 15 << 60),
        Effect::SnapshotBytes { id, bytes, .. } => {
            trace.mix(*id);
            trace.mix_bytes(bytes);
        }
        Effect::CancelSnapshot { peer, id } => trace.mix(peer ^ id ^ 13),
        Effect::Stage { transfer, .. } => trace.mix(transfer ^ 14),
        Effect::SnapshotTaken {
            transfer,
            offset,
            result,
        } => trace.mix(transfer ^ offset << 20 ^ u64::from(result.is_ok()) << 60),
        Effect::Install(_) => trace.mix(15),
        Effect::MembersChanged => trace.mix(10),
        Effect::Wake { after_ns } => trace.mix(after_ns ^ 11 << 60),
        Effect::Removed => trace.mix(12),
        Effect::Halt(reason) => trace.mix_bytes(reason.as_bytes()),
    }
}

pub fn mix_input(input: &Input, trace: &mut Trace) {
    let (kind, number) = match input {
        Input::Ask { call, .. } => (1, call.0),
        Input::Cancel { call } => (2, call.0),
        Input::Blocked { call, blocked } => (3, call.0 ^ u64::from(*blocked)),
        Input::LogWritten { tag, result, .. } => (4, tag * 2 + u64::from(result.is_ok())),
        Input::LogFile { tag, result } => (5, tag * 2 + u64::from(result.is_ok())),
        Input::LogRead { from, result } => (6, from * 2 + u64::from(result.is_ok())),
        Input::Fetched { .. } => (7, 0),
        Input::Checkpointed { result } => (8, u64::from(result.is_ok())),
        Input::CheckpointFull { job } => (32, job.checkpoint()),
        Input::Upkeep(done) => match done {
            UpkeepDone::Grown(result) => (33, u64::from(result.is_ok())),
            UpkeepDone::Pages(done) => (34, done.verified_pages),
            UpkeepDone::Log(_, result) => (35, u64::from(result.is_ok())),
            UpkeepDone::Promises((promises, _)) => (36, promises.term_max),
            UpkeepDone::Reapplied(done) => (37, done.applied()),
        },
        Input::Message(m) => {
            mix_message(m, trace);
            (9, 0)
        }
        Input::Unreachable { peer } => (10, *peer),
        Input::Refused { peer } => (11, *peer),
        Input::Connected { peer, connected } => (12, peer ^ u64::from(*connected)),
        Input::PeerAnswered { ask, result } => (13, ask * 2 + u64::from(result.is_ok())),
        Input::SnapshotPrepared { peer, id, .. } => (19, peer ^ id),
        Input::SnapshotWanted { id, offset, .. } => (20, id ^ offset << 8),
        Input::SnapshotRead { offset, result, .. } => (21, offset * 2 + u64::from(result.is_ok())),
        Input::SnapshotSent { id, delivered, .. } => (22, id ^ u64::from(*delivered)),
        Input::SnapshotChunk(chunk) => {
            trace.mix_bytes(&chunk.bytes);
            (23, chunk.id ^ chunk.offset << 8)
        }
        Input::Staged { transfer, staged } => (24, transfer * 2 + u64::from(staged.result.is_ok())),
        Input::Installed { result } => (25, u64::from(result.is_ok())),
        Input::RemovedHere => (14, 0),
        Input::WentBack { .. } => (37, 0),
        Input::Stop => (15, 0),
        Input::Wake => (16, 0),
        Input::Pulse => (17, 0),
        Input::Work => (18, 0),
    };
    trace.mix(number ^ kind << 56);
}

fn mix_message(m: &raftpb::Message, trace: &mut Trace) {
    // Most messages carry no entry and are small; the encoding has all of it.
    trace.mix_bytes(&m.encode_to_vec());
}
