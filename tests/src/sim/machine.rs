//! What a machine does: it starts, takes turns, carries out what its member decided, and dies.

use engine::page::{is_disk_full, FetchDone, FetchJob, Progress, Stage};
use engine::wal::{self, Expect, SegmentId};
use proto::raftpb::EntryType;
use ringd::member::{Effect, Input};
use ringd::request::CallId;

use super::chance::Chance;
use super::finish::INSPECTION;
use super::membership::Standing;
use super::node::{name, Node};
use super::swarm::{MILLISECOND_NS, TICK_NS};
use super::words;
use super::world::{Event, World};

/// Between two looks at a member's clock, as in the shell.
const PULSE_NS: u64 = TICK_NS / 2;
/// A moment for background work comes soon.
const WORK_NS: u64 = MILLISECOND_NS;
/// A file operation of the log takes up to this long.
const FILE_OP_MAX_NS: u64 = 20 * MILLISECOND_NS;

impl World {
    pub fn start(&mut self, number: usize) {
        if self.node(number).running.is_some() || !self.may_start(number) {
            return;
        }
        let (plan, members, now) = (self.plan.member.clone(), self.plan.members, self.now);
        let mut chance = Chance::stream(self.chance.starts.draw(), 0);
        if let Err(why) = self
            .node_mut(number)
            .start(&plan, members, &mut chance, now)
        {
            if self.node(number).rotten {
                self.coverage.hit("damage refused at start");
                self.say(|| why);
                return self.node_mut(number).broken = true;
            }
            return self.fail(why);
        }
        let life = self.node(number).life;
        self.say(|| format!("{} starts, life {life}", name(number)));
        if self.node(number).refetches {
            self.coverage.hit("member without its data started");
        }
        let verdict = self.node_mut(number).remembers_change();
        self.judge(number, verdict);
        self.replayed(number);
        self.after(0, Event::Pulse { node: number, life });
        self.connect(number);
    }

    /// What the log says to be committed is applied at a start, be it for the first time anywhere: whoever knew of the commit
    /// waited for pages when it died.
    fn replayed(&mut self, number: usize) {
        let all = self.history.applied();
        let node = self.node(number);
        let Some(running) = node.running.as_ref().filter(|_| node.applied_seen > all) else {
            return;
        };
        let expect = Expect {
            first_needed: Some(SegmentId(
                running.member.store().log_mark().first_needed_segment,
            )),
            applied: all,
            ..Expect::default()
        };
        let until = node.applied_seen;
        let log = match wal::recover(&node.disk.log, expect) {
            Ok(log) => log,
            Err(error) => return self.fail(format!("{}: {error}", name(number))),
        };
        let mut decided = false;
        let mut replayed = log.entries.iter().take_while(|e| e.index() <= until);
        let verdict = replayed.try_for_each(|entry| {
            decided |= entry.r#type() != EntryType::EntryNormal;
            self.history.entry_applied(entry.index(), entry)
        });
        self.judge(number, verdict);
        if decided {
            self.membership_decided(number);
        }
    }

    fn may_start(&self, number: usize) -> bool {
        let node = self.node(number);
        node.standing != Standing::Awaited && !node.broken
    }

    pub fn pulse(&mut self, node: usize, life: u64) {
        let Some(running) = self.living(node, life) else {
            return;
        };
        let next = running.clock.true_duration(PULSE_NS);
        let paused = running.paused;
        self.after(next, Event::Pulse { node, life });
        if !paused {
            self.input(node, life, Input::Pulse);
        }
    }

    /// One turn of a member: all inputs, one settling, and the effects one by one.
    pub fn turn(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(running) = self.living(node, life) else {
            return;
        };
        running.turn_due = false;
        running.revision = running.member.store().revision();
        if running.paused {
            return; // goes on when the member does
        }
        let own_ns = running.clock.now(now);
        let inbox = std::mem::take(&mut running.inbox);
        for input in inbox {
            words::mix_input(&input, &mut self.trace);
            let named = |id| self.name_of(id);
            let line = || format!("{} {}", name(node), words::input(&input, named));
            // The borrow of the names ends with the line.
            let words = self.trace.wants_words().then(line);
            self.trace.say(now, || words.unwrap_or_default());
            let installs = matches!(&input, Input::Installed { result: Ok(_) });
            if let Some(running) = self.living(node, life) {
                running.member.step(input, own_ns);
            }
            if installs {
                self.installed(node);
            }
        }
        loop {
            let Some(running) = self.living(node, life) else {
                return;
            };
            running.member.settle(own_ns);
            let again = running.member.wants_settle();
            let mut effects = std::mem::take(&mut running.effects);
            running.member.take_effects(&mut effects);
            self.check_member(node, life);
            for effect in effects.drain(..) {
                if self.failure.is_some() || !self.carry_out(node, life, effect) {
                    return;
                }
            }
            let Some(running) = self.living(node, life) else {
                return;
            };
            running.effects = effects;
            if !again {
                break;
            }
        }
        let Some(running) = self.living(node, life) else {
            return;
        };
        if running.member.wants_work() && !running.work_due {
            running.work_due = true;
            self.after(WORK_NS, Event::Work { node, life });
        }
    }

