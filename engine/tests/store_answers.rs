//! Replays recorded sessions against the store: the answers must be those of etcd 3.5.33, byte for byte.
//!
//! The recordings lie in the workspace's `tests/answers`. Steps that need more than the store (streams, maintenance,
//! authentication) are left to the replay against the whole server.

use bytes::Bytes;
use engine::error::RequestError;
use engine::page::Pages;
use engine::store::{
    self, decode_internal_request, decode_txn, validate, wrap, Options, Payload, Response, Store,
};
use prost::Message;
use proto::etcdserverpb::*;
use serde_json::Value;
use std::path::PathBuf;

const MAX_TXN_OPS: usize = 128;

fn answers() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/answers")
}

fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.bytes().filter(|&c| c != b'=') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

/// Reads proto3 JSON with the recordings' abbreviations. `index` numbers the enclosing repetitions.
struct Json<'a> {
    value: &'a Value,
    index: Vec<usize>,
}

impl<'a> Json<'a> {
    fn field(&self, name: &str) -> Json<'a> {
        Json {
            value: &self.value[name],
            index: self.index.clone(),
        }
    }
    fn has(&self, name: &str) -> bool {
        !self.value[name].is_null()
    }
    fn bytes(&self, name: &str) -> Bytes {
        let value = &self.value[name];
        if let Some(text) = value.as_str() {
            return base64(text).into();
        }
        if let Some(fill) = value["$fill"].as_str() {
            let count = value["count"].as_u64().unwrap() as usize;
            return fill.repeat(count).into();
        }
        if let Some(pattern) = value["$key"].as_str() {
            return format_key(pattern, &self.index).into();
        }
        Bytes::new()
    }
    fn int(&self, name: &str) -> i64 {
        let value = &self.value[name];
        match value.as_str() {
            Some(text) => text.parse().unwrap(),
            None => value.as_i64().unwrap_or(0),
        }
    }
    fn flag(&self, name: &str) -> bool {
        self.value[name].as_bool().unwrap_or(false)
    }
    fn choice<T: Into<i32>>(&self, name: &str, parse: fn(&str) -> Option<T>) -> i32 {
        let value = &self.value[name];
        match value.as_str() {
            Some(text) => parse(text).unwrap().into(),
            None => value.as_i64().unwrap_or(0) as i32,
        }
    }
    fn list(&self, name: &str) -> Vec<Json<'a>> {
        let value = &self.value[name];
        if let Some(times) = value["$repeat"].as_u64() {
            let item = |i: usize| {
                let mut index = self.index.clone();
                index.push(i);
                Json {
                    value: &value["item"],
                    index,
                }
            };
            return (0..times as usize).map(item).collect();
        }
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let item = |value| Json {
            value,
            index: self.index.clone(),
        };
        items.iter().map(item).collect()
    }
}

fn format_key(pattern: &str, index: &[usize]) -> String {
    let holes = pattern.matches('%').count();
    let mut index = index[index.len() - holes..].iter();
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let end = at + rest[at..].find('d').unwrap();
        let width = rest[at + 1..end].parse().unwrap_or(0);
        out.push_str(&format!("{:0width$}", index.next().unwrap()));
        rest = &rest[end + 1..];
    }
    out + rest
}

fn range(json: &Json<'_>) -> RangeRequest {
    RangeRequest {
        key: json.bytes("key"),
        range_end: json.bytes("range_end"),
        limit: json.int("limit"),
        revision: json.int("revision"),
        sort_order: json.choice("sort_order", range_request::SortOrder::from_str_name),
        sort_target: json.choice("sort_target", range_request::SortTarget::from_str_name),
        serializable: json.flag("serializable"),
        keys_only: json.flag("keys_only"),
        count_only: json.flag("count_only"),
        min_mod_revision: json.int("min_mod_revision"),
        max_mod_revision: json.int("max_mod_revision"),
        min_create_revision: json.int("min_create_revision"),
        max_create_revision: json.int("max_create_revision"),
    }
}

