//! The peer port as a client sees it, compared with what an etcd answered to the very same requests.

use super::*;
use serde_json::Value;

const MEMBER: u64 = 0x6f7433ed0f2a431c;
const OTHER: u64 = 0x52eb02c0dd01e48;
const REMOVED: u64 = 0x1386ef7a93ef67df;

fn server() -> Transport {
    let mut server = transport(MEMBER);
    server.config.local.version = "3.5.1";
    let removed = BTreeSet::from([REMOVED]);
    server.set_members(
        &[url(1)],
        vec![PeerAddress {
            id: OTHER,
            urls: vec![url(2)],
        }],
        removed,
        1,
    );
    server
}

/// Status line and header fields, and the body.
fn ask(server: &mut Transport, request: &[u8]) -> (String, String) {
    let id = server.accept(1);
    server.receive(id, request, 1);
    answer(server, id)
}

fn answer(server: &mut Transport, id: u32) -> (String, String) {
    let output = server.output(id).unwrap();
    let text = String::from_utf8_lossy(output.bytes()).into_owned();
    output.consume(text.len());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.to_owned(), body.to_owned())
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (known, value) = line.split_once(": ")?;
        known.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn requests_of_all_kinds_are_answered_as_etcd_does() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../net/tests/captures/peer.json"
    );
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let captures: Value = serde_json::from_str(&text).unwrap();
    let mut compared = 0;
    for probe in captures["probes"].as_array().unwrap() {
        let text = |name: &str| probe[name].as_str().unwrap();
        let mut request = format!(
            "{} {} HTTP/1.1\r\nHost: h\r\n",
            text("method"),
            text("path")
        );
        for (name, value) in probe["headers"].as_object().unwrap() {
            request += &format!("{name}: {}\r\n", value.as_str().unwrap());
        }
        // The recording has bytes above 0x7f as characters of that number.
        let body: Vec<u8> = text("body").chars().map(|c| c as u32 as u8).collect();
        request += &format!("Content-Length: {}\r\n\r\n", body.len());
        let mut server = server();
        let (head, found) = ask(&mut server, &[request.as_bytes(), &body].concat());
        if head.is_empty() {
            continue; // the member answers, not the transport
        }
        let name = format!("{} {} {:?}", text("method"), text("path"), probe["headers"]);
        assert!(
            head.starts_with(&format!("HTTP/1.1 {} ", probe["status"])),
            "{name}: {head}"
        );
        for (field_name, value) in probe["resp_headers"].as_object().unwrap() {
            let same = match field_name.as_str() {
                "Content-Length" => true, // as the body, which is compared
                _ => field(&head, field_name) == value.as_str(),
            };
            assert!(same, "{name}: {field_name} is not {value}: {head}");
        }
        match text("path") {
            "/raft/probing" => assert!(found.starts_with("{\"OK\":true,\"Now\":\"1970-")),
            _ => assert_eq!(found, text("resp_body"), "{name}"),
        }
        compared += 1;
    }
    assert_eq!(compared, 12, "of the recorded requests");
}

const RAFT: &str = "X-Server-From: 52eb02c0dd01e48\r\nX-Server-Version: 3.5.1\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: bb366eafd7443a8b\r\n";