    pub fn name_of(&self, id: u64) -> String {
        match self.number_of(id) {
            Some(number) => name(number),
            None => format!("{id:x}"),
        }
    }

    /// A member took a snapshot over: it has applied what the snapshot contains without having seen the entries.
    fn installed(&mut self, number: usize) {
        let all = self.history.applied();
        let Some(running) = &self.node(number).running else {
            return;
        };
        let applied = running.member.store().applied().0;
        if applied > all {
            return self.fail(format!(
                "{} installed a snapshot of entry {applied}, and only {all} were applied anywhere",
                name(number)
            ));
        }
        self.node_mut(number).applied_seen = applied;
    }

    /// What holds after every turn of a member.
    pub fn check_member(&mut self, number: usize, life: u64) {
        let node = &mut self.nodes[number - 1];
        let counts = node.running.as_ref().filter(|r| !r.member.is_refetching());
        if let Some(running) = counts {
            // What it once had was counted, whatever became of it.
            node.durable_index = running.member.log().durable_index();
            let commit = running.member.node().commit_index();
            let had = std::mem::replace(&mut node.sure_index, node.durable_index.min(commit));
            if node.durable_index < had {
                let durable = node.durable_index;
                return self.fail(format!(
                    "{} had entry {had} on disk, committed, and counts although its log ends with entry {durable}",
                    name(number)
                ));
            }
            if std::mem::take(&mut node.refetches) {
                self.coverage.hit("member has its data again");
                let id = node.id;
                self.disarm(number, id);
            }
        }
        self.note_rebuilt(number);
        let node = &self.nodes[number - 1];
        let Some(running) = &node.running else { return };
        let member = &running.member;
        let applied = member.store().applied().0;
        let mut verdict = Ok(());
        let mut decided = false;
        let mut changed = None;
        for index in node.applied_seen + 1..=applied {
            let Some(entry) = member.node().recent_entry(index) else {
                verdict = Err(format!("entry {index} was applied and is not in memory"));
                break;
            };
            if entry.r#type() != EntryType::EntryNormal {
                changed = Some(index);
                decided |= index > self.history.applied();
            }
            verdict = self.history.entry_applied(index, entry);
            if verdict.is_err() {
                break;
            }
        }
        let store = member.store();
        let verdict = verdict
            .and_then(|()| {
                self.history
                    .state_at(applied, store.revision(), store.compacted())
            })
            .and_then(|()| match applied > node.applied_seen {
                true => self.history.same_state(applied, store),
                false => Ok(()),
            })
            .and_then(|()| {
                let copies = |index, voters: &[u64]| {
                    let hold = |n: &&Node| voters.contains(&n.id) && n.holds(index);
                    self.nodes.iter().filter(hold).count()
                };
                self.consensus.check(member, life, &self.history, copies)
            });
        // A change of members that was applied is known to be committed, and once nothing waits for the disk, also there.
        let is_written = member.log().pending_bytes() == 0;
        let node = self.node_mut(number);
        node.applied_seen = applied;
        node.changed = changed.unwrap_or(node.changed);
        if is_written {
            node.sure_change = node.changed;
        }
        self.judge(number, verdict);
        if decided {
            self.membership_decided(number);
        }
        for id in self.history.take_reported() {
            self.coverage.hit("damage reported");
            let harmed = self.number_of(id).map(|number| self.node(number));
            if harmed.is_some_and(|node| !node.was_rotten) {
                self.fail(format!(
                    "{} reports damage to its data, and its disk never was damaged",
                    self.name_of(id)
                ));
            }
        }
        for lease in self.history.take_revoked() {
            let verdict = self.leases.ended(lease, self.now);
            self.judge(number, verdict);
        }
    }

    /// A member whose pages were damaged has them from another one, and is as good as any.
    fn note_rebuilt(&mut self, number: usize) {
        let node = self.node_mut(number);
        let count = node.running.as_ref().map_or(0, |r| r.member.rebuilds());
        if count == std::mem::replace(&mut node.rebuilds, count) {
            return;
        }
        if node.rotten && node.rotten_pages {
            (node.rotten, node.excused) = (false, false);
            self.coverage.hit("pages made anew while running");
        }
    }

    /// False if the member is no more.
    pub fn carry_out(&mut self, node: usize, life: u64, effect: Effect) -> bool {
        let Some(running) = self.living(node, life) else {
            return false;
        };
        if let Some(left) = &mut running.dies_after {
            if *left == 0 {
                self.crash(node);
                return false;
            }
            *left -= 1;
        }
        words::mix_effect(&effect, &mut self.trace);
        if self.trace.wants_words() {
            let line = format!(
                "{}   {}",
                name(node),
                words::effect(&effect, |id| self.name_of(id))
            );
            self.trace.say(self.now, || line);
        } else {
            self.trace.say(self.now, String::new);
        }
        match effect {
            Effect::Reply { call, result } if call.connection() == CallId::PEER_CONNECTION => {
                self.peer_answers(node, call.stream(), result)
            }
            Effect::Reply { call, result } if call.connection() >= INSPECTION => {
                self.inspected(call, result)
            }
            Effect::Reply { call, result } => self.reply(node, call, result),
            Effect::Stream { call, message } => self.stream(node, call, message),
            Effect::End { call, .. } => self.end(node, call),
            Effect::WriteLog(write) => {
                let tag = write.tag;
                self.node_mut(node).disk.begin_write(write);
                let delay = self.disk_delay(node, self.plan.member.write_max_ns);
                self.after(delay, Event::LogWritten { node, life, tag });
            }
            Effect::LogFile(op) => {
                self.node_mut(node).disk.begin_op(op);
                let delay = self.disk_delay(node, FILE_OP_MAX_NS);
                self.after(delay, Event::LogFile { node, life });
            }
            Effect::ReadLog { from, job } => {
                let delay = self.disk_delay(node, self.plan.member.page_max_ns);
                self.after(
                    delay,
                    Event::LogRead {
                        node,
                        life,
                        from,
                        job,
                    },
                );
            }
            Effect::Fetch(job) => {
                let delay = self.disk_delay(node, self.plan.member.page_max_ns);
                self.after(delay, Event::Fetched { node, life, job });
            }
            Effect::Upkeep(job) => {
                let delay = self.disk_delay(node, FILE_OP_MAX_NS);
                self.after(delay, Event::Upkeep { node, life, job });
            }
            Effect::Checkpoint(job) => {
                let mut has_moved = false;
                if let Some(running) = self.living(node, life) {
                    running.checkpoint = Some(job);
                    let moved = running.member.relocated_bytes();
                    has_moved = moved > std::mem::replace(&mut running.relocated, moved);
                }
                self.coverage.hit("checkpoint");
                if has_moved {
                    self.coverage.hit("checkpoint with moved pages");
                }
                self.after(0, Event::CheckpointStep { node, life });
            }
            Effect::Send(message) => self.send(node, message),
            Effect::AskPeer { ask, peer, request } => self.ask_peer(node, life, ask, peer, request),
            Effect::PrepareSnapshot { .. }
            | Effect::SendSnapshot { .. }
            | Effect::ReadSnapshot { .. }
            | Effect::SnapshotBytes { .. }
            | Effect::CancelSnapshot { .. }
            | Effect::Stage { .. }
            | Effect::SnapshotTaken { .. }
            | Effect::Install(_) => self.snapshot_effect(node, life, effect),
            Effect::MembersChanged => {}
            Effect::Wake { after_ns } => {
                if let Some(running) = self.living(node, life) {
                    let delay = running.clock.true_duration(after_ns);
                    self.after(delay, Event::Wake { node, life });
                }
            }
            Effect::Removed => {
                if self.node(node).standing != Standing::Removed {
                    self.fail(format!("{} says that it was removed", name(node)));
                }
                self.coverage.hit("removed member stopped");
                self.retire(node);
                return false;
            }
            Effect::Halt(reason) => {
                self.halted(node, &reason);
                return false;
            }
        }
        true
    }

    pub fn halted(&mut self, node: usize, reason: &str) {
        if !self.node(node).excused {
            return self.fail(format!("{} halts without a fault: {reason}", name(node)));
        }
        self.coverage.hit("halt after disk fault");
        self.crash(node);
    }

    pub fn disk_delay(&mut self, node: usize, max_ns: u64) -> u64 {
        let stalled = self.node(node).stalled_until.saturating_sub(self.now);
        stalled + self.chance.disk.between(max_ns / 10, max_ns)
    }

    pub fn log_written(&mut self, number: usize, life: u64, tag: u64) {
        if self.living(number, life).is_none() {
            return;
        }
        let node = &mut self.nodes[number - 1];
        let fails = node.write_errors > 0;
        node.write_errors = node.write_errors.saturating_sub(1);
        node.excused |= fails;
        let Some((write, result)) = node.disk.end_write(tag, fails, &mut self.chance.disk) else {
            return self.fail(format!("{}: write {tag} is not under way", name(number)));
        };
        if fails {
            self.coverage.hit("log write error");
        }
        let input = Input::LogWritten {
            tag,
            result,
            buffer: write.buf,
        };
        self.input(number, life, input);
    }

    pub fn log_file(&mut self, number: usize, life: u64) {
        if self.living(number, life).is_none() {
            return;
        }
        let node = self.node_mut(number);
        let is_full = node.full_disk > 0;
        node.full_disk = node.full_disk.saturating_sub(1);
        let Some((tag, result)) = node.disk.end_op(is_full) else {
            return self.fail(format!("{}: no file operation is under way", name(number)));
        };
        if result.is_err() {
            self.coverage.hit("disk full");
        }
        self.input(number, life, Input::LogFile { tag, result });
    }

    /// Reads pages for a member. One that is not what was written to its place must not be taken for good, whether or not
    /// anybody looks at what it says.
    pub fn fetch(&mut self, number: usize, job: FetchJob) -> FetchDone {
        let before = self.node(number).disk.pages.pages().damaged_reads();
        let done = job.run();
        if self.node(number).disk.pages.pages().damaged_reads() == before {
            return done;
        }
        self.coverage.hit("damaged page fetched");
        if done.outcomes().all(|(_, found)| found.is_ok()) {
            let pages: Vec<_> = done.outcomes().map(|(page, _)| page).collect();
            self.fail(format!(
                "{} takes pages for good that its disk has garbled, among {pages:?}",
                name(number)
            ));
        }
        done
    }

    pub fn checkpoint_step(&mut self, node: usize, life: u64) {
        let Some(running) = self.living(node, life) else {
            return;
        };
        let Some(mut job) = running.checkpoint.take() else {
            return;
        };
        match job.step() {
            Ok(Progress::Finished(done)) => {
                let result = Ok(done);
                self.input(node, life, Input::Checkpointed { result });
            }
            Ok(Progress::Wrote(_)) => {
                running.checkpoint = Some(job);
                let delay = self.disk_delay(node, self.plan.member.page_max_ns);
                self.after(delay, Event::CheckpointStep { node, life });
            }
            Err(error) if job.stage() == Stage::Grow && is_disk_full(&error) => {
                let job = Box::new(job);
                self.input(node, life, Input::CheckpointFull { job });
            }
            Err(error) => {
                let result = Err(error);
                self.input(node, life, Input::Checkpointed { result });
            }
        }
    }

    /// The process is gone, and with power loss the machine.
    pub fn crash(&mut self, number: usize) {
        let power_loss = self.plan.faults.power_loss && self.chance.faults.percent(60);
        self.end_life(number, power_loss);
    }

    /// The power of a machine goes.
    pub fn lose_power(&mut self, number: usize) {
        self.end_life(number, true);
    }

    fn end_life(&mut self, number: usize, power_loss: bool) {
        let state = self.node(number).state();
        let node = &mut self.nodes[number - 1];
        let Some(running) = node.running.take() else {
            return;
        };
        let in_meta = running.checkpoint.filter(|job| job.stage() == Stage::Meta);
        if let (true, Some(mut job)) = (power_loss, in_meta) {
            // The power goes while the meta page is written: any of its sectors may be there.
            let now = node.disk.pages.pages().operations();
            node.disk.pages.pages().lose_power_at(now);
            let torn = job.step().is_err();
            debug_assert!(torn, "the write during which the power goes fails");
            self.coverage.hit("torn meta page");
        }
        drop(running.member);
        let node = &mut self.nodes[number - 1];
        node.disk.crash(power_loss, &mut self.chance.disk);
        // A life that has not ended cannot have seen what the next one will.
        node.applied_seen = 0;
        node.stalled_until = 0;
        let kind = if power_loss { "power loss" } else { "crash" };
        self.coverage.hit_in(kind, state);
        self.say(|| format!("{} is gone ({kind})", name(number)));
        self.clients_lose(number);
        self.transfers_lose(number);
        let refuses = self.plan.network.refusals && !power_loss;
        let id = self.node(number).id;
        for peer in (1..=self.nodes.len()).filter(|peer| *peer != number) {
            let open = self.network.is_open(number, peer) && self.network.is_open(peer, number);
            let life = self.node(peer).life;
            let closed = Input::Connected {
                peer: id,
                connected: false,
            };
            self.input(peer, life, closed);
            if refuses && open && !self.calm {
                self.coverage.hit("refused connection");
                let delay = self.network.client_delay(&mut self.chance.network);
                self.after(
                    delay,
                    Event::Refused {
                        node: peer,
                        peer: id,
                    },
                );
            }
        }
        if self.node(number).broken {
            return;
        }
        let down = 1 + self.chance.faults.around(2_000 * MILLISECOND_NS);
        self.after(down, Event::Start { node: number });
    }
}
