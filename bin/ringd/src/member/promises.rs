//! Keeping what is written of this member's promises ahead of what it promises, and clients away while it fetches its data
//! again.

use super::{Effect, Member, UpkeepJob};
use crate::promises::{PromiseFile, Promises};
use engine::page::is_disk_full;
use std::{io, sync::Arc};

/// A member that fetches its data again says so often why it does not get on without a leader.
const WAITING_NOTICE_NS: u64 = 60_000_000_000;
/// And not before it has waited for so long.
const WAITING_PATIENCE_NS: u64 = 15_000_000_000;
/// Time between two attempts on a full file system.
const FULL_DISK_RETRY_NS: u64 = 1_000_000_000;

/// Promises on their way to the disk.
pub struct PromiseJob {
    file: Arc<dyn PromiseFile>,
    promises: Promises,
}

/// Durable promises, or why they are not.
pub type Written = (Promises, io::Result<()>);

impl PromiseJob {
    /// What is to be written.
    pub fn content(&self) -> Vec<u8> {
        self.promises.encode()
    }

    pub(super) fn run(self) -> Written {
        let result = self.file.replace(&self.promises.encode());
        (self.promises, result)
    }
}

#[derive(Default)]
pub(super) struct Kept {
    file: Option<Arc<dyn PromiseFile>>,
    durable: Promises,
    is_writing: bool,
    /// There was no room; it is tried again then.
    retry_ns: u64,
    /// When it is to be said that there is no leader.
    complain_ns: Option<u64>,
}

impl Kept {
    /// Whether something of this term may leave the member.
    pub fn allows(&self, term: u64) -> bool {
        self.file.is_none() || term <= self.durable.term_max
    }
}

impl Member {
    /// What is durable of this member's promises, and where. Without it they are not kept.
    pub fn set_promises(&mut self, file: Arc<dyn PromiseFile>, durable: Promises) {
        self.kept = Kept {
            file: Some(file),
            durable,
            ..Kept::default()
        };
    }

    /// Whether this member lost what it had and has not enough of it again to count.
    pub fn is_refetching(&self) -> bool {
        self.node.is_refetching()
    }

    /// Whether more is answered here than what a member shows that may be behind.
    pub fn serves_clients(&self) -> bool {
        !self.is_learner() && !self.is_refetching()
    }

    /// Writes down what has changed.
    pub(super) fn keep_promises(&mut self) {
        let waits = self.kept.is_writing || self.now_ns < self.kept.retry_ns;
        let (Some(file), false) = (&self.kept.file, waits || self.halted) else {
            return;
        };
        let durable = self.kept.durable;
        let mut wanted = durable.ahead_of(self.node.term());
        let voters = self.node.configuration().voters.incoming.ids.as_slice();
        if !voters.is_empty() {
            wanted.voters = voters.len() as u32;
            wanted.is_voter = voters.contains(&self.config.member_id);
        }
        if !self.node.is_refetching() {
            wanted.refetch = None;
        }
        if wanted == durable {
            return;
        }
        self.kept.is_writing = true;
        let job = PromiseJob {
            file: file.clone(),
            promises: wanted,
        };
        self.effects.push(Effect::Upkeep(UpkeepJob::Promises(job)));
    }

    pub(super) fn promises_written(&mut self, (promises, result): Written) {
        self.kept.is_writing = false;
        if result.as_ref().is_err_and(is_disk_full) {
            // Whatever needs a larger bound waits until there is room.
            self.kept.retry_ns = self.now_ns + FULL_DISK_RETRY_NS;
            return;
        }
        if let Err(error) = result {
            let name = self.kept.file.as_ref().map_or(String::new(), |f| f.name());
            return self.halt(format!(
                "{name} cannot be written: {error}. Check the disk and start again: nothing acknowledged is lost"
            ));
        }
        if self.kept.durable.refetch.is_some() && promises.refetch.is_none() {
            self.notices.push(
                "this member has everything again that it can have acknowledged: it votes and serves clients from here on"
                    .into(),
            );
        }
        self.kept.durable = promises;
        self.report_durable();
    }

    /// Says why a member that fetches its data again does not get on.
    pub(super) fn complain_while_refetching(&mut self, now_ns: u64) {
        if !self.is_refetching() || self.has_leader() {
            self.kept.complain_ns = None;
            return;
        }
        let due_ns = *self
            .kept
            .complain_ns
            .get_or_insert(now_ns + WAITING_PATIENCE_NS);
        if now_ns < due_ns {
            return;
        }
        self.kept.complain_ns = Some(now_ns + WAITING_NOTICE_NS);
        self.notices.push(
            "this member lost data and waits for a leader that the others elect without it: a majority of the members must \
             run with their data intact. If a majority lost data, restore the cluster from a snapshot, or start the member \
             with the most recent intact data with --force-new-cluster"
                .into(),
        );
    }
}
