//! The trace of a real process (see `ringd::recording`), replayed through its member outside of that process.
//!
//! This is a shell like the server's and the simulator's, the smallest of the three: inputs come from the trace, jobs of the
//! disk are carried out on a copy of the copy when the trace says that they ended, and every effect must be the one that the
//! process had, in the same order.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use engine::page::{CheckpointJob, FetchJob, PageDir, Pin, Progress};
use engine::store::install::{InstallJob, StageJob};
use engine::store::Outgoing;
use engine::wal::{driver::LogFiles, FileOp, ReadJob, Write};
use ringd::bootstrap;
use ringd::config;
use ringd::member::{Effect, Input, Member, UpkeepJob};
use ringd::recording::{
    self, encode_input, Done, EffectMark, Header, Record, Told, DATA_DIR, TRACE_FILE, WAL_DIR,
};

use crate::sim::effect_in_words;

/// What a replay went through.
#[derive(Debug, Default)]
pub struct Replayed {
    pub inputs: usize,
    pub turns: usize,
    pub effects: usize,
    /// How often each input was met, by the first byte of its encoding, and each effect.
    pub inputs_by_kind: BTreeMap<u8, usize>,
    pub effects_by_kind: BTreeMap<u8, usize>,
}

/// The records of a recording.
pub fn records(recording: &Path) -> Result<Vec<Record>, String> {
    let path = recording.join(TRACE_FILE);
    let trace = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    recording::records(&trace).map_err(|error| format!("{}: {error}", path.display()))
}

/// Replays records on a copy of the recording's files, which stay as they are.
pub fn replay(recording: &Path, records: &[Record]) -> Result<Replayed, String> {
    let place = crate::server::temporary_dir();
    for part in [DATA_DIR, WAL_DIR] {
        copy(&recording.join(part), &place.path().join(part)).map_err(|e| e.to_string())?;
    }
    let [Record::Header(header), records @ ..] = records else {
        return Err("the trace has no header".into());
    };
    let mut replay = Replay::begin(place.path(), header)?;
    for (number, record) in records.iter().enumerate() {
        let step = replay.step(record);
        step.map_err(|why| format!("record {}: {why}", number + 1))?;
    }
    Ok(replay.replayed)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.exists() {
        return Ok(());
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => fs::copy(entry.path(), to).map(drop)?,
        }
    }
    Ok(())
}

/// Work that the member asked for and the trace has not seen the end of.
enum Job {
    Write(Write),
    File(FileOp),
    ReadLog(ReadJob),
    Fetch(FetchJob),
    Checkpoint(Box<CheckpointJob>),
    Upkeep(UpkeepJob),
    Prepare(Pin),
    ReadSnapshot(usize, Arc<Outgoing>),
    Stage(StageJob),
    Install(Box<InstallJob>),
}

struct Replay {
    member: Member,
    files: Arc<LogFiles>,
    page_dir: Arc<dyn PageDir>,
    jobs: Vec<(Done, Job)>,
    effects: Vec<Effect>,
    replayed: Replayed,
}

impl Replay {
    fn begin(place: &Path, header: &Header) -> Result<Replay, String> {
        let arguments = header.arguments.iter().map(Into::into);
        let environment = header.environment.iter();
        let environment = environment.map(|(name, value)| (name.into(), value.into()));
        let loaded = config::load(arguments, environment)
            .map_err(|exit| format!("the configuration is refused: {}", exit.stderr))?;
        let mut config = loaded.config;
        config.data_dir = place.join(DATA_DIR);
        config.wal_dir = config.wal_dir.map(|_| place.join(WAL_DIR));
        let origin = header.origin().map_err(|error| error.to_string())?;
        let opened = bootstrap::open(&config, &header.draws, || {
            origin.ok_or_else(|| "the files are empty, and those of the process were not".into())
        });
        let opened = opened.map_err(|error| format!("the member does not start: {error}"))?;
        Ok(Replay {
            member: opened.assembled.member,
            files: opened.files,
            page_dir: opened.page_dir,
            jobs: Vec::new(),
            effects: Vec::new(),
            replayed: Replayed::default(),
        })
    }

    fn step(&mut self, record: &Record) -> Result<(), String> {
        match record {
            Record::Header(_) => Err("a second header".into()),
            Record::Input { now_ns, bytes } => {
                let input = match Told::decode(bytes).map_err(|error| error.to_string())? {
                    Told::Input(input) => input,
                    Told::Done(done, outcome) => self.end_job(done, outcome, bytes)?,
                };
                self.replayed.inputs += 1;
                let kind = bytes.first().copied().unwrap_or_default();
                *self.replayed.inputs_by_kind.entry(kind).or_default() += 1;
                self.member.step(input, *now_ns);
                Ok(())
            }
            Record::Settled { now_ns, effects } => self.settle(*now_ns, effects),
        }
    }

    fn settle(&mut self, now_ns: u64, expected: &[EffectMark]) -> Result<(), String> {
        self.member.settle(now_ns);
        self.member.take_effects(&mut self.effects);
        let marks = recording::effects(&self.effects);
        if marks != expected {
            let same = marks.iter().zip(expected).take_while(|(a, b)| a == b);
            let at = same.count();
            let here = self.effects.get(at);
            let words = here.map(|effect| effect_in_words(effect, |id| format!("{id:x}")));
            return Err(format!(
                "effect {at} of {} at {now_ns} ns is {:?} ({words:?}), and was {:?} of {} in the process",
                marks.len(),
                marks.get(at),
                expected.get(at),
                expected.len()
            ));
        }
        self.replayed.turns += 1;
        self.replayed.effects += marks.len();
        for mark in &marks {
            *self.replayed.effects_by_kind.entry(mark.kind).or_default() += 1;
        }
        for effect in std::mem::take(&mut self.effects) {
            self.jobs.extend(job(effect));
        }
        Ok(())
    }

