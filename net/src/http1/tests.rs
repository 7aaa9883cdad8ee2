//! Both ends of a connection, alone and with each other.

use super::*;
use proptest::prelude::*;

/// What a server told, with its data put together.
fn told(server: &mut Server) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    while let Some(event) = server.next() {
        match event {
            ServerEvent::Head(head) => told.push(format!("{} {}", head.method, head.target)),
            ServerEvent::Data(bytes) => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                match told.last_mut() {
                    Some(last) if last.starts_with("data ") => last.push_str(&text),
                    _ => told.push(format!("data {text}")),
                }
            }
            ServerEvent::End => told.push("end".into()),
        }
    }
    told
}

fn drain(output: &mut crate::connection::Output) -> String {
    let text = String::from_utf8_lossy(output.bytes()).into_owned();
    output.consume(output.len());
    text
}

fn served(text: &str) -> (Server, Vec<String>) {
    let mut server = Server::new(0);
    server.receive(text.as_bytes(), 0);
    let told = told(&mut server);
    (server, told)
}

#[test]
fn a_request_sent_ahead_waits_for_the_answer_before_it() {
    let two = "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
    let (mut server, first) = served(two);
    assert_eq!(first, ["GET /a", "end"]);
    assert!(told(&mut server).is_empty());
    server.respond(200, &[("A", "b")], b"one", 0);
    assert_eq!(
        drain(server.output()),
        "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 3\r\n\r\none"
    );
    assert_eq!(told(&mut server), ["POST /b", "data abc", "end"]);
    server.respond(204, &[], b"", 0);
    assert_eq!(drain(server.output()), "HTTP/1.1 204 No Content\r\n\r\n");
    assert!(server.is_idle() && !server.should_close());
}

#[test]
fn what_is_sent_ahead_is_bounded() {
    let (mut server, _) = served("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(server.wants_input());
    server.receive(&vec![b'x'; AHEAD_BYTES_MAX + 1], 0);
    assert!(!server.wants_input());
    server.respond(200, &[], b"", 0);
    assert!(server.wants_input());
}

#[test]
fn nonsense_is_answered_and_ends_the_connection() {
    for (text, status) in [
        ("\x16\x03\x01\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
            "501",
        ),
    ] {
        let (mut server, _) = served(text);
        let answer = drain(server.output());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{text:?}: {answer}"
        );
        assert!(answer.contains("Connection: close\r\n"), "{answer}");
        assert!(server.should_close());
        server.receive(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 0);
        assert!(told(&mut server).is_empty());
    }
}

