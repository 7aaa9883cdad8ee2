//! A running member whose page file is damaged, in a cluster of three and more voters: it gets its pages anew from another
//! member, beside its own, and switches over.
//!
//! Its log is whole, so its votes and acknowledgements are not in doubt, and Raft takes no notice. The other member gives a
//! copy of a checkpoint that holds at least what was applied here when it was asked for; it travels like a snapshot. What
//! the own log has behind the copy is applied to it until it holds what the present store does; then the one takes the
//! place of the other, with all watchers. Until then the present store serves whatever does not need a damaged page.
//!
//! Order, each step durable before the next: the copy is whole and verified; its meta page states this member's log and
//! the entry from which it goes on there; it is renamed over the page file. A crash before the rename leaves what there
//! was, one after it the copy and the log that continues it. From the rename to the switch no checkpoint is written: the
//! present store's file is not the page file any more.
//!
//! An entry that needs a damaged page waits, and with it all that follow. Where the copy is beyond it already, those that
//! the copy contains are skipped here: Raft's part in them is done, and callers are told that the outcome is unknown.
//!
//! A leader hands over first: its leases count in the store that goes.

use super::{Effect, Member};
use crate::{
    peers::{PeerAsk, PeerFailure},
    request::CallId,
    status::{code, Status},
};
use bytes::Bytes;
use engine::{
    error::RequestError,
    page::PageError,
    store::{
        decode_internal_request,
        install::{Arriving, InstallError, InstallJob},
        meta::{Contained, LogMark},
        ApplyError, Payload, Store,
    },
    wal::{LogDir, ReadError, ReadJob},
};
use prost::Message as _;
use proto::{
    etcdserverpb as pb,
    raftpb::{ConfChange, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata},
};
use raft::Role;

/// Marks the message of a copy: it is for no Raft node.
const COPY_CONTEXT: &[u8] = b"ringd: a copy of the pages";
/// Time between two attempts to get a copy.
const RETRY_NS: u64 = 1_000_000_000;
/// A copy of which nothing more arrives for so long is given up.
const STALL_NS_MAX: u64 = 30_000_000_000;
/// Damage that shows so soon after the pages were made anew waits until then: a device that spoils all it is given would
/// have whole copies made without end.
const PAUSE_NS: u64 = 60_000_000_000;
/// Attempts before the alarm is raised, as by a member that cannot get a copy at all.
const ATTEMPTS_MAX: u32 = 10;
/// Bytes of entries that are applied to the copy at once.
const REAPPLIED_BYTES_MAX: u64 = 4 << 20;
/// Entries that the copy lacks when the present store stops for it to catch up.
const GAP_HELD: u64 = 4096;

/// Has a copy take the entries that follow it, on the pool.
pub struct ReapplyJob {
    store: Box<Store>,
    read: ReadJob,
    now_ns: u64,
}

/// The copy, and why it did not take all of them.
pub struct Reapplied {
    store: Box<Store>,
    obstacle: Option<Obstacle>,
}

enum Obstacle {
    /// The log cannot be read.
    Log(ReadError),
    /// Nor can the copy.
    Page(PageError),
    /// A change of members: only Raft knows the configuration after it.
    Change,
    /// Something that no store can take.
    Entry(String),
}

impl ReapplyJob {
    /// The entry that the copy ends with.
    pub fn from(&self) -> u64 {
        self.store.applied().0
    }

    pub(super) fn run(mut self, log: &dyn LogDir) -> Reapplied {
        let entries = self.read.run(log).map_err(Obstacle::Log);
        let mut entries = entries.map(Vec::into_iter);
        let obstacle = match &mut entries {
            Err(_) => None,
            Ok(entries) => {
                entries.find_map(|entry| apply(&mut self.store, &entry, self.now_ns).err())
            }
        };
        Reapplied {
            store: self.store,
            obstacle: entries.err().or(obstacle),
        }
    }
}

