//! How members come to be: clusters found through another etcd, starts that are refused, and one member of a lost cluster
//! that goes on alone.

mod alone;
mod discovery;
mod refusals;

use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use ringd_tests::server::{eventually, Server};
use ringd_tests::transport::Extras;
use serde_json::Value;

/// The lines of a server's log with this message.
fn lines(server: &Server, message: &str) -> Vec<Value> {
    let log = server.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["msg"] == message).collect()
}

/// Waits for a line and gives one of its fields.
async fn field(server: &Server, message: &str, name: &str) -> String {
    eventually(message, || !lines(server, message).is_empty()).await;
    let line = lines(server, message).pop().expect("seen a moment ago");
    line[name].as_str().unwrap_or_default().to_owned()
}

/// Waits for the end of a server that must refuse to start, and gives the reason.
async fn refusal(mut server: Server) -> String {
    let status = server.exit().await;
    assert_eq!(status.code(), Some(1), "{}", server.log_tail());
    field(&server, "discovery failed", "error").await
}

async fn call(server: &Server, path: &str, body: Bytes) -> Bytes {
    let connection = server.connect().await;
    let answer = connection.unary(path, body, &Extras::default()).await;
    answer.expect("an answer")
}

async fn put(server: &Server, key: &str, value: &str) {
    let request = pb::PutRequest {
        key: key.to_owned().into_bytes().into(),
        value: value.to_owned().into_bytes().into(),
        ..Default::default()
    };
    let body = request.encode_to_vec().into();
    call(server, "/etcdserverpb.KV/Put", body).await;
}

/// Values by key of everything that begins with a prefix.
async fn values(server: &Server, prefix: &str) -> Vec<(String, String)> {
    let request = pb::RangeRequest {
        key: prefix.to_owned().into_bytes().into(),
        range_end: format!("{prefix}\u{7f}").into_bytes().into(),
        ..Default::default()
    };
    let body = request.encode_to_vec().into();
    let answer = call(server, "/etcdserverpb.KV/Range", body).await;
    let answer = pb::RangeResponse::decode(answer).expect("a response");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let pairs = answer.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value)));
    pairs.collect()
}