fn post(server: &mut Transport, path: &str, fields: &str, body: &[u8]) -> (String, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\n{RAFT}{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    ask(server, &[head.as_bytes(), body].concat())
}

#[test]
fn posted_messages() {
    use prost::Message as _;
    let encoded = |kind, from, to| message(kind, from, to).encode_to_vec();
    let mut server = server();
    let good = encoded(MessageType::MsgVote, OTHER, MEMBER);
    let (head, _) = post(&mut server, "/raft", "", &good);
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    let mut inputs = Vec::new();
    server.take_inputs(&mut inputs);
    assert_eq!(
        inputs.iter().map(words).collect::<Vec<_>>(),
        [format!("MsgVote from {OTHER}")]
    );

    let (head, body) = post(
        &mut server,
        "/raft",
        "",
        &encoded(MessageType::MsgVote, REMOVED, MEMBER),
    );
    assert!(head.starts_with("HTTP/1.1 403 "));
    assert_eq!(
        body,
        "{\"message\":\"cannot process message from removed member\"}"
    );
    assert_eq!(field(&head, "content-type"), Some("application/json"));

    for (kind, to, status) in [
        (MessageType::MsgVote, 7, 412),
        (MessageType::MsgSnap, MEMBER, 500),
    ] {
        let (head, _) = post(&mut server, "/raft", "", &encoded(kind, OTHER, to));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    let (head, body) = post(&mut server, "/raft", "X-Ringd-Crc32: 00000000\r\n", &good);
    assert!(head.starts_with("HTTP/1.1 503 "));
    assert!(body.starts_with("the request was damaged on its way"));
    let fields = format!("X-Ringd-Crc32: {}\r\n", net::peer::checksum(&good));
    let (head, _) = post(&mut server, "/raft", &fields, &good);
    assert!(head.starts_with("HTTP/1.1 204 "));
}

#[test]
fn snapshots_that_cannot_be_taken() {
    let mut server = server();
    let (head, body) = post(&mut server, "/raft/snapshot", "", b"whatever");
    assert!(head.starts_with("HTTP/1.1 400 "));
    assert_eq!(body, "error reading raft message\n");
    let wrong = net::peer::encode_piece(&message(MessageType::MsgVote, OTHER, MEMBER), b"x");
    let fields = |body: &[u8], place: &str| {
        format!(
            "X-Ringd-Crc32: {}\r\nX-Ringd-Snapshot: {place}\r\n",
            net::peer::checksum(body)
        )
    };
    let (head, body) = post(
        &mut server,
        "/raft/snapshot",
        &fields(&wrong, "1 0 1"),
        &wrong,
    );
    assert!(head.starts_with("HTTP/1.1 400 "));
    assert_eq!(body, "wrong raft message type\n");
    let good = net::peer::encode_piece(&message(MessageType::MsgSnap, OTHER, MEMBER), b"x");
    for place in ["", "1 0", "1 0 2", "x 0 1", "1 0 1 1", "1 -1 1"] {
        let (head, _) = post(&mut server, "/raft/snapshot", &fields(&good, place), &good);
        assert!(head.starts_with("HTTP/1.1 400 "), "{place}: {head}");
    }
    let (head, _) = post(
        &mut server,
        "/raft/snapshot",
        "X-Ringd-Snapshot: 1 0 1\r\n",
        &good,
    );
    assert!(head.starts_with("HTTP/1.1 503 "), "no checksum: {head}");
    let (head, _) = post(
        &mut server,
        "/raft/snapshot",
        &fields(&good, "1 5 1"),
        &good,
    );
    assert!(head.starts_with("HTTP/1.1 409 "), "{head}");
    assert_eq!(field(&head, "x-ringd-snapshot-offset"), Some("0"));
}

#[test]
fn bodies_are_bounded() {
    let mut server = server();
    let large = vec![0; 70 << 10];
    let (head, body) = post(&mut server, "/leases/internal", "", &large);
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert_eq!(body, "request body too large\n");
    let (head, body) = post(&mut server, "/leases", "", b"\xff");
    assert!(head.starts_with("HTTP/1.1 400 "));
    assert_eq!(body, "error unmarshalling request\n");
    let (head, body) = post(&mut server, "/members/promote/x", "", b"");
    assert!(head.starts_with("HTTP/1.1 404 "));
    assert_eq!(body, "member x not found in cluster\n");
}

#[test]
fn requests_that_never_end_share_a_bound() {
    let mut server = server();
    let ids: Vec<u32> = (0..8).map(|_| server.accept(1)).collect();
    let head = format!(
        "POST /raft HTTP/1.1\r\nHost: h\r\n{RAFT}Content-Length: {}\r\n\r\n",
        60 << 20
    );
    for id in &ids {
        server.receive(*id, head.as_bytes(), 1);
    }
    let piece = vec![0; 1 << 20];
    for _ in 0..50 {
        for id in &ids {
            server.receive(*id, &piece, 1);
        }
    }
    let held = server.held_bytes;
    assert!(held <= inbound::HELD_BYTES_MAX, "{held}");
    assert!(held >= inbound::HELD_BYTES_MAX - (60 << 20), "{held}");
    for id in ids {
        server.closed(id, 2);
    }
    assert_eq!(server.held_bytes, 0);
}

#[test]
fn too_many_connections_leave_room_for_those_who_speak() {
    let mut server = server();
    let first: Vec<u32> = (0..INBOUND_MAX as u64)
        .map(|now| server.accept(now))
        .collect();
    let last = server.accept(10_000);
    assert!(
        server.output(first[0]).is_none(),
        "the longest idle one made room"
    );
    assert!(server.output(last).is_some());
    assert_eq!(server.connections.len(), INBOUND_MAX + 2); // and two that it dials
}

/// Whatever comes, by whatever connection, in whatever order.
#[test]
fn arbitrary_and_mutated_bytes_do_no_harm() {
    let mut state = 0x9e3779b97f4a7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let stream = format!("GET /raft/stream/message/52eb02c0dd01e48 HTTP/1.1\r\nHost: h\r\nX-Raft-To: 6f7433ed0f2a431c\r\n{RAFT}\r\n");
    let posted = format!("POST /raft HTTP/1.1\r\nHost: h\r\n{RAFT}Content-Length: 5\r\n\r\nabcde");
    for _ in 0..2_000 {
        let mut server = server();
        let id = server.accept(1);
        let mut bytes = match random() % 3 {
            0 => stream.clone().into_bytes(),
            1 => posted.clone().into_bytes(),
            _ => (0..random() % 200).map(|_| random() as u8).collect(),
        };
        for _ in 0..random() % 4 {
            if !bytes.is_empty() {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
        }
        for piece in bytes.chunks(1 + random() as usize % 64) {
            server.receive(id, piece, 1);
        }
        // The same as answers to what it dialled.
        let mut actions = Vec::new();
        server.take_actions(&mut actions);
        for action in actions {
            if let Action::Dial { connection, .. } = action {
                server.dialled(connection, Ok(()), 1);
                let head: &[u8] =
                    b"HTTP/1.1 200 OK\r\nX-Server-Version: 3.5.1\r\nX-Etcd-Cluster-Id: 1\r\n\r\n";
                server.receive(connection, head, 1);
                server.receive(connection, &bytes, 1);
            }
        }
        server.on_timer(2);
        server.closed(id, 2);
    }
}
