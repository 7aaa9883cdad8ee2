//! The fuzz targets' bodies on inputs of our own making, without a fuzzer; corpora of found inputs are replayed too.

mod tree_world;

use engine::tree::fuzzing;
use tree_world::Random;

/// Random bytes, with stretches of zeros so that short and regular inputs come up as well.
fn input(random: &mut Random) -> Vec<u8> {
    let len = random.below(1200) as usize;
    let calm = random.below(4) == 0;
    (0..len)
        .map(|_| match calm && random.below(3) > 0 {
            true => 0,
            false => random.next() as u8,
        })
        .collect()
}

fn replay(name: &str, rounds: u64, target: fn(&[u8])) {
    let corpus = format!("{}/../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).expect("the stored corpus") {
        let path = entry.expect("a corpus file").path();
        println!("{name} {}", path.display());
        target(&std::fs::read(path).expect("a corpus file"));
        inputs += 1;
    }
    assert!(inputs > 10, "{name}: {inputs} stored inputs");
    let scale = std::env::var("FUZZ_SCALE").map_or(1, |s| s.parse().expect("a number"));
    for seed in 0..rounds * scale {
        println!("{name} seed {seed}");
        target(&input(&mut Random(seed)));
    }
}

#[test]
fn page_decode() {
    replay("page_decode", 2000, fuzzing::page_decode);
}

#[test]
fn tree_open() {
    replay("tree_open", 300, fuzzing::tree_open);
}

#[test]
fn tree_ops() {
    replay("tree_ops", 300, fuzzing::tree_ops);
}
