//! Reading the log back: where it ends, what it holds, and whether anything durable is missing.
//!
//! The walk follows the chain of batches from the oldest segment and stops where the next batch is not there or does not
//! pass its checks. What that place means is decided by claims, not by looks: if any batch behind it, or the tree's meta
//! page, says that the missing batch was durable, it is damage, and recovery refuses. Otherwise nobody was promised
//! anything beyond this place, and the log ends there.

use std::thread::Builder;

use crate::planted::{planted, Fault};
use proto::raftpb::{ConfState, Entry, HardState};

use super::ahead::Ahead;
use super::buffer::BLOCK_BYTES;
use super::dir::LogDir;
use super::evidence::{self, Evidence};
use super::format::LogState;
use super::read::Marks;
use super::recover_error::At;
use super::scan::Reader;
use super::segment::Segment;
use super::survey::{self, Found, Surveyed};
use super::walk::{Findings, TermHistory, Walk};
use super::{Identity, LogPosition, SegmentId};

pub use super::recover_error::RecoverError;

/// What recovery asks of the disk at once, in bytes.
const READ_WINDOW_BYTES: usize = 4 << 20;

/// What the caller knows about the log from elsewhere, that is from the tree's meta page.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expect {
    /// Files of anyone else are refused. Without it the oldest segment names the owner.
    pub identity: Option<Identity>,
    /// A durable position that the log must still contain.
    pub claim: Option<LogPosition>,
    /// The oldest segment that must be there ([`super::Wal::first_needed`]; 0 is none). Damage to older ones costs no more than their entries.
    pub first_needed: Option<SegmentId>,
    /// Last entry that the tree holds: only later ones are returned.
    pub applied: u64,
    /// Nobody wants entries from segments before the first needed one: these are not read, which saves the time. They stay
    /// part of the log, for a fall back to the older meta page, until they are released.
    pub skips_older: bool,
}

/// How the log ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing was written behind the last batch.
    CleanEnd,
    /// A write was under way when the process or the machine died, and was cut off. Nothing acknowledged is lost by it, as
    /// far as any claim tells.
    TornTail {
        file: String,
        offset: u64,
        batch: u64,
        why: &'static str,
    },
}

/// The log, read back.
pub struct Recovered {
    /// From which [`super::Wal::new`] goes on.
    pub tail: Tail,
    /// The last hard state; all zero in a new log.
    pub hard_state: HardState,
    /// Oldest entry that the log can still give, `last_index + 1` if none.
    pub first_index: u64,
    pub last_index: u64,
    pub last_term: u64,
    /// Entries after [`Expect::applied`], consecutive.
    pub entries: Vec<Entry>,
    /// The last entry of the log, if the log can still give it.
    pub last: Option<Entry>,
    /// The terms of the entries that the log can still give.
    pub history: TermHistory,
    /// Index and term of a snapshot that took the place of the log: entries follow it, earlier ones are gone.
    pub start: Option<(u64, u64)>,
    /// The last membership mark, with its index.
    pub membership: Option<(u64, ConfState)>,
    pub report: Report,
    /// What else was found that an operator may want to know.
    pub notes: Vec<String>,
    /// The end of the log; all of it is durable.
    pub position: LogPosition,
    /// Batches read.
    pub batches: u64,
}

/// Where the log goes on. Opaque: made by [`recover`], consumed by [`super::Wal::new`].
#[derive(Default)]
pub struct Tail {
    pub(super) identity: Option<Identity>,
    pub(super) live: Vec<Segment>,
    pub(super) spares: Vec<Segment>,
    pub(super) released: Vec<(SegmentId, u64)>,
    pub(super) block: u32,
    pub(super) durable: LogPosition,
    pub(super) previous_crc: u32,
    pub(super) state: LogState,
    pub(super) unsealed: bool,
    /// Of the last batch.
    pub(super) incarnation: Option<u64>,
    pub(super) marks: Marks,
}

impl Tail {
    /// Whose log it is; `None` for a new one.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }
}

/// What [`recover_while`] tells before it has decided whether the log may end there.
pub struct Walked<'a> {
    /// As [`Recovered::entries`].
    pub entries: &'a [Entry],
    /// The last commit index that the log states.
    pub commit: u64,
    /// As [`Recovered::start`].
    pub start: Option<(u64, u64)>,
}

/// Reads the log of a directory. Changes nothing in it, but flushes its files first: what is returned is durable.
pub fn recover(dir: &dyn LogDir, expect: Expect) -> Result<Recovered, RecoverError> {
    recover_while(dir, expect, |_| {})
}

