//! What a member takes from its machine at the start besides its files.

use super::{unix_ms, Failure};
use serde::{Deserialize, Serialize};

/// Chance, time and the size of the machine: with the configuration and the files, all that a member begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draws {
    /// Jitter of watch streams, by hub and by member.
    pub store_seed: u64,
    pub member_seed: u64,
    /// Marks the log's batches as this process's.
    pub incarnation: u64,
    /// Election time-outs.
    pub raft_seed: u64,
    /// The wall clock.
    pub unix_ms: u64,
    pub memory_limit_bytes: u64,
}

impl Draws {
    pub fn of_this_machine() -> Result<Draws, Failure> {
        Ok(Draws {
            store_seed: random_u64()?,
            member_seed: random_u64()?,
            incarnation: random_u64()?,
            raft_seed: random_u64()?,
            unix_ms: unix_ms(),
            memory_limit_bytes: crate::process::memory_limit_bytes(),
        })
    }
}

fn random_u64() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| format!("no random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}