impl Reapplied {
    pub fn applied(&self) -> u64 {
        self.store.applied().0
    }
}

fn apply(store: &mut Store, entry: &Entry, now_ns: u64) -> Result<(), Obstacle> {
    if entry.r#type() != EntryType::EntryNormal {
        return Err(Obstacle::Change);
    }
    let data = entry.data.clone().unwrap_or_default();
    let payload = decode_internal_request(data).map_err(|e| Obstacle::Entry(e.to_string()))?;
    let request = match &payload {
        Payload::Nothing => None,
        Payload::Request(request) => Some(&**request),
    };
    loop {
        match store.apply(entry.index(), entry.term(), request, now_ns) {
            Ok(_) => return Ok(()),
            Err(ApplyError::Fatal(fatal)) => return Err(Obstacle::Entry(fatal.to_string())),
            Err(ApplyError::Miss(miss)) => {
                let pages = store.pages_mut();
                let Some(job) = pages.fetch_job(&miss) else {
                    return Err(Obstacle::Entry("a page is missing for good".into()));
                };
                pages.fetch_done(job.run()).map_err(Obstacle::Page)?;
            }
        }
    }
}

#[derive(Default)]
enum Step {
    #[default]
    Idle,
    /// Another member is asked for a copy then.
    Waiting {
        due_ns: u64,
    },
    Asked {
        ask: u64,
        peer: u64,
        since_ns: u64,
    },
    /// The copy is coming, or is to come.
    Coming {
        peer: u64,
        progress_ns: u64,
    },
    Received {
        copy: Box<Arriving>,
        index: u64,
    },
    Installing,
    /// None while a job has it.
    Reapplying {
        store: Option<Box<Store>>,
    },
}

#[derive(Default)]
pub(super) struct Rebuild {
    step: Step,
    /// A committed entry needs a damaged page.
    blocks_apply: bool,
    /// The copy is nearly as far as the present store, which stops for it.
    awaits_copy: bool,
    /// The job that puts the copy in place is not to be followed up.
    is_abandoned: bool,
    /// The page file is not the present store's any more.
    is_detached: bool,
    attempts: u32,
    /// The next other member to be asked.
    turn: usize,
    /// The log is kept from this entry on: the copy will hold the ones before.
    log_from: u64,
    not_before_ns: u64,
    hand_over_ns: u64,
    count: u64,
    skipped_changes: u64,
}

impl Rebuild {
    pub fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Idle)
    }

    /// Whether no checkpoint may be written.
    pub fn is_detached(&self) -> bool {
        self.is_detached
    }

    pub fn is_installing(&self) -> bool {
        matches!(self.step, Step::Installing)
    }

    pub fn log_wanted(&self) -> Option<u64> {
        self.is_under_way().then_some(self.log_from)
    }

    /// The last entry of a copy that waits to take over.
    fn copy_ends(&self) -> Option<u64> {
        match &self.step {
            Step::Reapplying { store: Some(store) } => Some(store.applied().0),
            _ => None,
        }
    }
}

pub(super) fn is_copy(message: &Message) -> bool {
    message.context.as_deref() == Some(COPY_CONTEXT)
}

fn encode_wish(from: u64, index: u64) -> Bytes {
    format!("copy {from:x} {index}\n").into()
}

/// Who wants a copy, and of which entry at least.
fn decode_wish(body: &[u8]) -> Option<(u64, u64)> {
    let mut words = std::str::from_utf8(body).ok()?.trim_end().split(' ');
    let is_known = words.next()? == "copy";
    let from = u64::from_str_radix(words.next()?, 16).ok()?;
    let index = words.next()?.parse().ok()?;
    (is_known && words.next().is_none()).then_some((from, index))
}

impl Member {
    /// How often this process has made its pages anew.
    pub fn rebuilds(&self) -> u64 {
        self.rebuild.count
    }

    /// How many changes of members it has left to Raft alone meanwhile, because the copy contains them.
    pub fn skipped_changes(&self) -> u64 {
        self.rebuild.skipped_changes
    }

