//! Scenarios as transcripts: each file under `scenarios/` is a script of commands, and below each command what then
//! happened. Lines that begin with `>` are commands, those with `#` are remarks; the rest is output and is compared.
//!
//! `RAFT_REWRITE=1 cargo test -p ringd-raft --test scenarios` writes the output anew. Read the difference before you
//! keep it. The commands are described in `transcript/world.rs`.

mod transcript;

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
