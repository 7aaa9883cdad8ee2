//! A trace of everything that the member of a real process was told and did, to be replayed outside of the process.
//!
//! A debugging control: with `RINGD_RECORD=<directory>` a build with debug assertions makes that directory, which must not be
//! there, copies the data directory into it before it opens anything, and writes the trace beside the copy. Release builds
//! refuse to start with it. Without the variable nothing is written, and a turn costs one comparison more.
//!
//! [`Recorded`] is the member as the server has it: it can be changed by inputs and by settling only, so that nothing that
//! reaches the member is missing in the trace. What a replay needs is the trace, the copy, and the program that wrote them.
//!
//! # Files
//!
//! `data/member` and, if it is not inside of that, `wal` are the copy. `trace` begins with [`MAGIC`]; then records follow: a
//! kind, the payload's length (4 bytes, little-endian like all numbers), the payload. A killed process leaves an unfinished
//! record at most.
//!
//! | kind | payload |
//! | --- | --- |
//! | `H` | [`Header`] as JSON: configuration, chance, clock and memory at the start, and where a new member came from. The first record |
//! | `I` | the member's clock in ns (8), and an input ([`input`]) |
//! | `S` | the member's clock in ns (8), and the effects of everything since the last `S`: number (4), then for each its kind (1), length (4) and digest (8) ([`effect`]) |
//!
//! Texts and byte strings are preceded by their length (4). A digest is the first eight bytes of SHA-1.
//!
//! An input that says that a job of the disk has ended has the job's name and a digest of what came of it. A replay carries
//! the job out on its copy of the files and must find the same. So what a member decides is shown to depend on its inputs and
//! its files alone. What else could matter, and is not in the trace: a memory fault under the mapping (SIGBUS), and the moment
//! at which a pool thread lets go of a checkpoint that it has read, by which its pages can be used again.

mod codec;
mod effect;
mod header;
mod input;
#[cfg(debug_assertions)]
mod recorder;

pub use codec::Malformed;
pub use effect::{effects, EffectMark};
pub use header::Header;
pub use input::{encode as encode_input, Done, Told};

use crate::{
    bootstrap::{assemble::Origin, Draws, Failure},
    config::Config,
    member::{Effect, Input, Member},
};
use std::{ops::Deref, path::Path};

/// The variable that names the directory to be made.
pub const VARIABLE: &str = "RINGD_RECORD";
/// The trace, in that directory.
pub const TRACE_FILE: &str = "trace";
/// The copy of the data directory, and of a log directory outside of it.
pub const DATA_DIR: &str = "data";
pub const WAL_DIR: &str = "wal";
pub const MAGIC: &[u8] = b"ringd trace 1\n";

/// A record of a trace.
pub enum Record {
    Header(Box<Header>),
    Input {
        now_ns: u64,
        /// As it was encoded.
        bytes: Vec<u8>,
    },
    Settled {
        now_ns: u64,
        effects: Vec<EffectMark>,
    },
}

/// Takes a trace apart. An unfinished record at the end is left out.
pub fn records(trace: &[u8]) -> Result<Vec<Record>, Malformed> {
    let mut rest = trace
        .strip_prefix(MAGIC)
        .ok_or(Malformed("it does not begin as a trace does"))?;
    let mut records = Vec::new();
    while let Some((kind, payload, behind)) = codec::next_record(rest) {
        let mut reader = codec::Reader(payload);
        records.push(match kind {
            b'H' => Record::Header(Box::new(Header::decode(payload)?)),
            b'I' => Record::Input {
                now_ns: reader.u64()?,
                bytes: reader.0.to_vec(),
            },
            b'S' => Record::Settled {
                now_ns: reader.u64()?,
                effects: effect::decode_marks(&mut reader)?,
            },
            _ => return Err(Malformed("a record of unknown kind")),
        });
        rest = behind;
    }
    Ok(records)
}

impl Told {
    /// What a record of an input says.
    pub fn decode(bytes: &[u8]) -> Result<Told, Malformed> {
        input::decode(bytes)
    }
}

/// A recording whose files were copied, or none.
pub struct Begun {
    #[cfg(debug_assertions)]
    recorder: Option<recorder::Recorder>,
}

/// Copies the files and begins the trace, if the variable is set.
pub fn begin(config: &Config, page_file: &Path) -> Result<Begun, Failure> {
    let Some(directory) = std::env::var_os(VARIABLE) else {
        return Ok(Begun {
            #[cfg(debug_assertions)]
            recorder: None,
        });
    };
    begin_in(Path::new(&directory), config, page_file)
}

#[cfg(debug_assertions)]
fn begin_in(directory: &Path, config: &Config, page_file: &Path) -> Result<Begun, Failure> {
    let recorder = recorder::Recorder::begin(directory, config, page_file)
        .map_err(|error| format!("{VARIABLE}={}: {error}", directory.display()))?;
    Ok(Begun {
        recorder: Some(recorder),
    })
}

/// Refuses: this build has no such control.
#[cfg(not(debug_assertions))]
fn begin_in(_directory: &Path, _config: &Config, _page_file: &Path) -> Result<Begun, Failure> {
    Err(format!(
        "{VARIABLE} is set, but this is a release build, which records nothing: unset it, or use a build with debug assertions"
    )
    .into())
}

impl Begun {
    /// From now on everything that this member is told and does is recorded.
    pub fn of(
        self,
        member: Member,
        draws: &Draws,
        origin: Option<&Origin>,
    ) -> Result<Recorded, Failure> {
        #[cfg(debug_assertions)]
        let recorder = match self.recorder {
            Some(mut recorder) => {
                recorder.header(&Header::of_this_process(draws, origin))?;
                Some(Box::new(recorder))
            }
            None => None,
        };
        #[cfg(not(debug_assertions))]
        let _ = (draws, origin);
        Ok(Recorded {
            member,
            #[cfg(debug_assertions)]
            recorder,
        })
    }
}

/// The member, with the trace of what it is told and does if there is one.
pub struct Recorded {
    member: Member,
    #[cfg(debug_assertions)]
    recorder: Option<Box<recorder::Recorder>>,
}

impl Deref for Recorded {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Recorded {
    pub fn step(&mut self, input: Input, now_ns: u64) {
        #[cfg(debug_assertions)]
        if let Some(recorder) = &mut self.recorder {
            recorder.input(&input, now_ns);
        }
        self.member.step(input, now_ns);
    }

    /// Draws the conclusions, and gives the effects of all since the last time.
    pub fn settle(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        let before = effects.len();
        self.member.settle(now_ns);
        self.member.take_effects(effects);
        #[cfg(debug_assertions)]
        if let Some(recorder) = &mut self.recorder {
            recorder.settled(&effects[before..], now_ns);
        }
        #[cfg(not(debug_assertions))]
        let _ = before;
    }

    /// Lines about elections.
    pub fn take_election_lines(&mut self) -> Vec<String> {
        self.member.take_election_lines()
    }

    /// Lines for the operator.
    pub fn take_notices(&mut self) -> Vec<String> {
        #[cfg(debug_assertions)]
        if let Some(line) = self.recorder.as_mut().and_then(|r| r.take_failure()) {
            let mut notices = self.member.take_notices();
            notices.push(line);
            return notices;
        }
        self.member.take_notices()
    }
}
