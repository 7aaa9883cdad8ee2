//! Connections: too many of them, silent ones, ended ones, and those that are gone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use proto::etcdserverpb as pb;
use ringd_tests::server::{eventually, is_ringd, Server, Setup};

use crate::raw::{self, call, connect, connect_to, flood, frame, preface, read_to_end, settings};
use crate::{ask, assert_serves, descriptors, put, range, resident_bytes, PUT, RANGE};

/// Beyond what sockets and the network's buffers hold on to: who has sent this was listened to.
const FLOOD_BYTES_MAX: usize = 256 << 20;

/// Asks the peer port for the member's version, over HTTP/1.
fn peer_version(port: u16) -> String {
    let mut stream = connect_to(port);
    let request = b"GET /version HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("a request");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// B14. 400 connections to either port of a server that may have 256 descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_are_left_for_the_log_and_for_members() {
    if !is_ringd() {
        return;
    }
    const LIMIT: usize = 256;
    const CONNECTIONS: usize = 400;
    let script = format!("ulimit -n {LIMIT} && exec \"$@\"");
    let mut server = Server::start(Setup::default().shell(&script)).await;
    let before = descriptors(&server);
    let client = server.connect().await;
    let (client_port, peer_port) = (server.client_port(), server.peer_port());
    let held: Vec<TcpStream> = (0..CONNECTIONS)
        .flat_map(|_| [connect_to(client_port), connect_to(peer_port)])
        .collect();
    eventually("many connections", || descriptors(&server) > before + 100).await;
    // More than one segment of the log: each needs new files.
    for n in 0..80 {
        let big = put(&format!("big{}", n % 8), vec![b'x'; 1 << 20]);
        let answer: Result<pb::PutResponse, _> = ask(&client, PUT, &big).await;
        answer.expect("a put");
        let open = descriptors(&server);
        assert!(open < LIMIT - 40, "{open} descriptors");
    }
    // The peer port has room for who speaks, in place of those who do not.
    let version = peer_version(peer_port);
    assert!(version.contains("etcdcluster"), "{version:?}");
    assert_eq!(server.exited(), None, "{}", server.log_tail());
    drop(held);
    // Those who waited were served, or find out that nobody is there any more.
    assert_serves(&server, &client).await;
    eventually("descriptors are free", || {
        descriptors(&server) <= before + 30
    })
    .await;
}

/// B13. The server ends a connection; the peer keeps its side open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_connection_is_closed_even_if_its_peer_does_not() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = descriptors(&server);
    let mut held = Vec::new();
    for _ in 0..40 {
        let mut stream = raw::open(&server);
        // A PING with a stream id is an error of the connection.
        let wrong = frame(raw::PING, 0, 1, &[0; 8]);
        stream.write_all(&wrong).expect("a frame");
        assert_ne!(read_to_end(&mut stream).reason(), 0);
        held.push(stream);
        let mut http1 = connect(&server);
        http1.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("a head");
        let _ = http1.read_to_end(&mut Vec::new());
        held.push(http1);
    }
    eventually("the descriptors are free", || {
        descriptors(&server) <= before
    })
    .await;
    assert_serves(&server, &client).await;
    drop(held);
}

/// B13. Nothing; half of the preface; no SETTINGS; a header block without an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_are_closed() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = descriptors(&server);
    let head = frame(raw::HEADERS, 0, 1, &raw::head(RANGE));
    let beginnings = [
        Vec::new(),
        preface()[..10].to_vec(),
        preface(),
        // Our SETTINGS are never acknowledged.
        [preface(), settings()].concat(),
        [preface(), settings(), head].concat(),
    ];
    let mut held = Vec::new();
    for beginning in beginnings.iter().cycle().take(50) {
        let mut stream = connect(&server);
        stream.write_all(beginning).expect("a beginning");
        held.push(stream);
    }
    for stream in &mut held {
        read_to_end(stream);
    }
    eventually("the descriptors are free", || {
        descriptors(&server) <= before
    })
    .await;
    assert_serves(&server, &client).await;
}

/// What the server ended takes no more, however much is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_stop_is_not_listened_to() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    let noise = vec![0u8; 64 << 10];
    let (_, sent) = flood(connect(&server), FLOOD_BYTES_MAX, || noise.clone());
    let sent = sent.expect("the connection is closed");
    println!("{sent} bytes after no preface");
    assert_serves(&server, &client).await;
}

/// Clients that come, ask and go, with and without waiting for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnects_leave_nothing_behind() {
    if !is_ringd() {
        return;
    }
    let server = Server::fresh().await;
    let client = server.connect().await;
    assert_serves(&server, &client).await;
    let before = descriptors(&server);
    let rounds = |count: usize| {
        for n in 0..count {
            let mut stream = raw::open(&server);
            let body = prost::Message::encode_to_vec(&range("served"));
            let _ = stream.write_all(&call(1, RANGE, &body));
            if n % 3 != 0 {
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    };
    rounds(500);
    eventually("the first ones are gone", || descriptors(&server) <= before).await;
    let resident = resident_bytes(&server);
    rounds(2000);
    eventually("all are gone", || descriptors(&server) <= before).await;
    let grown = resident_bytes(&server).saturating_sub(resident);
    println!("{grown} bytes more after 2000 connections");
    // A kilobyte of each would be two megabytes.
    assert!(grown < 2 << 20, "{grown} bytes");
    assert_serves(&server, &client).await;
}
