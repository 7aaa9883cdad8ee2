//! The bodies of the fuzz targets of requests on inputs of our own making; corpora are replayed too.

mod tree_world;

use engine::store::fuzzing;
use prost::Message;
use proto::etcdserverpb::{self as pb, request_op::Request, InternalRaftRequest};
use tree_world::Random;

fn corpus(name: &str, target: fn(&[u8])) {
    let corpus = format!("{}/../fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).expect("the stored corpus") {
        let path = entry.expect("a corpus file").path();
        println!("{name} {}", path.display());
        target(&std::fs::read(path).expect("a corpus file"));
        inputs += 1;
    }
    assert!(inputs > 0, "{name}: nothing is stored");
}

fn key(rng: &mut Random) -> Vec<u8> {
    vec![b'a' + rng.below(6) as u8; rng.below(4) as usize]
}

fn put(rng: &mut Random) -> pb::PutRequest {
    let len = [3, 40, 1_500][rng.below(3) as usize];
    pb::PutRequest {
        key: key(rng).into(),
        value: vec![rng.next() as u8; len].into(),
        lease: [0, 0, 7][rng.below(3) as usize],
        prev_kv: rng.below(2) == 0,
        ..Default::default()
    }
}

fn txn(rng: &mut Random, depth: usize) -> pb::TxnRequest {
    let op = |rng: &mut Random| match rng.below(4) {
        0 if depth > 0 => Request::RequestTxn(txn(rng, depth - 1)),
        1 => Request::RequestRange(pb::RangeRequest {
            key: key(rng).into(),
            range_end: key(rng).into(),
            ..Default::default()
        }),
        2 => Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key(rng).into(),
            range_end: key(rng).into(),
            prev_kv: true,
        }),
        _ => Request::RequestPut(put(rng)),
    };
    let ops = |rng: &mut Random| -> Vec<pb::RequestOp> {
        let count = rng.below(3);
        let mut ops = Vec::new();
        for _ in 0..count {
            ops.push(pb::RequestOp {
                request: Some(op(rng)),
            });
        }
        ops
    };
    pb::TxnRequest {
        compare: Vec::new(),
        success: ops(rng),
        failure: ops(rng),
    }
}

fn entry(rng: &mut Random) -> InternalRaftRequest {
    let mut entry = InternalRaftRequest::default();
    match rng.below(8) {
        0 => entry.txn = Some(txn(rng, 3)),
        1 => {
            entry.delete_range = Some(pb::DeleteRangeRequest {
                key: key(rng).into(),
                range_end: key(rng).into(),
                prev_kv: rng.below(2) == 0,
            })
        }
        2 => entry.lease_grant = Some(pb::LeaseGrantRequest { ttl: 60, id: 7 }),
        3 => entry.lease_revoke = Some(pb::LeaseRevokeRequest { id: 7 }),
        4 => {
            entry.compaction = Some(pb::CompactionRequest {
                revision: rng.below(20) as i64,
                physical: false,
            })
        }
        _ => entry.put = Some(put(rng)),
    }
    entry
}

/// Sound inputs, and the same with a few bytes changed.
fn inputs(seed: u64) -> [Vec<u8>; 2] {
    let mut rng = Random(seed);
    let mut sound = Vec::new();
    for _ in 0..=rng.below(28) {
        let bytes = entry(&mut rng).encode_to_vec();
        let restarts = u16::from(rng.below(4) == 0) << 15;
        sound.extend((bytes.len() as u16 | restarts).to_le_bytes());
        sound.extend(bytes);
    }
    let mut changed = sound.clone();
    for _ in 0..=rng.below(3) {
        let at = rng.below(changed.len() as u64) as usize;
        changed[at] = rng.next() as u8;
    }
    [sound, changed]
}

#[test]
fn store_apply() {
    corpus("store_apply", fuzzing::store_apply);
    for seed in 0..300 {
        println!("seed {seed}");
        for input in inputs(seed) {
            fuzzing::store_apply(&input);
        }
    }
}

#[test]
fn grpc_proto() {
    corpus("grpc_proto", fuzzing::grpc_proto);
    for seed in 0..2_000 {
        println!("seed {seed}");
        let mut rng = Random(seed);
        let mut input = vec![rng.below(50) as u8];
        match rng.below(4) {
            0 => input.extend(txn(&mut rng, 5).encode_to_vec()),
            1 => input.extend(entry(&mut rng).encode_to_vec()),
            2 => input.extend(put(&mut rng).encode_to_vec()),
            _ => input.extend((0..rng.below(60)).map(|_| rng.next() as u8)),
        }
        fuzzing::grpc_proto(&input);
        let at = rng.below(input.len() as u64) as usize;
        input[at] = rng.next() as u8;
        fuzzing::grpc_proto(&input);
    }
}

/// Writes inputs for the fuzzer to begin with.
#[test]
#[ignore = "writes fuzz/corpus; run it when the inputs change"]
fn seed_the_corpora() {
    let root = format!("{}/../fuzz/corpus", env!("CARGO_MANIFEST_DIR"));
    for seed in 0..8 {
        let mut rng = Random(seed);
        let mut request = vec![if seed % 2 == 0 { 3 } else { 6 }];
        match seed % 2 {
            0 => request.extend(txn(&mut rng, 4).encode_to_vec()),
            _ => request.extend(entry(&mut rng).encode_to_vec()),
        }
        for (name, input) in [
            ("store_apply", inputs(seed)[0].clone()),
            ("grpc_proto", request),
        ] {
            let dir = format!("{root}/{name}");
            std::fs::create_dir_all(&dir).expect("a directory");
            std::fs::write(format!("{dir}/seed{seed}"), input).expect("a file");
        }
    }
}