#[test]
fn an_answer_before_the_end_of_its_request_ends_the_connection() {
    let (mut server, first) = served("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!(first, ["POST /a", "data abc"]);
    server.respond(413, &[], b"", 0);
    assert!(drain(server.output()).contains("Connection: close\r\n"));
    assert!(server.should_close());
}

#[test]
fn versions_and_heads() {
    let (mut server, _) = served("GET / HTTP/1.0\r\n\r\n");
    server.respond_stream(200, &[], 0);
    server.chunk(3, 0, |out| out.extend_from_slice(b"abc"));
    server.finish(0);
    let answer = drain(server.output());
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
    assert!(server.should_close());

    let (mut server, _) = served("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    server.respond(200, &[], b"a", 0);
    assert!(drain(server.output()).contains("Connection: keep-alive\r\n"));
    assert!(!server.should_close());

    let (mut server, _) = served("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    server.respond(200, &[], b"abc", 0);
    let answer = drain(server.output());
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");

    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    let (mut server, _) = served(head);
    assert_eq!(drain(server.output()), "HTTP/1.1 100 Continue\r\n\r\n");
}

#[test]
fn slow_clients_have_deadlines() {
    let mut server = Server::new(5);
    assert_eq!(server.deadline_ns(), Some(5 + IDLE_NS));
    server.receive(b"POST / HTTP/1.1\r\n", 7);
    server.receive(b"Host: h\r\n", 9);
    assert!(told(&mut server).is_empty());
    assert_eq!(server.deadline_ns(), Some(7 + HEAD_NS));
    server.receive(b"Content-Length: 3\r\n\r\na", 11);
    assert_eq!(told(&mut server), ["POST /", "data a"]);
    server.receive(b"b", 20);
    assert_eq!(told(&mut server), ["data b"]);
    assert_eq!(server.deadline_ns(), Some(20 + BODY_STALL_NS));
    server.receive(b"c", 30);
    assert_eq!(told(&mut server), ["data c", "end"]);
    assert_eq!(server.deadline_ns(), None);
    server.respond(200, &[], &[b'x'; 100], 50);
    assert_eq!(server.deadline_ns(), Some(50 + WRITE_STALL_NS));
    server.output().consume(1);
    assert!(!server.is_overdue(49 + WRITE_STALL_NS));
    // It took something meanwhile.
    assert!(!server.is_overdue(50 + WRITE_STALL_NS));
    assert!(server.is_overdue(50 + 2 * WRITE_STALL_NS));
}

#[test]
fn answers_of_every_kind() {
    let answered = |text: &str| -> Result<Vec<String>, ClientError> {
        let mut client = Client::default();
        client.request("GET", "/a", "h:1", &[("A", "b")], None);
        assert_eq!(
            drain(client.output()),
            "GET /a HTTP/1.1\r\nHost: h:1\r\nA: b\r\n\r\n"
        );
        client.receive(text.as_bytes());
        let mut told = Vec::new();
        while let Some(event) = client.next()? {
            told.push(match event {
                ClientEvent::Head(head) => head.status.to_string(),
                ClientEvent::Data(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                ClientEvent::End => "end".into(),
            });
        }
        if client.end_of_input()? {
            told.push("end of input".into());
        }
        Ok(told)
    };
    let head = "HTTP/1.1 200 OK\r\n";
    let ok = |rest: &str| answered(&format!("{head}{rest}")).unwrap();
    assert_eq!(ok("Content-Length: 3\r\n\r\nabc"), ["200", "abc", "end"]);
    assert_eq!(
        ok("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"),
        ["200", "a", "bc", "end"]
    );
    assert_eq!(ok("\r\nabc"), ["200", "abc", "end of input"]);
    assert_eq!(
        answered("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").unwrap(),
        ["204", "end"]
    );
    assert_eq!(
        answered("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"),
        Err(ClientError::Incomplete)
    );
    assert_eq!(answered("HTTP/2 nonsense\r\n"), Err(ClientError::Malformed));
    assert_eq!(
        answered("HTTP/1.1 204 No Content\r\n\r\nmore"),
        Err(ClientError::Malformed)
    );
}

/// Carries bytes in pieces of this size from one end to the other.
fn carry(client: &mut Client, server: &mut Server, size: usize) {
    let bytes = client.output().bytes().to_vec();
    client.output().consume(bytes.len());
    for piece in bytes.chunks(size) {
        server.receive(piece, 0);
    }
}

proptest! {
    /// Requests and answers of all kinds, one after the other by one connection, however they are cut.
    #[test]
    fn both_ends_understand_each_other(
        exchanges in prop::collection::vec((any::<Option<Vec<u8>>>(), prop::collection::vec(any::<Vec<u8>>(), 0..4), any::<bool>()), 1..6),
        size in 1usize..40,
    ) {
        let (mut client, mut server) = (Client::default(), Server::new(0));
        for (body, answer, streamed) in exchanges {
            client.request("POST", "/x", "h", &[], body.as_deref());
            carry(&mut client, &mut server, size);
            let mut asked = Vec::new();
            let mut ended = false;
            while let Some(event) = server.next() {
                match event {
                    ServerEvent::Head(head) => prop_assert_eq!(head.path(), "/x"),
                    ServerEvent::Data(bytes) => asked.extend_from_slice(bytes),
                    ServerEvent::End => ended = true,
                }
            }
            prop_assert!(ended);
            prop_assert_eq!(asked, body.unwrap_or_default());
            match streamed {
                true => {
                    server.respond_stream(200, &[], 0);
                    for part in &answer {
                        server.chunk(part.len(), 0, |out| out.extend_from_slice(part));
                    }
                    server.finish(0);
                }
                false => server.respond(200, &[], &answer.concat(), 0),
            }
            let bytes = server.output().bytes().to_vec();
            server.output().consume(bytes.len());
            let (mut heard, mut ended) = (Vec::new(), false);
            for piece in bytes.chunks(size) {
                client.receive(piece);
                while let Some(event) = client.next().unwrap() {
                    match event {
                        ClientEvent::Head(head) => prop_assert_eq!(head.status, 200),
                        ClientEvent::Data(bytes) => heard.extend_from_slice(bytes),
                        ClientEvent::End => ended = true,
                    }
                }
            }
            prop_assert!(ended && client.is_reusable());
            prop_assert_eq!(heard, answer.concat());
        }
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes: Vec<u8>, cuts: Vec<u8>) {
        crate::fuzzing::http1_connection(&cuts, &bytes);
    }

    /// Bytes near to real ones reach deeper than arbitrary ones.
    #[test]
    fn mutated_requests_do_no_harm(at in any::<prop::sample::Index>(), byte: u8, cuts: Vec<u8>) {
        let mut text = b"POST /raft HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab".to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        crate::fuzzing::http1_connection(&cuts, &text);
    }
}