    /// A page is damaged: it is made anew where others have it, and reported as lost where nobody does.
    pub(super) fn page_damaged(&mut self, what: &str) {
        if !self.can_rebuild() {
            return self.raise_corrupt(what);
        }
        self.tell_damage(what);
        if self.rebuild.is_under_way() {
            return;
        }
        let due_ns = self.now_ns.max(self.rebuild.not_before_ns);
        self.rebuild.attempts = 0;
        self.rebuild.log_from = self.store.applied().0 + 1;
        self.rebuild.step = Step::Waiting { due_ns };
        self.notices.push(
            "this member gets its pages anew from another member; its log is whole, so that it goes on voting, and answers \
             what needs no damaged page"
                .into(),
        );
    }

    /// An entry needs a page that is damaged. True if it can wait for another one.
    pub(super) fn waits_for_rebuild(&mut self) -> bool {
        let waits = self.rebuild.is_under_way();
        self.rebuild.blocks_apply |= waits;
        waits
    }

    fn can_rebuild(&self) -> bool {
        const VOTERS_MIN: usize = 3;
        let voters = self.node.conf_state().voters.len();
        voters >= VOTERS_MIN && !self.is_refetching() && !self.halted
    }

    /// Whether nothing is applied for now.
    pub(super) fn holds_apply(&self) -> bool {
        let waits = self.rebuild.awaits_copy && self.node.role() != Role::Leader;
        self.rebuild.blocks_apply || waits
    }

    /// Whatever has a time of its own.
    pub(super) fn rebuild_timers(&mut self, now_ns: u64) {
        if !self.rebuild.is_under_way() || self.halted {
            return;
        }
        if self.node.role() == Role::Leader && now_ns >= self.rebuild.hand_over_ns {
            self.rebuild.hand_over_ns = now_ns + RETRY_NS;
            if let Some(target) = self.successor() {
                self.node.transfer_leader(target);
            }
        }
        match self.rebuild.step {
            Step::Waiting { due_ns } if due_ns <= now_ns => self.ask_for_copy(now_ns),
            Step::Asked { since_ns, .. } if now_ns.saturating_sub(since_ns) > STALL_NS_MAX => {
                self.try_rebuild_again();
            }
            Step::Coming { progress_ns, .. }
                if now_ns.saturating_sub(progress_ns) > STALL_NS_MAX =>
            {
                self.forget_incoming_copy();
                self.try_rebuild_again();
            }
            _ => {}
        }
    }

    fn ask_for_copy(&mut self, now_ns: u64) {
        let peers = self.peers();
        if peers.is_empty() {
            return self.try_rebuild_again();
        }
        self.rebuild.turn = (self.rebuild.turn + 1) % peers.len();
        let peer = peers[self.rebuild.turn].id;
        if !self.is_connected(peer) {
            self.rebuild.step = Step::Waiting {
                due_ns: now_ns + RETRY_NS / peers.len() as u64,
            };
            return;
        }
        let (applied, _) = self.store.applied();
        self.rebuild.log_from = applied + 1;
        let ask = self.next_ask();
        self.rebuild.step = Step::Asked {
            ask,
            peer,
            since_ns: now_ns,
        };
        let body = encode_wish(self.config.member_id, applied);
        self.effects.push(Effect::AskPeer {
            ask,
            peer,
            request: PeerAsk::Copy(body),
        });
    }

    fn try_rebuild_again(&mut self) {
        self.rebuild.step = Step::Waiting {
            due_ns: self.now_ns + RETRY_NS,
        };
        self.rebuild.awaits_copy = false;
        self.rebuild.attempts += 1;
        if self.rebuild.attempts == ATTEMPTS_MAX {
            let file = self.store.pages().file_name();
            self.raise_corrupt(&format!(
                "no other member has given this one a copy of its pages in place of {file}; it goes on trying"
            ));
        }
    }

