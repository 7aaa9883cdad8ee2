//! Inputs that the fuzz targets found interesting, through the targets' functions: what was once found stays found.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&corpus)
        .expect("the corpus")
        .map(|e| e.expect("an entry").path())
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).expect("an input"));
    }
}

#[test]
fn wal_open() {
    replay("wal_open", engine::wal::wal_open);
}

#[test]
fn wal_mutate() {
    replay("wal_mutate", engine::wal::wal_mutate);
}
