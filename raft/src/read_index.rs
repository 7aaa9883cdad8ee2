//! Linearizable reads (Raft thesis, section 6.4): a read may be answered at the commit index of the moment at which it
//! arrived, once it is certain that the leader still led at a later moment.
//!
//! The certainty comes from a *round* of heartbeats which began after the read arrived and was answered by a quorum.
//! All reads that have gathered since the last round share one. Rounds have ascending numbers that travel in the
//! heartbeats; an answer to one also confirms all earlier ones, so that the confirmed round is found like a commit
//! index: it is the highest number that a quorum has reached.
//!
//! A follower asks its leader in the same way: one question for all reads that have gathered, with an id of its own.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::raftpb::{EntryType, Message, MessageType};

use crate::message::{entry, message};
use crate::node::{Node, Role};
use crate::planted::Fault;
use crate::ready::ReadState;

/// Reads that may wait on one node; more are refused at once.
const READ_WAITERS_MAX: usize = 1 << 16;
/// Rounds that may be under way; then reads gather until one is confirmed.
const READ_ROUNDS_MAX: usize = 256;

/// Who asked.
#[derive(Clone, Debug)]
enum Reader {
    Local(u64),
    Remote { from: u64, context: Bytes },
}

#[derive(Clone, Debug)]
struct Round {
    number: u64,
    /// Commit index when it began.
    index: u64,
    /// When it began, in ticks of this node.
    tick: u64,
    readers: Vec<Reader>,
}

/// The leader's reads.
#[derive(Clone, Debug)]
pub(crate) struct Rounds {
    /// The leader does not know yet what is committed.
    parked: Vec<Reader>,
    /// For the next round.
    gathered: Vec<Reader>,
    /// Under way, oldest first.
    open: VecDeque<Round>,
    next_number: u64,
    /// When the latest round began that a quorum has answered in this term.
    confirmed_tick: Option<u64>,
    /// A transfer was ordered in this term: voters' promises are worth nothing any more.
    pub(crate) lease_broken: bool,
    waiting: usize,
}

impl Rounds {
    pub(crate) fn new(first: u64) -> Rounds {
        Rounds {
            parked: Vec::new(),
            gathered: Vec::new(),
            open: VecDeque::new(),
            next_number: first.max(1),
            confirmed_tick: None,
            lease_broken: false,
            waiting: 0,
        }
    }

    /// What a heartbeat carries to ask about the newest round; it confirms all others, too.
    pub(crate) fn newest(&self) -> Option<Bytes> {
        let newest = self.open.back()?;
        Some(Bytes::copy_from_slice(&newest.number.to_le_bytes()))
    }

    fn begin(&mut self, index: u64, tick: u64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.open.push_back(Round {
            number,
            index,
            tick,
            readers: std::mem::take(&mut self.gathered),
        });
        number
    }

    /// The number in an answer, if it is that of a round under way.
    fn parse(&self, context: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(context.try_into().ok()?);
        let (first, last) = (self.open.front()?.number, self.open.back()?.number);
        (first <= number && number <= last).then_some(number)
    }
}

/// A question that is under way to the leader.
#[derive(Clone, Debug)]
struct Question {
    id: u64,
    contexts: Vec<u64>,
    age_ticks: u32,
}

/// A follower's reads.
#[derive(Clone, Debug)]
pub(crate) struct Forwarding {
    gathered: Vec<u64>,
    asked: VecDeque<Question>,
    next_id: u64,
    waiting: usize,
}

impl Forwarding {
    pub(crate) fn new(first: u64) -> Forwarding {
        Forwarding {
            gathered: Vec::new(),
            asked: VecDeque::new(),
            next_id: first,
            waiting: 0,
        }
    }
}

impl Node {
    /// Asks for the index that must be applied before a read may be answered. The answer is a [`ReadState`], or a
    /// failure if there is no leader, it changes, or too many reads wait; then the read has to be asked again.
    pub fn read_index(&mut self, context: u64) {
        match self.role {
            Role::Leader => self.lead_read(Reader::Local(context)),
            Role::Follower if self.leader != 0 && self.forwarding.waiting < READ_WAITERS_MAX => {
                self.forwarding.waiting += 1;
                self.forwarding.gathered.push(context);
            }
            _ => self.read_failures.push(context),
        }
    }

