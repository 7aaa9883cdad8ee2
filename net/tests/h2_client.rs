//! An independent HTTP/2 client (the `h2` crate) against our server, through an in-memory pipe.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use net::grpc::{Config, Event, Method, MethodKind, Methods, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const ECHO: u16 = 1;
const CHAT: u16 = 2;
const FAIL: u16 = 3;

static LIST: [Method; 3] = [
    Method {
        path: "/test.Echo/Echo",
        id: ECHO,
        kind: MethodKind::Unary,
    },
    Method {
        path: "/test.Echo/Chat",
        id: CHAT,
        kind: MethodKind::Bidi,
    },
    Method {
        path: "/test.Echo/Fail",
        id: FAIL,
        kind: MethodKind::Unary,
    },
];
static METHODS: LazyLock<Methods> = LazyLock::new(|| Methods::new(&LIST));

/// Serves one connection until the client closes it: an echo, message by message.
async fn serve(mut socket: DuplexStream) {
    let began = Instant::now();
    let config = Arc::new(Config {
        request_bytes_max: 8 << 20,
        ..Config::default()
    });
    let mut server = Server::new(&config, &METHODS, 0);
    let mut buffer = vec![0; 10_000];
    let mut events = Vec::new();
    loop {
        let count = socket.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return;
        }
        server.receive(
            &buffer[..count],
            began.elapsed().as_nanos() as u64,
            &mut events,
        );
        for event in events.drain(..) {
            match event {
                Event::Request {
                    stream,
                    method: FAIL,
                    ..
                } => server.fail(stream, 5, "not here: 100%"),
                Event::Request {
                    stream, message, ..
                } => server.respond(stream, &message),
                Event::Message { stream, message } => assert!(server.send(stream, message)),
                Event::HalfClose { stream } => server.finish(stream),
                Event::Open { .. } | Event::Cancel { .. } => {}
                Event::Http1 { .. } => panic!("not HTTP/2"),
            }
        }
        while !server.output().is_empty() {
            let output = server.output();
            socket.write_all(output.bytes()).await.unwrap();
            let length = output.len();
            output.consume(length);
        }
        if server.should_close() {
            return;
        }
    }
}

/// Runs a client with its connection to a server.
fn with_client<F, R>(test: F)
where
    F: FnOnce(SendRequest<Bytes>) -> R,
    R: std::future::Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (near, far) = tokio::io::duplex(64 << 10);
        tokio::spawn(serve(far));
        let (client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(async { connection.await.unwrap() });
        test(client).await;
    });
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("token", "t")
        .body(())
        .unwrap()
}

fn prefixed(message: &[u8]) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(message.len() as u32).to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

/// One call: the response's body and its trailers.
async fn call(client: &mut SendRequest<Bytes>, path: &str, body: Bytes) -> (Vec<u8>, HeaderMap) {
    client.clone().ready().await.unwrap();
    let (response, mut stream) = client.send_request(request(path), false).unwrap();
    stream.send_data(body, true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let only = response.headers().clone();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    (bytes, body.trailers().await.unwrap().unwrap_or(only))
}

#[test]
fn unary_calls_of_all_sizes() {
    with_client(|mut client| async move {
        for size in [0, 1, 100, 16_379, 16_380, 65_535, 1_000_000, 5_000_000] {
            let message: Vec<u8> = (0..size).map(|n| n as u8).collect();
            let (body, trailers) = call(&mut client, "/test.Echo/Echo", prefixed(&message)).await;
            assert!(body == prefixed(&message), "{size}");
            assert_eq!(trailers["grpc-status"], "0");
        }
    });
}

#[test]
fn concurrent_calls() {
    with_client(|client| async move {
        let calls: Vec<_> = (0..500usize)
            .map(|n| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let message = vec![n as u8; n * 37];
                    let (body, trailers) =
                        call(&mut client, "/test.Echo/Echo", prefixed(&message)).await;
                    assert!(body == prefixed(&message), "{n}");
                    assert_eq!(trailers["grpc-status"], "0");
                })
            })
            .collect();
        for call in calls {
            call.await.unwrap();
        }
    });
}

#[test]
fn failures_are_trailers_only() {
    with_client(|mut client| async move {
        let (body, head) = call(&mut client, "/test.Echo/Fail", prefixed(b"x")).await;
        assert!(body.is_empty());
        assert_eq!(
            (&head["grpc-status"], &head["grpc-message"]),
            (&"5".parse().unwrap(), &"not here: 100%25".parse().unwrap())
        );
        let (_, head) = call(&mut client, "/test.Echo/Nope", prefixed(b"x")).await;
        assert_eq!(head["grpc-status"], "12");
        let (_, trailers) = call(&mut client, "/test.Echo/Echo", prefixed(b"x")).await;
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn streams_in_both_directions() {
    with_client(|client| async move {
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client
            .send_request(request("/test.Echo/Chat"), false)
            .unwrap();
        for n in 0..200usize {
            stream
                .send_data(prefixed(&vec![n as u8; n * 50]), false)
                .unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            body.flow_control().release_capacity(chunk.len()).unwrap();
            bytes.extend_from_slice(&chunk);
        }
        let expected: Vec<u8> = (0..200usize)
            .flat_map(|n| prefixed(&vec![n as u8; n * 50]))
            .collect();
        assert!(bytes == expected);
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}