    /// The answer to a wish for a copy, if it is one.
    pub(super) fn copy_answered(&mut self, ask: u64, result: &Result<Bytes, PeerFailure>) -> bool {
        let Step::Asked {
            ask: asked, peer, ..
        } = self.rebuild.step
        else {
            return false;
        };
        if asked != ask {
            return false;
        }
        match result {
            Err(_) => self.try_rebuild_again(),
            Ok(_) => {
                self.rebuild.step = Step::Coming {
                    peer,
                    progress_ns: self.now_ns,
                }
            }
        }
        true
    }

    /// Another member wants a copy of this one's pages.
    pub(super) fn copy_asked(&mut self, call: CallId, body: &[u8]) {
        let wish = decode_wish(body);
        let refused = match wish {
            None => Some("the request cannot be read"),
            Some((from, _)) if self.store.member(from).is_none() => Some("the member is unknown"),
            Some(_) if self.rebuild.is_under_way() || self.corrupt => {
                Some("this member's own pages are damaged")
            }
            Some(_) if self.is_refetching() || self.snapshots.is_installing() => {
                Some("this member is fetching its own data")
            }
            Some((from, _)) if self.snapshots.is_sending(from) => {
                Some("the member is being sent a snapshot")
            }
            Some(_) => None,
        };
        if let Some(why) = refused {
            return self.reply(call, Err(Status::new(code::UNAVAILABLE, why)));
        }
        self.reply(call, Ok(Bytes::from_static(b"it comes\n")));
        if let Some((from, index)) = wish {
            let metadata = SnapshotMetadata {
                index: Some(index),
                ..Default::default()
            };
            let mut message = Message {
                to: Some(from),
                from: Some(self.config.member_id),
                term: Some(self.node.term()),
                context: Some(Bytes::from_static(COPY_CONTEXT)),
                snapshot: Some(Snapshot {
                    data: Some(Bytes::new()),
                    metadata: Some(metadata),
                }),
                ..Default::default()
            };
            message.set_type(MessageType::MsgSnap);
            self.send_snapshot(message);
        }
    }

    /// Whether bytes of a copy are wanted from this member.
    pub(super) fn copy_comes(&mut self, from: u64) -> bool {
        match &mut self.rebuild.step {
            Step::Coming { peer, progress_ns } if *peer == from => {
                *progress_ns = self.now_ns;
                true
            }
            // The answer that it comes may come later than its first bytes.
            Step::Asked { peer, .. } if *peer == from => {
                self.rebuild.step = Step::Coming {
                    peer: from,
                    progress_ns: self.now_ns,
                };
                true
            }
            _ => false,
        }
    }

    pub(super) fn copy_received(&mut self, copy: Arriving, contained: &Contained) {
        if let Step::Coming { .. } = self.rebuild.step {
            let index = contained.applied_index;
            self.rebuild.step = Step::Received {
                copy: Box::new(copy),
                index,
            };
        }
    }

    /// Bytes of a snapshot begin to come in where the copy lies.
    pub(super) fn give_copy_up(&mut self) {
        if let Step::Received { .. } = self.rebuild.step {
            self.try_rebuild_again();
        }
    }

    /// A snapshot takes the place of everything: no copy is wanted any more.
    pub(super) fn give_rebuild_up(&mut self) {
        let is_abandoned = self.rebuild.is_installing();
        self.rebuild = Rebuild {
            step: match is_abandoned {
                true => Step::Installing,
                false => Step::Idle,
            },
            is_abandoned,
            // Until the snapshot is in place.
            is_detached: self.rebuild.is_detached,
            count: self.rebuild.count,
            skipped_changes: self.rebuild.skipped_changes,
            ..Rebuild::default()
        };
    }

    /// The page file is the present store's again.
    pub(super) fn reattached(&mut self) {
        self.rebuild.is_detached = false;
    }