fn put(json: &Json<'_>) -> PutRequest {
    PutRequest {
        key: json.bytes("key"),
        value: json.bytes("value"),
        lease: json.int("lease"),
        prev_kv: json.flag("prev_kv"),
        ignore_value: json.flag("ignore_value"),
        ignore_lease: json.flag("ignore_lease"),
    }
}

fn delete_range(json: &Json<'_>) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: json.bytes("key"),
        range_end: json.bytes("range_end"),
        prev_kv: json.flag("prev_kv"),
    }
}

fn compare(json: &Json<'_>) -> Compare {
    use compare::TargetUnion;
    let unions = [
        ("version", TargetUnion::Version as fn(i64) -> TargetUnion),
        ("create_revision", TargetUnion::CreateRevision),
        ("mod_revision", TargetUnion::ModRevision),
        ("lease", TargetUnion::Lease),
    ];
    let target_union = match json.has("value") {
        true => Some(TargetUnion::Value(json.bytes("value"))),
        false => unions
            .iter()
            .find(|(name, _)| json.has(name))
            .map(|(name, make)| make(json.int(name))),
    };
    Compare {
        result: json.choice("result", compare::CompareResult::from_str_name),
        target: json.choice("target", compare::CompareTarget::from_str_name),
        key: json.bytes("key"),
        range_end: json.bytes("range_end"),
        target_union,
    }
}

fn op(json: &Json<'_>) -> RequestOp {
    use request_op::Request;
    let request = if json.has("request_range") {
        Some(Request::RequestRange(range(&json.field("request_range"))))
    } else if json.has("request_put") {
        Some(Request::RequestPut(put(&json.field("request_put"))))
    } else if json.has("request_delete_range") {
        let delete = delete_range(&json.field("request_delete_range"));
        Some(Request::RequestDeleteRange(delete))
    } else if json.has("request_txn") {
        Some(Request::RequestTxn(txn(&json.field("request_txn"))))
    } else {
        None
    };
    RequestOp { request }
}

fn txn(json: &Json<'_>) -> TxnRequest {
    TxnRequest {
        compare: json.list("compare").iter().map(compare).collect(),
        success: json.list("success").iter().map(op).collect(),
        failure: json.list("failure").iter().map(op).collect(),
    }
}

struct Session {
    name: String,
    store: Store,
    index: u64,
    header: ResponseHeader,
    compared: usize,
    skipped: usize,
}

type Answer = Result<Vec<u8>, RequestError>;

