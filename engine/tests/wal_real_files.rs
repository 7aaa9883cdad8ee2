//! The log on real files: what was acknowledged is there after a reopen.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::wal::driver::LogFiles;
use engine::wal::{
    probe, probe_once, recover, Completion, Config, Expect, Identity, Recovered, Report, Ticket,
    Wal, WriterThreads,
};
use proto::raftpb::{Entry, HardState};

const ME: Identity = Identity {
    cluster_id: 0xc1,
    member_id: 0x3e,
};
/// Input/output error.
const EIO: i32 = 5;

fn entry(index: u64, term: u64, data: &[u8]) -> Entry {
    Entry {
        r#type: Some(0),
        term: Some(term),
        index: Some(index),
        data: Some(Bytes::copy_from_slice(data)),
    }
}

fn config(dir: &Path, incarnation: u64) -> Config {
    let mut config = Config::new(dir, incarnation);
    config.segment_bytes = 128 << 10;
    config.batch_bytes_max = 32 << 10;
    config
}

fn reopen(files: &LogFiles) -> Recovered {
    recover(
        files,
        Expect {
            identity: Some(ME),
            ..Expect::default()
        },
    )
    .expect("the log opens")
}

/// Carries out everything that the log wants done, in this thread.
fn drain(wal: &mut Wal, files: &LogFiles) {
    loop {
        let mut idle = true;
        while let Some(op) = wal.next_file_op() {
            wal.file_op_done(op.tag, files.run(&op), 0)
                .expect("file operation");
            idle = false;
        }
        while let Some(write) = wal.next_write(0) {
            let result = files.write_inline(&write);
            wal.write_done(write.tag, result).expect("write");
            wal.reuse(write.buf);
            idle = false;
        }
        if idle {
            return;
        }
    }
}

#[test]
fn entries_written_inline_are_there_after_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut index = 0;
    for incarnation in 1..=5 {
        let files = LogFiles::open(dir.path()).unwrap();
        let recovered = reopen(&files);
        assert_eq!(recovered.report, Report::CleanEnd);
        assert_eq!(recovered.last_index, index);
        assert_eq!(recovered.entries.len() as u64, index);
        for (i, read) in (1..).zip(&recovered.entries) {
            assert_eq!(*read, entry(i, 1, format!("value {i}").as_bytes()));
        }
        assert_eq!(recovered.hard_state.commit, Some(index));
        let mut wal = Wal::new(config(dir.path(), incarnation), ME, recovered.tail).unwrap();
        for _ in 0..40 {
            index += 1;
            let hard = HardState {
                term: Some(1),
                vote: Some(2),
                commit: Some(index),
            };
            let ticket = wal
                .append(
                    &[entry(index, 1, format!("value {index}").as_bytes())],
                    Some(&hard),
                )
                .unwrap();
            assert!(wal.durable() < ticket);
            drain(&mut wal, &files);
            assert_eq!(wal.durable(), ticket);
            assert_eq!(wal.durable_index(), index);
        }
    }
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for completions the way an executor would.
fn wait(threads: &WriterThreads, out: &mut Vec<Completion>) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while out.is_empty() {
        if threads.poll_completions(&mut context, out) == Poll::Pending {
            thread::park();
        }
    }
}

#[test]
fn writer_threads_keep_up_to_four_writes_in_flight_and_lose_nothing() {
    for writers in 1..=4 {
        let dir = tempfile::tempdir().unwrap();
        let files = Arc::new(LogFiles::open(dir.path()).unwrap());
        let mut config = config(dir.path(), 7);
        config.in_flight_max = writers;
        let mut wal = Wal::new(config, ME, reopen(&files).tail).unwrap();
        let threads = WriterThreads::start(Arc::clone(&files), writers).unwrap();
        let mut done = Vec::new();
        let mut in_flight_most = 0;
        let mut last = Ticket(0);
        let mut index = 0;
        while wal.durable() < last || index < 300 {
            if index < 300 {
                index += 1;
                last = wal
                    .append(&[entry(index, 1, &vec![index as u8; 900])], None)
                    .unwrap();
            }
            while let Some(op) = wal.next_file_op() {
                wal.file_op_done(op.tag, files.run(&op), 0).unwrap();
            }
            while let Some(write) = wal.next_write(0) {
                threads.submit(write);
            }
            in_flight_most = in_flight_most.max(wal.in_flight());
            if wal.in_flight() == writers || index == 300 {
                wait(&threads, &mut done);
            }
            for completion in done.drain(..) {
                wal.write_done(completion.tag, completion.result).unwrap();
                wal.reuse(completion.buf);
            }
        }
        assert_eq!(in_flight_most, writers);
        drop(threads);
        let recovered = reopen(&LogFiles::open(dir.path()).unwrap());
        assert_eq!(recovered.entries.len(), 300);
        assert!(recovered
            .entries
            .iter()
            .zip(1..)
            .all(|(e, i)| *e == entry(i, 1, &vec![i as u8; 900])));
    }
}

