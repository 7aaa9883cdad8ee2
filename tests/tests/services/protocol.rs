//! What holds for all methods: unknown ones, sizes, metadata, compression.

use bytes::Bytes;
use prost::Message as _;
use ringd_tests::model::Refusal;
use ringd_tests::server::Server;
use ringd_tests::transport::{Connection, Extras};

use super::{put, range};

async fn refusal(connection: &Connection, path: &str, body: Bytes) -> (i32, String) {
    match connection.unary(path, body, &Extras::default()).await {
        Ok(answer) => panic!("answered {answer:?}"),
        Err(Refusal { code, message }) => (code, message),
    }
}

#[tokio::test]
async fn unknown_methods_and_undecodable_requests() {
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let cases = [
        (
            "/etcdserverpb.KV/Nope",
            12,
            "unknown method Nope for service etcdserverpb.KV",
        ),
        ("/foo.Bar/Baz", 12, "unknown service foo.Bar"),
    ];
    for (path, code, message) in cases {
        let got = refusal(&connection, path, Bytes::new()).await;
        assert_eq!(got, (code, message.to_owned()));
    }
    let undecodable = Bytes::from_static(b"\xff");
    let (code, message) = refusal(&connection, "/etcdserverpb.KV/Put", undecodable).await;
    assert_eq!(code, 13);
    assert!(
        message.starts_with("grpc: error unmarshalling request: "),
        "{message}"
    );
}

#[tokio::test]
async fn two_limits_of_size() {
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let put_of = |n: usize| Bytes::from(put("k", &"v".repeat(n)).encode_to_vec());
    let path = "/etcdserverpb.KV/Put";
    let fits = connection
        .unary(path, put_of(1_572_864 - 100), &Extras::default())
        .await;
    fits.expect("just below the limit");
    let got = refusal(&connection, path, put_of(1_572_864)).await;
    assert_eq!(got, (3, "etcdserver: request is too large".to_owned()));
    let (code, message) = refusal(&connection, path, put_of(2_097_152)).await;
    assert_eq!(code, 8);
    assert!(
        message.starts_with("grpc: received message larger than max ("),
        "{message}"
    );
}

#[tokio::test]
async fn compressed_requests_and_metadata_are_taken() {
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let extras = Extras {
        gzip: true,
        metadata: vec![
            ("hasleader".to_owned(), "true".to_owned()),
            ("client-api-version".to_owned(), "3.5".to_owned()),
            ("token".to_owned(), "ignored while auth is off".to_owned()),
        ],
        ..Default::default()
    };
    let body = Bytes::from(put("k", &"v".repeat(1000)).encode_to_vec());
    let answer = connection
        .unary("/etcdserverpb.KV/Put", body, &extras)
        .await;
    answer.expect("a put");
    let body = Bytes::from(range("k", "").encode_to_vec());
    let answer = connection
        .unary("/etcdserverpb.KV/Range", body, &extras)
        .await;
    assert!(answer.expect("a range").len() > 1000);
}

/// An answer larger than any window, and many calls at once on one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_answers_and_many_calls_share_a_connection() {
    const LARGE_BYTES: usize = 1 << 20;
    let server = Server::fresh().await;
    let connection = server.connect().await;
    let extras = Extras::default();
    for n in 0..20 {
        let body = put(&format!("large{n:02}"), &"v".repeat(LARGE_BYTES)).encode_to_vec();
        let answer = connection
            .unary("/etcdserverpb.KV/Put", body.into(), &extras)
            .await;
        answer.expect("a put");
    }
    let mut calls = Vec::new();
    for n in 0..200 {
        let connection = connection.clone();
        calls.push(tokio::spawn(async move {
            let (path, body) = if n % 20 == 0 {
                (
                    "/etcdserverpb.KV/Range",
                    range("large", "largf").encode_to_vec(),
                )
            } else {
                (
                    "/etcdserverpb.KV/Put",
                    put(&format!("k{n}"), "v").encode_to_vec(),
                )
            };
            let answer = connection
                .unary(path, body.into(), &Extras::default())
                .await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.len() > 20 * LARGE_BYTES, n % 20 == 0);
        }));
    }
    for call in calls {
        call.await.expect("no call failed");
    }
}