impl Session {
    fn header(&self, revision: i64) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision,
            ..self.header
        })
    }

    fn apply(&mut self, request: InternalRaftRequest) -> Result<Response, RequestError> {
        self.index += 1;
        let request = InternalRaftRequest {
            header: Some(RequestHeader {
                id: self.index,
                ..RequestHeader::default()
            }),
            ..request
        };
        // As it would come out of the log.
        let bytes = Bytes::from(request.encode_to_vec());
        let Payload::Request(decoded) = decode_internal_request(bytes).unwrap() else {
            panic!("a request");
        };
        assert_eq!(*decoded, request);
        let now_ns = self.index * 1_000_000;
        let applied = self.store.apply(self.index, 2, Some(&decoded), now_ns);
        let applied = applied.unwrap();
        while applied.compaction.is_some() && self.store.compaction_pending() {
            self.store.compaction_step(3).unwrap();
        }
        applied.response
    }

    fn unary(&mut self, call: &str, json: &Json<'_>) -> Option<Answer> {
        Some(match call {
            "KV/Range" => self.range(json),
            "KV/Put" => self.put(json),
            "KV/DeleteRange" => self.delete_range(json),
            "KV/Txn" => self.txn(json),
            "KV/Compact" => self.compact(json),
            "Lease/LeaseGrant" => self.lease_grant(json),
            "Lease/LeaseRevoke" => self.lease_revoke(json),
            "Maintenance/HashKV" => self.hash_kv(json),
            _ => return None,
        })
    }

    fn range(&mut self, json: &Json<'_>) -> Answer {
        let request = range(json);
        validate::validate_range(&request)?;
        let header = self.header(self.store.revision()).unwrap();
        let mut out = b"before".to_vec();
        let done = self.store.range_encoded(&request, &header, &mut out);
        let typed = self.store.range(&request).unwrap();
        assert_eq!(done.clone().unwrap().err(), typed.clone().err());
        done.unwrap()?;
        let typed = RangeResponse {
            header: Some(header),
            ..typed.unwrap()
        };
        assert_eq!(typed.encode_to_vec(), &out[6..]);
        Ok(out.split_off(6))
    }

    /// A request that the recording gives as bytes; `None` if it was refused as malformed.
    fn raw_put(&mut self, raw: Vec<u8>, line: &Value) -> Option<Answer> {
        match PutRequest::decode(&raw[..]) {
            Ok(request) => Some(self.put_request(request)),
            Err(_) => {
                assert_eq!(line["error"]["code"], 13);
                None
            }
        }
    }

    fn put(&mut self, json: &Json<'_>) -> Answer {
        self.put_request(put(json))
    }

    fn put_request(&mut self, request: PutRequest) -> Answer {
        validate::validate_put(&request)?;
        let response = self.apply(InternalRaftRequest {
            put: Some(request),
            ..InternalRaftRequest::default()
        })?;
        let Response::Put(mut put) = response else {
            panic!("{response:?}")
        };
        put.header = self.header(put.header.unwrap().revision);
        Ok(put.encode_to_vec())
    }

    fn delete_range(&mut self, json: &Json<'_>) -> Answer {
        let request = delete_range(json);
        validate::validate_delete_range(&request)?;
        let response = self.apply(InternalRaftRequest {
            delete_range: Some(request),
            ..InternalRaftRequest::default()
        })?;
        let Response::DeleteRange(mut delete) = response else {
            panic!("{response:?}")
        };
        delete.header = self.header(delete.header.unwrap().revision);
        Ok(delete.encode_to_vec())
    }

    fn txn(&mut self, json: &Json<'_>) -> Answer {
        let request = txn(json);
        // As it would come from the client.
        let decoded = decode_txn(request.encode_to_vec().into(), MAX_TXN_OPS);
        let checked = validate::validate_txn(&request, MAX_TXN_OPS);
        match decoded {
            Ok(decoded) => assert_eq!(decoded, request),
            Err(error) => assert_eq!(error.request_error(), checked.err()),
        }
        checked?;
        let mut response = if wrap::is_writing(&request) {
            let mut request = request;
            let wrapped = wrap::wrap_direct_ranges(&mut request, false);
            let response = self.apply(InternalRaftRequest {
                txn: Some(request),
                ..InternalRaftRequest::default()
            })?;
            let Response::Txn(mut txn) = response else {
                panic!("{response:?}")
            };
            wrapped.unwrap_response(&mut txn);
            txn
        } else {
            self.store.txn_read_only(&request).unwrap()?
        };
        response.header = self.header(response.header.unwrap().revision);
        Ok(response.encode_to_vec())
    }

    fn compact(&mut self, json: &Json<'_>) -> Answer {
        let request = CompactionRequest {
            revision: json.int("revision"),
            physical: json.flag("physical"),
        };
        self.apply(InternalRaftRequest {
            compaction: Some(request),
            ..InternalRaftRequest::default()
        })?;
        let header = self.header(self.store.revision());
        Ok(CompactionResponse { header }.encode_to_vec())
    }

    fn lease_grant(&mut self, json: &Json<'_>) -> Answer {
        let request = LeaseGrantRequest {
            id: json.int("ID"),
            ttl: json.int("TTL"),
        };
        let response = self.apply(InternalRaftRequest {
            lease_grant: Some(request),
            ..InternalRaftRequest::default()
        })?;
        let Response::LeaseGrant(mut grant) = response else {
            panic!("{response:?}")
        };
        grant.header = self.header(grant.header.unwrap().revision);
        Ok(grant.encode_to_vec())
    }

    fn lease_revoke(&mut self, json: &Json<'_>) -> Answer {
        self.apply(InternalRaftRequest {
            lease_revoke: Some(LeaseRevokeRequest { id: json.int("ID") }),
            ..InternalRaftRequest::default()
        })?;
        let header = self.header(self.store.revision());
        Ok(LeaseRevokeResponse { header }.encode_to_vec())
    }

    fn hash_kv(&mut self, json: &Json<'_>) -> Answer {
        let mut job = self.store.hash_kv(json.int("revision"));
        let hash = loop {
            if let Some(done) = job.step(&self.store, 2).unwrap() {
                break done?;
            }
        };
        Ok(HashKvResponse {
            header: self.header(self.store.revision()),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            ..HashKvResponse::default()
        }
        .encode_to_vec())
    }

    fn step(&mut self, line: &Value) {
        let Some(call) = line["call"].as_str() else {
            self.skipped += 1;
            return;
        };
        let json = Json {
            value: &line["request"],
            index: vec![],
        };
        let picked_id = call == "Lease/LeaseGrant" && json.int("ID") == 0;
        let raw_request = line["request_raw"].as_str();
        let answer = match (picked_id, raw_request) {
            (false, None) => self.unary(call, &json),
            (false, Some(raw)) if call == "KV/Put" => self.raw_put(base64(raw), line),
            _ => None,
        };
        let Some(answer) = answer else {
            self.skipped += 1;
            return;
        };
        let at = format!("{} step {}: {line}", self.name, line["step"]);
        match answer {
            Err(error) => {
                let message = line["error"]["message"].as_str();
                assert_eq!(Some(error.message()), message, "{at}");
                let code = line["error"]["code"].as_i64();
                assert_eq!(Some(i64::from(error.code())), code, "{at}");
            }
            Ok(bytes) => {
                assert!(line["error"].is_null(), "{at}");
                if let Some(raw) = line["raw"].as_str() {
                    assert_eq!(bytes, base64(raw), "{at}");
                } else {
                    assert_eq!(Some(bytes.len() as u64), line["raw_len"].as_u64(), "{at}");
                }
            }
        }
        self.compared += 1;
    }
}