#[test]
fn an_idle_executor_is_woken_by_the_beat() {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(LogFiles::open(dir.path()).unwrap());
    let threads = WriterThreads::start(files, 1).unwrap();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let began = Instant::now();
    let pending = threads.poll_completions(&mut Context::from_waker(&waker), &mut Vec::new());
    assert_eq!(pending, Poll::Pending);
    thread::park_timeout(Duration::from_secs(10));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn old_entries_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let files = LogFiles::open(dir.path()).unwrap();
    let mut wal = Wal::new(config(dir.path(), 3), ME, reopen(&files).tail).unwrap();
    for index in 1..=200 {
        wal.append(&[entry(index, 1, &vec![index as u8; 3000])], None)
            .unwrap();
        drain(&mut wal, &files);
    }
    let read = |wal: &Wal, from, to, bytes| {
        wal.read_job(from, to, bytes)
            .map(|job| job.run(&files).unwrap())
    };
    let all = read(&wal, 1, 1000, u64::MAX).unwrap();
    assert_eq!(all.len(), 200);
    assert!(all
        .iter()
        .zip(1..)
        .all(|(e, i)| *e == entry(i, 1, &vec![i as u8; 3000])));
    let some = read(&wal, 57, 93, u64::MAX).unwrap();
    assert_eq!(some, all[56..93]);
    assert_eq!(read(&wal, 57, 93, 1).unwrap().len(), 1);
    assert_eq!(read(&wal, 57, 93, 7000).unwrap().len(), 2);
    assert_eq!(read(&wal, 201, 300, 1), None);
    // Recycling takes the oldest away.
    let needed = wal.first_needed(150);
    let job = wal.read_job(1, 10, u64::MAX).unwrap();
    wal.release(needed);
    assert!(wal.first_index() > 1 && wal.first_index() <= 151);
    assert_eq!(read(&wal, 1, 10, u64::MAX), None);
    for index in 201..=400 {
        wal.append(&[entry(index, 1, &vec![index as u8; 3000])], None)
            .unwrap();
        drain(&mut wal, &files);
    }
    assert!(job.run(&files).is_err());
    let first = wal.first_index();
    let rest = read(&wal, first, 400, u64::MAX).unwrap();
    assert!(rest
        .iter()
        .zip(first..)
        .all(|(e, i)| *e == entry(i, 1, &vec![i as u8; 3000])));
    assert_eq!(rest.len() as u64, 400 - first + 1);
}

#[test]
fn a_failed_write_is_final_and_names_the_place() {
    let dir = tempfile::tempdir().unwrap();
    let files = LogFiles::open(dir.path()).unwrap();
    let mut wal = Wal::new(config(dir.path(), 3), ME, reopen(&files).tail).unwrap();
    wal.append(&[entry(1, 1, b"a")], None).unwrap();
    drain(&mut wal, &files);
    let durable = wal.durable();
    wal.append(&[entry(2, 1, b"b")], None).unwrap();
    let write = wal.next_write(0).unwrap();
    let failed = wal
        .write_done(write.tag, Err(io::Error::from_raw_os_error(EIO)))
        .unwrap_err();
    assert_eq!(failed.errno, Some(EIO));
    assert_eq!(failed.offset, 8192);
    assert!(failed.file.ends_with("0000000000000001.wal"), "{failed}");
    assert!(wal.append(&[entry(3, 1, b"c")], None).is_err());
    assert!(wal.next_write(0).is_none() && wal.next_file_op().is_none());
    assert_eq!(wal.durable(), durable);
}

#[test]
fn probing_takes_a_moment_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let files = LogFiles::open(dir.path()).unwrap();
    let measured = probe(&files).unwrap();
    assert!(
        measured.inline_p50_ns > 0 && measured.inline_p999_ns >= measured.inline_p50_ns,
        "{measured:?}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    println!("{measured:?}");
}

