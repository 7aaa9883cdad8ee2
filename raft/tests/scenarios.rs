//! Scenarios as transcripts: each file under `scenarios/` is a script of commands, and below each command what then
//! happened. Lines that begin with `>` are commands, those with `#` are remarks; the rest is output and is compared.
//!
//! `RAFT_REWRITE=1 cargo test -p ringd-raft --test scenarios` writes the output anew. Read the difference before you
//! keep it. The commands are described in `transcript/world.rs`.

mod transcript;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn scenario_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of scenarios")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    files
}

/// Runs the script and returns it with the output as it is now.
fn replay(script: &str) -> String {
    let mut world = transcript::World::default();
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            out.push_str(line);
            out.push('\n');
            for effect in world.run(command) {
                out.push_str("  ");
                out.push_str(&effect);
                out.push('\n');
            }
        } else if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[test]
fn transcripts_are_as_recorded() {
    let rewrite = std::env::var_os("RAFT_REWRITE").is_some();
    let files = scenario_files();
    assert!(!files.is_empty(), "no scenario was found");
    for file in files {
        let recorded = fs::read_to_string(&file).expect("readable");
        let now = replay(&recorded);
        if rewrite {
            fs::write(&file, &now).expect("writable");
            continue;
        }
        for (number, (was, is)) in recorded.lines().zip(now.lines()).enumerate() {
            assert_eq!(was, is, "{}:{}", file.display(), number + 1);
        }
        assert_eq!(
            recorded.lines().count(),
            now.lines().count(),
            "{}",
            file.display()
        );
    }
}

/// The rows that the transcripts must show: a letter and how many there are of it. Elections and votes (T), PreVote, CheckQuorum
/// and failover (V), the log (L, H, G), flow control (F), snapshots (S), learners (N), membership changes (C) and their
/// algebra (A), transfer (X), reads (R), asynchronous storage (D).
const ROWS: [(char, u32); 13] = [
    ('T', 27),
    ('V', 33),
    ('L', 22),
    ('H', 8),
    ('G', 14),
    ('F', 20),
    ('S', 16),
    ('N', 9),
    ('C', 22),
    ('A', 11),
    ('X', 10),
    ('R', 10),
    ('D', 10),
];

/// The names in a remark that look like rows.
fn rows_named(remark: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !c.is_ascii_alphanumeric();
    remark.split(word).filter(|word| {
        let mut letters = word.chars();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_uppercase())
            && !letters.as_str().is_empty()
            && letters.all(|c| c.is_ascii_digit())
    })
}

/// A row counts as shown where a remark names it and a command follows.
#[test]
fn every_row_is_shown() {
    let mut shown = BTreeSet::new();
    for file in scenario_files() {
        let script = fs::read_to_string(&file).expect("readable");
        let mut named = Vec::new();
        for line in script.lines() {
            if line.starts_with('#') {
                named.extend(rows_named(line).map(str::to_string));
            } else if line.starts_with('>') {
                shown.extend(named.drain(..));
            }
        }
    }
    let rows = ROWS
        .iter()
        .flat_map(|(letter, count)| (1..=*count).map(move |number| format!("{letter}{number}")));
    let missing: Vec<String> = rows.filter(|row| !shown.contains(row)).collect();
    assert!(missing.is_empty(), "no transcript shows {missing:?}");
}