    fn lead_read(&mut self, reader: Reader) {
        let alone = self.tracker.config.voters.is_only(self.id);
        let at_once = alone || self.lease_holds() || self.planted(Fault::ReadUnconfirmed);
        let knows_commit = self.committed_in_term() || self.planted(Fault::ReadBeforeOwnTerm);
        if knows_commit && at_once {
            self.answer_read(reader, self.log.commit());
        } else if self.rounds.waiting >= READ_WAITERS_MAX {
            self.fail_read(reader);
        } else {
            self.rounds.waiting += 1;
            if knows_commit {
                self.rounds.gathered.push(reader);
            } else {
                self.rounds.parked.push(reader);
            }
        }
    }

    /// Whether a quorum has promised, less than an election timeout ago, not to elect anyone else. A follower's first tick
    /// may come right after the heartbeat, so that its election timeout is up to one tick shorter than the leader's.
    fn lease_holds(&self) -> bool {
        self.reads_by_lease()
            && !self.rounds.lease_broken
            && self
                .rounds
                .confirmed_tick
                .is_some_and(|tick| self.ticks - tick + 1 < u64::from(self.config.election_ticks))
    }

    pub(crate) fn wants_read_round(&self) -> bool {
        match self.role {
            Role::Leader => {
                !self.rounds.gathered.is_empty() && self.rounds.open.len() < READ_ROUNDS_MAX
            }
            _ => !self.forwarding.gathered.is_empty() && self.leader != 0,
        }
    }

    /// Begins a round for the reads that have gathered.
    pub(crate) fn start_read_round(&mut self) {
        if self.role == Role::Leader && self.wants_read_round() {
            self.begin_round();
            let context = self.rounds.newest();
            for at in 0..self.tracker.peers.len() {
                let id = self.tracker.peers[at].id;
                if self.tracker.config.voters.contains(id) {
                    self.send_heartbeat(at, context.clone());
                }
            }
            self.release_reads();
        }
    }

    fn begin_round(&mut self) {
        let number = self.rounds.begin(self.log.commit(), self.ticks);
        if let Some(own) = self.tracker.get_mut(self.id) {
            own.acked_round = number;
        }
    }

    /// With lease reads each heartbeat asks for a renewal.
    pub(crate) fn open_lease_round(&mut self) {
        if self.rounds.open.is_empty() {
            self.begin_round();
        }
    }

    /// A follower has answered a heartbeat with this context.
    pub(crate) fn note_round_answer(&mut self, at: usize, context: &[u8]) {
        let Some(number) = self.rounds.parse(context) else {
            return;
        };
        let progress = &mut self.tracker.peers[at].progress;
        progress.acked_round = progress.acked_round.max(number);
        self.release_reads();
    }

    /// Answers the reads of all rounds that a quorum has confirmed.
    pub(crate) fn release_reads(&mut self) {
        if self.rounds.open.is_empty() {
            return;
        }
        let confirmed = self.tracker.confirmed_round();
        while let Some(round) = self.rounds.open.front() {
            if round.number > confirmed {
                break;
            }
            if let Some(round) = self.rounds.open.pop_front() {
                self.rounds.confirmed_tick = Some(round.tick);
                self.rounds.waiting -= round.readers.len();
                for reader in round.readers {
                    self.answer_read(reader, round.index);
                }
            }
        }
    }

    /// The first entry of the term is committed: now the leader knows what is.
    pub(crate) fn unpark_reads(&mut self) {
        if self.rounds.parked.is_empty() || !self.committed_in_term() {
            return;
        }
        let parked = std::mem::take(&mut self.rounds.parked);
        self.rounds.waiting -= parked.len();
        for reader in parked {
            self.lead_read(reader);
        }
    }

