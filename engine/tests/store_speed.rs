//! What the hot paths cost. Not a check: run it by hand, with optimisation, and read the numbers.
//!
//! `cargo test --release -p ringd-engine --test store_speed -- --ignored --nocapture`

use bytes::Bytes;
use engine::page::Pages;
use engine::store::{decode_internal_request, Options, Payload, Store};
use prost::Message;
use proto::etcdserverpb::*;

fn store() -> Store {
    Store::create(Pages::in_memory(), Options::default())
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!(
        "/registry/pods/default/{:016x}",
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    ))
}

fn put(n: u64) -> InternalRaftRequest {
    InternalRaftRequest {
        header: Some(RequestHeader {
            id: n,
            ..RequestHeader::default()
        }),
        put: Some(PutRequest {
            key: key(n),
            value: Bytes::from_static(&[7; 100]),
            ..PutRequest::default()
        }),
        ..InternalRaftRequest::default()
    }
}

/// Processor time of this thread: other work on the machine does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

fn measure<T>(name: &str, inputs: Vec<T>, mut run: impl FnMut(&T)) {
    let start = cpu_ns();
    for input in &inputs {
        run(input);
    }
    let each = (cpu_ns() - start) as f64 / inputs.len() as f64;
    println!("{name}: {each:.0} ns");
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    const KEYS: u64 = 200_000;
    let start = cpu_ns();
    let mut x = 1u64;
    for _ in 0..100_000_000u64 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    println!(
        "100M dependent multiply-adds: {} ms ({x})",
        (cpu_ns() - start) / 1_000_000
    );
    {
        let mut pages = Pages::in_memory();
        let mut tree = engine::tree::Tree::new();
        let keys: Vec<_> = (0..KEYS).map(key).collect();
        measure("tree insert", keys.clone(), |key| {
            tree.insert(&mut pages, key, &[1; 12], 1).unwrap();
        });
        measure("tree replace", keys.clone(), |key| {
            tree.insert(&mut pages, key, &[2; 12], 1).unwrap();
        });
        measure("tree get", keys, |key| {
            tree.get(&pages, key).unwrap().unwrap();
        });
        let keys: Vec<_> = (0..KEYS).map(|n| n.to_be_bytes()).collect();
        let mut tree = engine::tree::Tree::new();
        measure("tree append", keys.clone(), |key| {
            tree.insert(&mut pages, key, &[1; 150], 1).unwrap();
        });
        measure("tree get in order", keys, |key| {
            tree.get(&pages, key).unwrap().unwrap();
        });
    }
    let mut store = store();
    println!(
        "request: {} bytes",
        std::mem::size_of::<InternalRaftRequest>()
    );
    let mut index = 0;
    let mut apply = |store: &mut Store, request: &InternalRaftRequest| {
        index += 1;
        store.apply(index, 1, Some(request), 0).unwrap();
    };
    let puts = |from: u64, n: u64| (from..from + n).map(put).collect::<Vec<_>>();
    measure("put, new keys", puts(0, KEYS), |request| {
        apply(&mut store, request)
    });
    measure("put, known keys", puts(0, KEYS), |request| {
        apply(&mut store, request)
    });
    let hot: Vec<_> = (0..KEYS).map(|n| put(n % 64)).collect();
    measure("put, 64 keys", hot, |request| apply(&mut store, request));
    let encoded: Vec<_> = puts(0, KEYS)
        .iter()
        .map(|p| Bytes::from(p.encode_to_vec()))
        .collect();
    measure("decode a put entry", encoded, |bytes| {
        assert!(matches!(
            decode_internal_request(bytes.clone()),
            Ok(Payload::Request(_))
        ));
    });
    let gets: Vec<_> = (0..KEYS)
        .map(|n| RangeRequest {
            key: key(n * 7 % KEYS),
            ..RangeRequest::default()
        })
        .collect();
    let header = ResponseHeader::default();
    let mut out = Vec::new();
    measure("get", gets, |request| {
        out.clear();
        store
            .range_encoded(request, &header, &mut out)
            .unwrap()
            .unwrap();
        assert!(out.len() > 100);
    });
    let all = RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..RangeRequest::default()
    };
    let start = cpu_ns();
    out.clear();
    store
        .range_encoded(&all, &header, &mut out)
        .unwrap()
        .unwrap();
    let each = (cpu_ns() - start) as f64 / KEYS as f64;
    println!(
        "range over everything: {each:.0} ns per key, {} bytes",
        out.len()
    );
    let compaction = InternalRaftRequest {
        compaction: Some(CompactionRequest {
            revision: store.revision(),
            physical: false,
        }),
        ..InternalRaftRequest::default()
    };
    apply(&mut store, &compaction);
    let start = cpu_ns();
    while store.compaction_pending() {
        store.compaction_step(1000).unwrap();
    }
    let each = (cpu_ns() - start) as f64 / (3 * KEYS) as f64;
    println!("compaction: {each:.0} ns per row looked at");
}