    /// Puts a copy that is here in the place of the page file, once nothing is written to that.
    fn begin_rebuild(&mut self) {
        let Step::Received { index, .. } = self.rebuild.step else {
            return;
        };
        let may_begin = !self.checkpoints.is_running()
            && !self.snapshots.is_installing()
            && self.node.role() != Role::Leader
            && index <= self.wal.durable_index()
            && index <= self.node.commit_index();
        if !may_begin {
            return;
        }
        let Step::Received { copy, .. } = std::mem::take(&mut self.rebuild.step) else {
            return;
        };
        if index + 1 < self.wal.first_index() {
            return self.try_rebuild_again(); // the log does not go on from there
        }
        self.rebuild.step = Step::Installing;
        self.rebuild.is_detached = true;
        self.effects.push(Effect::Install(Box::new(InstallJob {
            arriving: *copy,
            log: LogMark {
                position: self.wal.position().to_bytes().to_vec().into(),
                first_needed_segment: self.wal.first_needed(index).0,
                restarts: false,
            },
            pages: self.store.pages().options().clone(),
            store: self.store.options().clone(),
        })));
    }

    pub(super) fn copy_installed(&mut self, result: Result<Box<Store>, InstallError>) {
        if std::mem::take(&mut self.rebuild.is_abandoned) {
            self.rebuild.step = Step::Idle;
            return;
        }
        match result {
            Ok(store) => self.rebuild.step = Step::Reapplying { store: Some(store) },
            Err(error) => self.halt(format!(
                "taking over a copy of the pages failed: {error}. Check the disk and start again: nothing acknowledged is \
                 lost, the log holds it"
            )),
        }
    }

    /// Takes the next step of a copy that is here.
    pub(super) fn go_on_rebuilding(&mut self) {
        if self.halted {
            return;
        }
        self.begin_rebuild();
        let Some(ends) = self.rebuild.copy_ends() else {
            return;
        };
        let (applied, _) = self.store.applied();
        let is_due = match self.rebuild.blocks_apply {
            true => ends >= applied && self.node.applied_index() >= ends,
            false => ends == applied,
        };
        if is_due {
            // One that leads has leases in the present store.
            if self.node.role() != Role::Leader {
                self.switch_over();
            }
        } else if ends < applied {
            self.rebuild.awaits_copy = applied - ends <= GAP_HELD;
            self.reapply(ends, applied);
        }
    }

    fn reapply(&mut self, ends: u64, applied: u64) {
        // None while the own log lacks the entry still, which others have made durable.
        let job = self.wal.read_job(ends + 1, applied, REAPPLIED_BYTES_MAX);
        let Some(read) = job else { return };
        let now_ns = self.now_ns;
        if let Step::Reapplying { store } = &mut self.rebuild.step {
            if let Some(store) = store.take() {
                let job = ReapplyJob {
                    store,
                    read,
                    now_ns,
                };
                self.effects
                    .push(Effect::Upkeep(super::UpkeepJob::Reapply(Box::new(job))));
            }
        }
    }

    pub(super) fn reapplied(&mut self, done: Reapplied) {
        let Step::Reapplying { store } = &mut self.rebuild.step else {
            return; // it was given up
        };
        match done.obstacle {
            None => *store = Some(done.store),
            Some(Obstacle::Log(error)) => {
                self.halt(format!("reading the log back failed: {error}"));
            }
            Some(Obstacle::Entry(why)) => {
                self.halt(format!("a copy of the pages cannot take the log: {why}"));
            }
            Some(Obstacle::Page(error)) => {
                self.notices.push(error.to_string());
                self.try_rebuild_again();
            }
            Some(Obstacle::Change) => self.try_rebuild_again(),
        }
    }