    fn answer_read(&mut self, reader: Reader, index: u64) {
        match reader {
            Reader::Local(context) => self.read_states.push(ReadState { index, context }),
            Reader::Remote { from, context } => {
                let mut answer = message(MessageType::MsgReadIndexResp, self.id, from);
                answer.index = Some(index);
                answer
                    .entries
                    .push(entry(EntryType::EntryNormal, 0, 0, Some(context)));
                self.send(answer);
                // Its read waits until it has applied that much.
                self.announce_commit();
            }
        }
    }

    /// A remote reader asks again by itself.
    fn fail_read(&mut self, reader: Reader) {
        if let Reader::Local(context) = reader {
            self.read_failures.push(context);
        }
    }

    /// Leadership or term has changed: no read of before is answered any more.
    pub(crate) fn fail_reads(&mut self) {
        let parked = std::mem::take(&mut self.rounds.parked);
        let gathered = std::mem::take(&mut self.rounds.gathered);
        let open = std::mem::take(&mut self.rounds.open);
        let readers = open.into_iter().flat_map(|round| round.readers);
        for reader in readers.chain(gathered).chain(parked) {
            self.fail_read(reader);
        }
        self.rounds.waiting = 0;
        self.rounds.confirmed_tick = None;
        self.rounds.lease_broken = false;
        self.fail_forwarded_reads();
    }

    pub(crate) fn fail_forwarded_reads(&mut self) {
        for question in self.forwarding.asked.drain(..) {
            self.read_failures.extend(question.contexts);
        }
        self.read_failures.append(&mut self.forwarding.gathered);
        self.forwarding.waiting = 0;
    }

    /// Asks the leader about the reads that have gathered.
    pub(crate) fn forward_reads(&mut self) {
        if self.role == Role::Leader || !self.wants_read_round() {
            return;
        }
        let id = self.forwarding.next_id;
        self.forwarding.next_id += 1;
        let contexts = std::mem::take(&mut self.forwarding.gathered);
        self.forwarding.asked.push_back(Question {
            id,
            contexts,
            age_ticks: 0,
        });
        self.ask(id);
    }

    fn ask(&mut self, id: u64) {
        let mut question = message(MessageType::MsgReadIndex, self.id, self.leader);
        let data = Bytes::copy_from_slice(&id.to_be_bytes());
        question
            .entries
            .push(entry(EntryType::EntryNormal, 0, 0, Some(data)));
        self.send(question);
    }

    /// A question that is not answered is asked again, with the same id, each half election timeout.
    pub(crate) fn tick_forwarded_reads(&mut self) {
        let patience = (self.config.election_ticks / 2).max(1);
        let mut again = Vec::new();
        for question in &mut self.forwarding.asked {
            question.age_ticks += 1;
            if question.age_ticks % patience == 0 {
                again.push(question.id);
            }
        }
        if self.leader != 0 {
            for id in again {
                self.ask(id);
            }
        }
    }

    /// The leader has answered a question.
    pub(crate) fn handle_read_answer(&mut self, m: &Message) {
        let data = m.entries.first().map(|entry| entry.data());
        let Some(Ok(id)) = data.map(|data| data.try_into().map(u64::from_be_bytes)) else {
            return;
        };
        let Some(at) = self.forwarding.asked.iter().position(|q| q.id == id) else {
            return;
        };
        if let Some(question) = self.forwarding.asked.remove(at) {
            self.forwarding.waiting -= question.contexts.len();
            let index = m.index();
            for context in question.contexts {
                self.read_states.push(ReadState { index, context });
            }
        }
    }

    /// Another node asks about its reads.
    pub(crate) fn handle_read_request(&mut self, mut m: Message) {
        match self.role {
            Role::Leader => {
                let context = m.entries[0].data.take().unwrap_or_default();
                let from = m.from();
                self.lead_read(Reader::Remote { from, context });
            }
            Role::Follower if self.leader != 0 && self.leader != m.from() => {
                let mut question = message(MessageType::MsgReadIndex, m.from(), self.leader);
                question.entries = m.entries;
                self.send(question);
            }
            _ => {}
        }
    }
}
