//! Consensus as a pure state machine.
//!
//! A [`Node`] decides what a member of a Raft group writes, sends, applies and answers. It has no I/O, no clock and no
//! randomness of its own: messages, proposals, ticks and reports go in, one [`Ready`] value comes out, and the same
//! inputs give the same outputs. It speaks etcd's messages (`proto::raftpb`) with etcd's rules.
//!
//! ```text
//!   tick, step, propose, read_index, campaign ...          persisted, applied, entries_read
//!                     |                                                  |
//!                     v                                                  v
//!                +--------------------------------------------------------------+
//!                |                             Node                             |
//!                +--------------------------------------------------------------+
//!                     |                            |                     |
//!               entries, hard state             messages             committed entries,
//!               (numbered by Ready.seq)         (send now)           read states, ...
//! ```
//!
//! Writes are acknowledged asynchronously. The embedding may send, write and apply what one [`Ready`] holds at the same
//! time and take further ones meanwhile; it performs writes in order and reports [`Node::persisted`]. Whatever speaks
//! of durable state waits inside until then: the own vote, vote requests, granted votes and acknowledgements. The
//! leader's own copy counts like any other, once durable; so an entry may be committed by others first.
//!
//! Floors: [`quorum`], `tracker`, `log` and [`confchange`] are leaves that know no messages; `election`, `replication`,
//! `follower`, `propose`, `read_index` and `failover` are the parts of [`Node`]; `ready` is its border.

#![deny(missing_docs)]

pub mod confchange;
mod config;
mod election;
mod failover;
mod follower;
#[doc(hidden)]
pub mod fuzzing;
mod log;
mod message;
mod node;
pub mod planted;
mod propose;
pub mod quorum;
mod random;
mod read_index;
mod ready;
mod replication;
mod tracker;

pub use confchange::{ConfChange, ConfChangeError, Configuration};
pub use config::{Config, Error, Initial, ReadOnly};
pub use failover::{FAILOVER_DELAY_MS_MAX, FAILOVER_DELAY_MS_MIN};
pub use log::TermRun;
pub use node::{Node, PeerStatus, Role, RoleChange, Status, StepError};
pub use propose::{ProposeError, Proposed};
pub use ready::{EntryRead, ReadState, Ready, SoftState};
pub use tracker::ProgressState;