fn replay(name: &str, compared_min: usize) {
    let path = answers().join(format!("{name}.jsonl"));
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: no recording {}", path.display());
        return;
    };
    let mut lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ids = lines.next().unwrap()["ids"].clone();
    let id = |name: &str| ids[name].as_str().unwrap().parse::<u64>().unwrap();
    let options = Options {
        quota_bytes: None,
        ..Options::default()
    };
    let mut session = Session {
        name: name.to_owned(),
        store: Store::create(Pages::in_memory(), options),
        index: 0,
        header: ResponseHeader {
            cluster_id: id("CID"),
            member_id: id("MID"),
            revision: 0,
            raft_term: id("TERM"),
        },
        compared: 0,
        skipped: 0,
    };
    let version = proto::membershippb::ClusterVersionSetRequest {
        ver: "3.5.0".into(),
    };
    session
        .apply(InternalRaftRequest {
            cluster_version_set: Some(Box::new(version)),
            ..InternalRaftRequest::default()
        })
        .unwrap();
    let version = session.store.cluster_version();
    assert_eq!(version, Some(store::ClusterVersion::new(3, 5)));
    for line in lines {
        session.step(&line);
    }
    let Session {
        compared, skipped, ..
    } = session;
    eprintln!("{name}: {compared} compared, {skipped} skipped");
    assert!(compared >= compared_min);
}

#[test]
fn put_delete() {
    replay("01-put-delete", 80);
}

#[test]
fn ranges() {
    replay("02-range", 250);
}

#[test]
fn transactions() {
    replay("03-txn", 340);
}

#[test]
fn compaction() {
    replay("04-compaction", 170);
}

#[test]
fn hash_kv() {
    replay("08b-hashkv", 180);
}

#[test]
fn histories() {
    for name in ["12a-history", "12b-history", "12c-history"] {
        replay(name, 1950);
    }
}