/// As [`recover`]. While what lies behind the end of the log is still being read, `meanwhile` can make use of what the chain
/// of batches held: once at most, and in vain if the log is then refused.
pub fn recover_while(
    dir: &dyn LogDir,
    mut expect: Expect,
    meanwhile: impl FnOnce(Walked<'_>),
) -> Result<Recovered, RecoverError> {
    let mut meanwhile = Some(meanwhile);
    let mut notes = Vec::new();
    let mut from = SegmentId(0);
    loop {
        let surveyed = survey::survey(dir, &expect, from, &mut notes);
        match surveyed
            .and_then(|survey| recover_surveyed(dir, &expect, survey, &mut notes, &mut meanwhile))
        {
            Ok(mut recovered) => {
                recovered.notes = notes;
                return Ok(recovered);
            }
            // An older one may have what is missing.
            Err(RecoverError::MissingEntries { .. }) if expect.skips_older => {
                expect.skips_older = false;
            }
            // An older segment is kept for followers only; they get a snapshot instead.
            Err(error) => match error
                .unusable()
                .filter(|id| Some(*id) < expect.first_needed)
            {
                Some(damaged) if damaged >= from => {
                    notes.push(format!(
                        "{error}; no longer needed, given up with all before it"
                    ));
                    from = damaged.next();
                }
                _ => return Err(error),
            },
        }
    }
}

fn recover_surveyed(
    dir: &dyn LogDir,
    expect: &Expect,
    mut survey: Surveyed,
    notes: &mut Vec<String>,
    meanwhile: &mut Option<impl FnOnce(Walked<'_>)>,
) -> Result<Recovered, RecoverError> {
    let Some(identity) = survey.identity else {
        return Ok(fresh(survey.released));
    };
    let skipped = match expect.skips_older {
        true => skip_older(dir, expect, &mut survey, notes),
        false => Vec::new(),
    };
    let longest = survey
        .segments
        .iter()
        .map(|found| found.blocks() as usize * BLOCK_BYTES)
        .max();
    let mut reader = Reader::new(dir, identity, READ_WINDOW_BYTES.min(longest.unwrap_or(0)));
    let mut walk = Walk::new(&survey.segments, expect.applied);
    std::thread::scope(|scope| {
        if dir.reads_ahead() {
            reader.read_ahead(Ahead::start(scope, dir, reader.window_bytes()));
        }
        let walked = loop {
            match walk.step(dir, &mut reader) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Its thread ends with it, and the scope waits for that.
        reader.read_ahead(None);
        walked
    })?;
    let end = walk.end();
    let mut gather = || evidence::gather(dir, &mut reader, &survey.segments, end);
    let mut gathered = None;
    if let Some(meanwhile) = meanwhile.take() {
        let walked = walk.walked();
        std::thread::scope(|scope| {
            if dir.reads_ahead() {
                // Where no thread can be had one follows the other.
                let _ = Builder::new()
                    .name("log-behind".into())
                    .spawn_scoped(scope, || gathered = Some(gather()));
            }
            meanwhile(walked);
        });
    }
    let evidence = match gathered {
        Some(gathered) => gathered,
        None => gather(),
    }?;
    judge(dir, expect, &survey, &walk, &evidence)?;
    let report = evidence.report(dir, &survey.segments, end, walk.torn());

    let last = walk.last_segment();
    let found = walk.finish();
    let segments = keep_usable(dir, survey.segments, last, notes);
    if found.first_index > expect.applied.saturating_add(1)
        && found.state.last_index > expect.applied
        && found.start.is_none()
    {
        return Err(RecoverError::MissingEntries {
            file: dir.name(segments[0].id),
            first_index: found.first_index,
            applied: expect.applied,
        });
    }
    // No batch goes to a file that is too short: it would grow with every write.
    let short = last.is_some_and(|i| segments[i].short);
    let block = if short { u32::MAX } else { end.block };
    let mut live: Vec<Segment> = segments
        .into_iter()
        .map(|s| s.into_segment(&found.segments))
        .collect();
    let spares = live.split_off(last.map_or(0, |i| i + 1));
    let skipped = skipped.into_iter().map(|found| found.into_segment(&[]));
    live.splice(..0, skipped);
    let claimed = expect.claim.map_or(0, |claim| claim.batch);
    let tail = Tail {
        identity: Some(identity),
        durable: LogPosition {
            segment: live.last().map_or(SegmentId(0), Segment::id),
            batch: found.last_batch,
            index: found.state.last_index,
        },
        live,
        spares,
        released: survey.released,
        block,
        previous_crc: found.previous_crc,
        state: found.state,
        unsealed: found.last_batch > claimed && !found.last_is_seal,
        incarnation: end.incarnation,
        marks: Marks::default(),
    };
    Ok(complete(found, tail, report))
}

/// Takes the segments out that are older than the first needed one. One that is not usable is given up with all before it.
fn skip_older(
    dir: &dyn LogDir,
    expect: &Expect,
    survey: &mut Surveyed,
    notes: &mut Vec<String>,
) -> Vec<Found> {
    let older = |found: &Found| Some(found.id) < expect.first_needed;
    let count = survey.segments.iter().take_while(|found| older(found));
    // One must be left to begin with.
    let count = count.count().min(survey.segments.len() - 1);
    let mut skipped: Vec<Found> = survey.segments.drain(..count).collect();
    if let Some(at) = skipped.iter().rposition(|found| found.problem.is_some()) {
        let error = survey::unusable(dir, &skipped[at]);
        notes.push(format!(
            "{error}; no longer needed, given up with all before it"
        ));
        let given_up = skipped.drain(..=at);
        survey
            .released
            .extend(given_up.map(|found| (found.id, found.file_bytes())));
    }
    skipped
}

/// The segments that hold batches, up to `last`, and those prepared behind them that can be used.
fn keep_usable(
    dir: &dyn LogDir,
    mut segments: Vec<Found>,
    last: Option<usize>,
    notes: &mut Vec<String>,
) -> Vec<Found> {
    let used = last.map_or(0, |i| i + 1);
    let prepared = segments
        .iter()
        .skip(used)
        .take_while(|s| s.problem.is_none())
        .count();
    for dropped in segments.drain(used + prepared..) {
        let name = dir.name(dropped.id);
        notes.push(format!(
            "{name} holds nothing and is not usable, it will be made anew"
        ));
    }
    for short in segments.iter().filter(|found| found.short) {
        notes.push(format!(
            "{} is shorter than it was made; nothing is missing",
            dir.name(short.id)
        ));
    }
    segments
}

fn complete(found: Findings, mut tail: Tail, report: Report) -> Recovered {
    let state = found.state;
    let first_index = found.marks.first_index().unwrap_or(state.last_index + 1);
    tail.marks = found.marks;
    Recovered {
        hard_state: HardState {
            term: Some(state.term),
            vote: Some(state.vote),
            commit: Some(state.commit),
        },
        first_index,
        last_index: state.last_index,
        last_term: state.last_term,
        entries: found.entries,
        last: found.last,
        history: found.history,
        start: found.start,
        membership: found.membership,
        report,
        notes: Vec::new(),
        position: tail.durable,
        batches: found.batches,
        tail,
    }
}

/// Decides whether the log may end where the walk ended.
fn judge(
    dir: &dyn LogDir,
    expect: &Expect,
    survey: &Surveyed,
    walk: &Walk<'_>,
    evidence: &Evidence,
) -> Result<(), RecoverError> {
    let end = walk.end();
    if let Some(error) = evidence.unusable_segment(dir, &survey.segments, walk.last_segment()) {
        return Err(error);
    }
    let (segment, block) = evidence.place_of_missing(&survey.segments, end);
    let here = At {
        file: dir.name(segment),
        segment,
        offset: offset_of(block),
    };
    let Some(missing) = end.batch else {
        // The oldest segment kept always holds a durable batch: older ones are released only behind one.
        return Err(RecoverError::Damaged {
            at: here,
            batch: None,
            last_index: 0,
            claimed_by: "the segment before it".into(),
        });
    };
    let last_index = walk.state().last_index;
    if let Some((claim, by)) = evidence
        .claim
        .clone()
        .filter(|(claim, _)| *claim >= missing && !planted(Fault::ClaimIgnored))
    {
        let claimed_by = format!(
            "{} at offset {} (batches up to {claim} were durable)",
            by.file, by.offset
        );
        return Err(RecoverError::Damaged {
            at: here,
            batch: Some(missing),
            last_index,
            claimed_by,
        });
    }
    if let Some(claim) = expect.claim.filter(|claim| claim.batch >= missing) {
        if claim.segment > survey.newest {
            let why = "the tree's meta page names it".to_string();
            return Err(RecoverError::Missing {
                file: dir.name(claim.segment),
                segment: claim.segment,
                why,
            });
        }
        let claimed_by = format!(
            "the tree's meta page (batches up to {} were durable)",
            claim.batch
        );
        return Err(RecoverError::Damaged {
            at: here,
            batch: Some(missing),
            last_index,
            claimed_by,
        });
    }
    if let Some(claim) = expect.claim.filter(|claim| claim.batch > 0) {
        if !walk.contains(claim) {
            return Err(RecoverError::Contradiction {
                file: dir.name(claim.segment),
                claim,
            });
        }
    }
    let last = walk.last_segment().map(|i| &survey.segments[i]);
    if let Some(last) = last.filter(|last| last.id == survey.newest && !last.is_first()) {
        let why = format!(
            "{} holds batches, and its successor is made before it receives the first",
            dir.name(last.id)
        );
        let segment = last.id.next();
        return Err(RecoverError::Missing {
            file: dir.name(segment),
            segment,
            why,
        });
    }
    Ok(())
}

fn offset_of(block: u32) -> u64 {
    u64::from(block) * BLOCK_BYTES as u64
}

fn fresh(released: Vec<(SegmentId, u64)>) -> Recovered {
    Recovered {
        tail: Tail {
            released,
            ..Tail::default()
        },
        hard_state: HardState {
            term: Some(0),
            vote: Some(0),
            commit: Some(0),
        },
        first_index: 1,
        last_index: 0,
        last_term: 0,
        entries: Vec::new(),
        last: None,
        history: TermHistory::default(),
        start: None,
        membership: None,
        report: Report::CleanEnd,
        notes: Vec::new(),
        position: LogPosition::default(),
        batches: 0,
    }
}
