//! Requests that are allowed one by one, in numbers or at a pace that is not meant well.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use prost::Message as _;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_request::RequestUnion;
use ringd_tests::server::{eventually, is_ringd, Server, PATIENCE, POLL};

use crate::raw::{self, call, frame, head, message, DATA, END_HEADERS, HEADERS, WINDOW_UPDATE};
use crate::{ask, assert_serves, descriptors, put, range, resident_bytes, PUT, RANGE, WATCH};

const MIB: usize = 1 << 20;
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;
const WINDOW_BYTES_INITIAL: u32 = 65_535;

/// A connection whose client claims to take whatever comes.
fn open_wide(server: &Server) -> TcpStream {
    let mut stream = raw::open(server);
    let window = [&[0, 4], &WINDOW_BYTES_MAX.to_be_bytes()[..]].concat();
    let increment = WINDOW_BYTES_MAX - WINDOW_BYTES_INITIAL;
    let wide = [
        frame(4, 0, 0, &window),
        frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes()),
    ];
    stream.write_all(&wide.concat()).expect("windows");
    stream
}

fn watch_all() -> Vec<u8> {
    let create = pb::WatchCreateRequest {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    request.encode_to_vec()
}

/// B12. Clients that ask for 400 MB, a few at a time, and read none of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_do_not_pile_up() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    let big = put("big", vec![b'x'; MIB]);
    let stored: Result<pb::PutResponse, _> = ask(&client, PUT, &big).await;
    stored.expect("a put");
    assert_serves(&server, &client).await;
    let open = descriptors(&server);
    let before = resident_bytes(&server);
    let body = range("big").encode_to_vec();
    let mut held = Vec::new();
    for window in [open_wide(&server), raw::open(&server)] {
        let mut stream = window;
        for n in 0..200 {
            let request = call(1 + 2 * n, RANGE, &body);
            stream.write_all(&request).expect("a request");
            if n % 4 == 0 {
                assert_serves(&server, &client).await;
            }
        }
        held.push(stream);
    }
    for _ in 0..20 {
        tokio::time::sleep(POLL).await;
        assert_serves(&server, &client).await;
    }
    let grown = resident_bytes(&server).saturating_sub(before);
    println!("{grown} bytes for answers that nobody reads");
    assert!(grown < 240 * MIB, "{grown} bytes");
    drop(held);
    eventually("they are gone", || descriptors(&server) <= open + 1).await;
    assert_serves(&server, &client).await;
}

/// B15. Streams by the thousand that say nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_silent_streams() {
    if !is_ringd() {
        return;
    }
    const STREAMS: u32 = 20_000;
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = resident_bytes(&server);
    let mut stream = raw::open(&server);
    for n in 0..STREAMS {
        let begin = frame(HEADERS, END_HEADERS, 1 + 2 * n, &head(WATCH));
        stream.write_all(&begin).expect("a stream");
    }
    assert_serves(&server, &client).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    println!("{grown} bytes for {STREAMS} streams");
    assert!(grown < STREAMS as usize * 2048, "{grown} bytes");
}

/// B16. Watches by the thousand on one stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watches_on_one_stream() {
    if !is_ringd() {
        return;
    }
    const WATCHES: usize = 20_000;
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let open = descriptors(&server);
    let before = resident_bytes(&server);
    let mut stream = open_wide(&server);
    let begin = frame(HEADERS, END_HEADERS, 1, &head(WATCH));
    stream.write_all(&begin).expect("a stream");
    let create = message(&watch_all());
    let mut reading = stream.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; MIB];
        let mut total = 0;
        // An answer to a create request has more bytes than this.
        while total < WATCHES * 20 {
            total += reading.read(&mut bytes).expect("answers");
        }
    });
    for _ in 0..WATCHES / 100 {
        let part = frame(DATA, 0, 1, &create.repeat(100));
        stream.write_all(&part).expect("watches");
    }
    reader.join().expect("all watches are answered");
    assert_serves(&server, &client).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    println!("{grown} bytes for {WATCHES} watches");
    assert!(grown < WATCHES * 2048, "{grown} bytes");
    drop(stream);
    eventually("the client is gone", || descriptors(&server) <= open + 1).await;
    assert_serves(&server, &client).await;
}

/// B17. Leases by the thousand that end all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_leases_end_at_once() {
    if !is_ringd() {
        return;
    }
    const LEASES: u32 = 5_000;
    let server = Server::fresh().await;
    let client = server.connect().await;
    let mut stream = open_wide(&server);
    let body = pb::LeaseGrantRequest { ttl: 1, id: 0 }.encode_to_vec();
    for n in 0..LEASES {
        let grant = call(1 + 2 * n, "/etcdserverpb.Lease/LeaseGrant", &body);
        stream.write_all(&grant).expect("a grant");
    }
    let mut seen = false;
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        assert_serves(&server, &client).await;
        let path = "/etcdserverpb.Lease/LeaseLeases";
        let answer: Result<pb::LeaseLeasesResponse, _> =
            ask(&client, path, &pb::LeaseLeasesRequest {}).await;
        let count = answer.expect("the leases").leases.len();
        seen |= count > 0;
        if seen && count == 0 {
            break;
        }
        assert!(std::time::Instant::now() < end, "{count} leases are left");
        tokio::time::sleep(POLL).await;
    }
}

/// B18. Watchers that do not read: each costs a bounded queue, not the history, and others see everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read() {
    if !is_ringd() {
        return;
    }
    const SLOW: usize = 64;
    const WRITES: usize = 64;
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = resident_bytes(&server);
    let mut reading = open_wide(&server);
    let watch = call(1, WATCH, &watch_all());
    reading.write_all(&watch).expect("a watch");
    raw::wait_for(&mut reading, DATA); // it is created
    let slow: Vec<TcpStream> = (0..SLOW)
        .map(|_| {
            let mut stream = open_wide(&server);
            stream.write_all(&watch).expect("a watch");
            stream
        })
        .collect();
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; MIB];
        let mut total = 0;
        while total < WRITES * MIB {
            let count = reading.read(&mut bytes).expect("events");
            assert!(count > 0, "the watch has ended");
            total += count;
        }
    });
    for n in 0..WRITES {
        let big = put(&format!("k{}", n % 4), vec![b'x'; MIB]);
        let answer: Result<pb::PutResponse, _> = ask(&client, PUT, &big).await;
        answer.expect("a put");
    }
    reader.join().expect("one watcher reads and sees it all");
    assert_serves(&server, &client).await;
    let grown = resident_bytes(&server).saturating_sub(before);
    println!("{grown} bytes for {SLOW} watchers behind by {WRITES} MiB");
    // Kept for each, it would be four gigabytes.
    assert!(grown < 1024 * MIB, "{grown} bytes");
    drop(slow);
    assert_serves(&server, &client).await;
}