#[test]
fn what_was_measured_once_is_read_back_and_anything_else_measured_again() {
    let dir = tempfile::tempdir().unwrap();
    let files = LogFiles::open(dir.path()).unwrap();
    let record = dir.path().join("measured");
    let measured = probe_once(&files, |_| true).unwrap();
    let line = std::fs::read_to_string(&record).unwrap();
    assert_eq!(probe_once(&files, |_| true).unwrap(), measured);
    assert_eq!(std::fs::read_to_string(&record).unwrap(), line);
    // What its reader does not like is not kept.
    let again = probe_once(&files, |known| *known != measured).unwrap();
    assert_ne!(again, measured);
    let of_another_device = line.replace("device ", "device 9");
    for text in [
        "",
        "ringd-wal-probe 2",
        &line[..line.len() - 2],
        &of_another_device,
    ] {
        std::fs::write(&record, text).unwrap();
        probe_once(&files, |_| true).unwrap();
        assert_ne!(std::fs::read_to_string(&record).unwrap(), *text);
    }
}

#[test]
fn a_tool_that_only_looks_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    {
        let files = LogFiles::open(dir.path()).unwrap();
        let mut wal = Wal::new(config(dir.path(), 3), ME, reopen(&files).tail).unwrap();
        wal.append(&[entry(1, 1, b"a")], None).unwrap();
        drain(&mut wal, &files);
    }
    std::fs::write(dir.path().join("0000000000000009.tmp"), b"left over").unwrap();
    let listing = || {
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let before = listing();
    let files = LogFiles::open_read_only(dir.path()).unwrap();
    let recovered = reopen(&files);
    assert_eq!(recovered.entries, [entry(1, 1, b"a")]);
    assert_eq!(listing(), before);
    // Nor can it write.
    let mut wal = Wal::new(config(dir.path(), 4), ME, recovered.tail).unwrap();
    wal.append(&[entry(2, 1, b"b")], None).unwrap();
    assert!(files.write_inline(&wal.next_write(0).unwrap()).is_err());
    LogFiles::open(dir.path()).unwrap();
    assert_eq!(listing().len(), before.len() - 1);
}

const CHILD_DIRECTORY: &str = "RINGD_TEST_WAL_DIRECTORY";

/// Not a test by itself: the process that the next one kills. Writes for ever and prints what is durable.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let dir = Path::new(&dir);
    let files = Arc::new(LogFiles::open(dir).unwrap());
    let recovered = reopen(&files);
    let mut index = recovered.last_index;
    let mut config = config(dir, recovered.batches + 1);
    config.in_flight_max = 4;
    let mut wal = Wal::new(config, ME, recovered.tail).unwrap();
    let threads = WriterThreads::start(Arc::clone(&files), 4).unwrap();
    let mut done = Vec::new();
    loop {
        index += 1;
        let bytes = (index * 37 % 5000) as usize;
        wal.append(&[entry(index, 1, &vec![index as u8; bytes])], None)
            .unwrap();
        while let Some(op) = wal.next_file_op() {
            wal.file_op_done(op.tag, files.run(&op), 0).unwrap();
        }
        while let Some(write) = wal.next_write(0) {
            threads.submit(write);
        }
        if wal.in_flight() == 4 {
            wait(&threads, &mut done);
        }
        for completion in done.drain(..) {
            wal.write_done(completion.tag, completion.result).unwrap();
            wal.reuse(completion.buf);
        }
        println!("durable {}", wal.durable_index());
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for kill in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let before = acknowledged;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left: i64 = 60 + kill * 17;
        for line in lines {
            // A number cut off by the kill is a smaller one.
            let Ok(line) = line else { break };
            let Some(durable) = line
                .strip_prefix("durable ")
                .and_then(|n| n.parse::<u64>().ok())
            else {
                continue;
            };
            acknowledged = acknowledged.max(durable);
            left -= 1;
            if left == 0 {
                let _ = child.kill();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged > before, "the process wrote nothing");
        let recovered = reopen(&LogFiles::open(dir.path()).unwrap());
        assert!(
            recovered.last_index >= acknowledged,
            "kill {kill}: {} of {acknowledged}",
            recovered.last_index
        );
        for (read, index) in recovered.entries.iter().zip(1..) {
            assert_eq!(
                *read,
                entry(index, 1, &vec![index as u8; (index * 37 % 5000) as usize])
            );
        }
        assert_eq!(recovered.entries.len() as u64, recovered.last_index);
    }
}