    /// Carries a job out whose end the trace tells, with what came of it.
    fn end_job(
        &mut self,
        done: Done,
        outcome: io::Result<()>,
        recorded: &[u8],
    ) -> Result<Input, String> {
        let name = match done {
            Done::CheckpointFull => Done::Checkpointed,
            done => done,
        };
        let at = self.jobs.iter().position(|(job, _)| *job == name);
        let at = at.ok_or_else(|| format!("{done:?}, and nobody asked for it"))?;
        let (_, job) = self.jobs.remove(at);
        let input = self.carry_out(job, done, outcome)?;
        match encode_input(&input) == recorded {
            true => Ok(input),
            false => Err(format!(
                "{done:?} came to something else than in the process"
            )),
        }
    }

    fn carry_out(&self, job: Job, done: Done, outcome: io::Result<()>) -> Result<Input, String> {
        let failed = |error: io::Error| format!("{done:?} fails here: {error}");
        Ok(match (job, done) {
            (Job::Write(write), _) => {
                if outcome.is_ok() {
                    self.files.write_inline(&write).map_err(failed)?;
                }
                Input::LogWritten {
                    tag: write.tag,
                    result: outcome,
                    buffer: write.buf,
                }
            }
            (Job::File(op), _) => {
                if outcome.is_ok() {
                    self.files.run(&op).map_err(failed)?;
                }
                Input::LogFile {
                    tag: op.tag,
                    result: outcome,
                }
            }
            (Job::ReadLog(job), Done::LogRead { from }) => Input::LogRead {
                from,
                result: job.run(&*self.files),
            },
            (Job::Fetch(job), _) => Input::Fetched { done: job.run() },
            (Job::Checkpoint(job), Done::CheckpointFull) => Input::CheckpointFull { job },
            (Job::Checkpoint(mut job), _) => Input::Checkpointed {
                result: match outcome {
                    Err(error) => Err(error),
                    Ok(()) => loop {
                        if let Progress::Finished(done) = job.step().map_err(failed)? {
                            break Ok(done);
                        }
                    },
                },
            },
            (Job::Upkeep(UpkeepJob::Grow(_)), _) if outcome.is_err() => {
                let failed = ringd::member::UpkeepDone::Grown(outcome.map(|()| 0));
                Input::Upkeep(failed)
            }
            (Job::Upkeep(job), _) => Input::Upkeep(job.run(&*self.files)),
            (Job::Prepare(pin), Done::Prepared { peer, id }) => Input::SnapshotPrepared {
                peer,
                id,
                result: pin.into_source().map(Box::new),
            },
            (Job::ReadSnapshot(bytes_max, source), Done::SnapshotRead { peer, id, offset }) => {
                let result = match outcome {
                    Ok(()) => source.read(offset, bytes_max),
                    Err(error) => Err(error),
                };
                Input::SnapshotRead {
                    peer,
                    id,
                    offset,
                    result,
                }
            }
            (Job::Stage(job), Done::Staged { transfer }) => Input::Staged {
                transfer,
                staged: Box::new(job.run(&*self.page_dir)),
            },
            (Job::Install(job), _) => Input::Installed {
                result: job.run(&*self.page_dir),
            },
            _ => return Err(format!("{done:?} is not the end of such a job")),
        })
    }
}

/// What an effect asks to be done with the disk, and the name by which its end will be told.
fn job(effect: Effect) -> Option<(Done, Job)> {
    Some(match effect {
        Effect::WriteLog(write) => (Done::LogWritten { tag: write.tag }, Job::Write(write)),
        Effect::LogFile(op) => (Done::LogFile { tag: op.tag }, Job::File(op)),
        Effect::ReadLog { from, job } => (Done::LogRead { from }, Job::ReadLog(job)),
        Effect::Fetch(job) => (Done::Fetched { id: job.id() }, Job::Fetch(job)),
        Effect::Checkpoint(job) => (Done::Checkpointed, Job::Checkpoint(Box::new(job))),
        Effect::Upkeep(job) => {
            let done = match &job {
                UpkeepJob::Grow(_) => Done::Grown,
                UpkeepJob::ScrubPages(_) => Done::PagesScrubbed,
                UpkeepJob::ScrubLog(_) => Done::LogScrubbed,
                UpkeepJob::Promises(_) => Done::PromisesWritten,
                UpkeepJob::Reapply(_) => Done::Reapplied,
            };
            (done, Job::Upkeep(job))
        }
        Effect::PrepareSnapshot { peer, id, pin } => {
            (Done::Prepared { peer, id }, Job::Prepare(pin))
        }
        Effect::ReadSnapshot {
            peer,
            id,
            offset,
            bytes_max,
            source,
        } => {
            let done = Done::SnapshotRead { peer, id, offset };
            (done, Job::ReadSnapshot(bytes_max, source))
        }
        Effect::Stage { transfer, job } => (Done::Staged { transfer }, Job::Stage(job)),
        Effect::Install(job) => (Done::Installed, Job::Install(job)),
        _ => return None,
    })
}
