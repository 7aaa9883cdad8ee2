//! A server, and the few requests that these tests make of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use ringd_tests::model::Refusal;
use ringd_tests::server::{Server, PATIENCE, POLL};
use ringd_tests::transport::{Connection, Extras};

pub const TOO_MANY: &str = "etcdserver: too many requests";
/// The log's place in a data directory.
pub const LOG_DIR: &str = "member/wal";
/// The page file's.
pub const PAGE_FILE: &str = "member/store.pages";

pub async fn ask<A: Message + Default>(
    connection: &Connection,
    path: &str,
    request: &impl Message,
) -> Result<A, Refusal> {
    let extras = Extras {
        deadline: Some(PATIENCE),
        ..Default::default()
    };
    let body = Bytes::from(request.encode_to_vec());
    let answer = connection.unary(path, body, &extras).await?;
    Ok(A::decode(answer).expect("an answer that can be read"))
}

pub async fn put(connection: &Connection, key: &str, value: &[u8]) -> Result<i64, Refusal> {
    let put = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_vec().into(),
        ..Default::default()
    };
    let answer: pb::PutResponse = ask(connection, "/etcdserverpb.KV/Put", &put).await?;
    Ok(answer.header.expect("a header").revision)
}

/// As [`put`], and waits where the member is told more than it can write.
pub async fn put_patiently(
    connection: &Connection,
    key: &str,
    value: &[u8],
) -> Result<i64, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        match put(connection, key, value).await {
            Err(refusal) if refusal.message == TOO_MANY && Instant::now() < end => {
                tokio::time::sleep(POLL).await;
            }
            result => return result,
        }
    }
}

pub async fn get(connection: &Connection, key: &str) -> Result<Option<Bytes>, Refusal> {
    let range = pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let answer: pb::RangeResponse = ask(connection, "/etcdserverpb.KV/Range", &range).await?;
    Ok(answer.kvs.first().map(|kv| kv.value.clone()))
}

/// Deletes the keys from `from` up to `to`; how many there were.
pub async fn delete(connection: &Connection, from: &str, to: &str) -> Result<i64, Refusal> {
    let delete = pb::DeleteRangeRequest {
        key: from.to_owned().into(),
        range_end: to.to_owned().into(),
        ..Default::default()
    };
    let path = "/etcdserverpb.KV/DeleteRange";
    let answer: pb::DeleteRangeResponse = ask(connection, path, &delete).await?;
    Ok(answer.deleted)
}

/// Compacts up to a revision and waits until the rows are gone.
pub async fn compact(connection: &Connection, revision: i64) {
    let compact = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let path = "/etcdserverpb.KV/Compact";
    let answer: Result<pb::CompactionResponse, _> = ask(connection, path, &compact).await;
    answer.expect("a compaction");
}

pub async fn defragment(connection: &Connection) -> Result<(), Refusal> {
    let path = "/etcdserverpb.Maintenance/Defragment";
    let answer: Result<pb::DefragmentResponse, _> =
        ask(connection, path, &pb::DefragmentRequest {}).await;
    answer.map(drop)
}

pub async fn hash_kv(connection: &Connection) -> (u32, i64) {
    let path = "/etcdserverpb.Maintenance/HashKV";
    let answer: Result<pb::HashKvResponse, _> =
        ask(connection, path, &pb::HashKvRequest { revision: 0 }).await;
    let answer = answer.expect("a hash");
    (answer.hash, answer.compact_revision)
}

pub async fn status(connection: &Connection) -> pb::StatusResponse {
    let path = "/etcdserverpb.Maintenance/Status";
    let answer: Result<pb::StatusResponse, _> = ask(connection, path, &pb::StatusRequest {}).await;
    answer.expect("a status")
}

/// A value that cannot be taken for another key's or another version's.
pub fn value(key: &str, version: u64, bytes: usize) -> Vec<u8> {
    let text = format!("{key}/{version};");
    text.bytes().cycle().take(bytes.max(text.len())).collect()
}

pub fn page_file(server: &Server) -> PathBuf {
    server.data_dir().join(PAGE_FILE)
}

pub fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").len()
}
