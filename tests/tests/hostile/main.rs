//! Clients that mean no good, over real sockets: what they send is answered by an end of the connection that says why, costs
//! bounded memory, and leaves nothing behind; everybody else is served meanwhile.
//!
//! The bounds are ringd's own, so that these tests pass by another server without looking.

mod connections;
mod frames;
mod load;
mod raw;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use ringd_tests::server::{Server, PATIENCE};
use ringd_tests::transport::{Connection, Extras};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Descriptors that the server has open.
fn descriptors(server: &Server) -> usize {
    let dir = format!("/proc/{}/fd", server.pid());
    std::fs::read_dir(dir).expect("a running process").count()
}

/// Memory that the server uses now, in bytes.
fn resident_bytes(server: &Server) -> usize {
    let path = format!("/proc/{}/status", server.pid());
    let status = std::fs::read_to_string(path).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kilobytes.map_or(0, |kilobytes: usize| kilobytes * 1024)
}

async fn ask<A: Message + Default>(
    connection: &Connection,
    path: &str,
    request: &impl Message,
) -> Result<A, String> {
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    let body = Bytes::from(request.encode_to_vec());
    let answer = connection.unary(path, body, &extras).await;
    let answer = answer.map_err(|refusal| format!("{refusal:?}"))?;
    A::decode(answer).map_err(|error| error.to_string())
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn put(key: &str, value: Vec<u8>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.into(),
        ..Default::default()
    }
}

/// A client that came before the trouble, and a new one, are served.
async fn assert_serves(server: &Server, old: &Connection) {
    for connection in [old.clone(), server.connect().await] {
        let answer: pb::PutResponse = ask(&connection, PUT, &put("served", b"v".to_vec()))
            .await
            .expect("a put");
        let revision = answer.header.expect("a header").revision;
        let answer: pb::RangeResponse = ask(&connection, RANGE, &range("served"))
            .await
            .expect("a range");
        assert!(answer.kvs[0].mod_revision >= revision);
    }
}