    /// Raft's part in an entry that the copy contains and the present store cannot apply. False if it is none.
    pub(super) fn skip_entry(&mut self, entry: &Entry, now_ns: u64) -> bool {
        let is_skipped = self.rebuild.blocks_apply
            && self
                .rebuild
                .copy_ends()
                .is_some_and(|ends| entry.index() <= ends);
        if !is_skipped {
            return false;
        }
        let mut lost = Vec::new();
        let proposal = self.proposals.take(entry.index(), entry.term(), &mut lost);
        lost.extend(proposal.and_then(|proposal| proposal.caller));
        self.lose(lost);
        if entry.r#type() == EntryType::EntryNormal {
            return true;
        }
        let change = ConfChange::decode(entry.data.clone().unwrap_or_default());
        let checked = change
            .map_err(|error| error.to_string())
            .and_then(|change| {
                let checked = self.store.check_conf_change(&change);
                checked
                    .map(|accepted| (change, accepted))
                    .map_err(|error| error.to_string())
            });
        match checked {
            Ok((change, accepted)) => {
                self.skip_change(entry.index(), change, accepted, now_ns);
            }
            Err(error) => self.halt(format!(
                "configuration change at log index {}: {error}",
                entry.index()
            )),
        }
        true
    }

    fn skip_change(
        &mut self,
        index: u64,
        change: ConfChange,
        accepted: Result<engine::store::MemberChange, RequestError>,
        now_ns: u64,
    ) {
        self.rebuild.skipped_changes += 1;
        let mut raft_change = change.clone();
        if accepted.is_err() {
            raft_change.node_id = Some(0);
        }
        let known = self.half_applied.take().is_some_and(|(of, _)| of == index);
        if !known {
            let raft_change = raft::ConfChange::V1(raft_change).to_v2();
            if let Err(error) = self.node.apply_conf_change(&raft_change) {
                return self.halt(format!(
                    "configuration change at log index {index} cannot be applied: {error}"
                ));
            }
        }
        if let Ok(change) = &accepted {
            // Later ones are checked against it.
            self.store.note_conf_change(change);
        }
        self.changed(&change, accepted.map(|_| ()));
        self.effects.push(Effect::MembersChanged);
        if self.store.is_removed_member(self.config.member_id) {
            self.removed_after(super::apply::REMOVED_LINGER_NS, now_ns);
        }
    }

    fn switch_over(&mut self) {
        let Step::Reapplying { store: Some(store) } = std::mem::take(&mut self.rebuild.step) else {
            return;
        };
        self.store.take_over(*store);
        self.rebuild = Rebuild {
            count: self.rebuild.count + 1,
            skipped_changes: self.rebuild.skipped_changes,
            not_before_ns: self.now_ns + PAUSE_NS,
            turn: self.rebuild.turn,
            ..Rebuild::default()
        };
        self.apply_awaits.clear();
        self.damage_told.clear();
        self.notices
            .push("this member's pages were made anew: nothing is damaged any more".into());
        self.reset_background();
        self.reads.pages_arrived();
        self.checkpoints.begin_anew();
        self.effects.push(Effect::MembersChanged);
        self.lift_own_alarm();
    }

    /// The CORRUPT alarm that this member raised while it got no copy.
    fn lift_own_alarm(&mut self) {
        if !std::mem::take(&mut self.corrupt) {
            return;
        }
        let mut alarm = pb::AlarmRequest {
            member_id: self.config.member_id,
            ..Default::default()
        };
        alarm.set_action(pb::alarm_request::AlarmAction::Deactivate);
        alarm.set_alarm(pb::AlarmType::Corrupt);
        let entry = Box::new(pb::InternalRaftRequest {
            alarm: Some(Box::new(alarm)),
            ..Default::default()
        });
        if self.propose(entry, None).is_err() {
            self.notices.push(
                "the CORRUPT alarm that this member raised is to be lifted: the proposal found no taker".into(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_come_back_as_written_and_nothing_else_is_taken_for_one() {
        let body = encode_wish(0xabc, 77);
        assert_eq!(decode_wish(&body), Some((0xabc, 77)));
        for bad in [
            "",
            "copy",
            "copy x 1",
            "copy 1",
            "copy 1 -1",
            "copy 1 1 1",
            "move 1 1",
        ] {
            assert_eq!(decode_wish(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
