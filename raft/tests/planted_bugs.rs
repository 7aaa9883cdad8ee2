//! The cluster test is only worth something if it notices a broken rule. Each planted bug must be found.
//!
//! Run with `cargo test -p ringd-raft --features planted-bugs --test planted_bugs`.
#![cfg(feature = "planted-bugs")]

use std::panic::{catch_unwind, set_hook, take_hook};

use raft::fuzzing::{Chance, Cluster, Options};
use raft::planted::{plant, Fault};

/// Seeds within which a bug has to show.
const SEEDS_MAX: u64 = 2000;

const FAULTS: [Fault; 15] = [
    Fault::CountUndurable,
    Fault::AckUndurable,
    Fault::VoteUndurable,
    Fault::VoteTwice,
    Fault::CommitOldTerm,
    Fault::CommitUnproved,
    Fault::AppendUnchecked,
    Fault::CountTwice,
    Fault::AbaWrite,
    Fault::ReadUnconfirmed,
    Fault::IncomingOnly,
    Fault::CampaignUnapplied,
    Fault::PileUpConfChanges,
    Fault::LossForgotten,
    Fault::LossMadeUpEarly,
];

fn found_after(fault: Fault) -> Option<u64> {
    plant(Some(fault));
    let found = (0..SEEDS_MAX).find(|seed| {
        catch_unwind(|| {
            let mut chance = Chance::from_seed(*seed);
            let losses = matches!(fault, Fault::LossForgotten | Fault::LossMadeUpEarly);
            let voters = [3, 5, 2 + u64::from(losses)][(*seed % 3) as usize];
            let mut options = Options::draw(&mut chance, voters, 12_000);
            if losses {
                options = options.with_losses();
            }
            Cluster::new(options, chance).run()
        })
        .is_err()
    });
    plant(None);
    found
}

#[test]
fn every_planted_bug_is_found() {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let results: Vec<_> = FAULTS
        .iter()
        .map(|fault| (*fault, found_after(*fault)))
        .collect();
    set_hook(hook);
    for (fault, found) in &results {
        println!("{fault:?}: {found:?}");
    }
    let missed: Vec<_> = results
        .iter()
        .filter(|(_, found)| found.is_none())
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
