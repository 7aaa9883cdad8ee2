//! The model answers what a real etcd answered: recorded sessions step by step, byte for byte.

use std::collections::BTreeMap;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use prost::Message;
use proto::etcdserverpb as pb;
use ringd_tests::model::{decode_txn, Identity, Limits, Model, Refusal, Request, Response};
use ringd_tests::recording::{differences, received, with_deep_stack, Answer, Ids, Session};
use ringd_tests::wire;
use serde_json::Value;

/// The transport takes requests that are longer than the largest log entry by this much.
const RECEIVE_SLACK_BYTES: usize = 512 * 1024;

/// A recorded session played against the model.
struct Play {
    model: Model,
    ids: Ids,
    streams: BTreeMap<String, OpenStream>,
    report: Vec<String>,
    compared: usize,
}

struct OpenStream {
    number: u64,
    call: String,
    keep_alives: Vec<pb::LeaseKeepAliveRequest>,
}

/// Plays a session; gives the number of answers compared. Calls that the model does not know are passed over.
fn play(name: &'static str, limits: Limits) -> usize {
    with_deep_stack(move || {
        let session = Session::load(name);
        let ids = Ids::recorded(&session.ids);
        let identity = Identity {
            cluster_id: ids.cluster_id,
            member_id: ids.members["MID"],
            raft_term: ids.term,
        };
        let mut play = Play {
            model: Model::new(identity, limits),
            ids,
            streams: BTreeMap::new(),
            report: Vec::new(),
            compared: 0,
        };
        for step in &session.steps {
            play.step(step);
        }
        let report = play.report.join("\n");
        assert!(report.is_empty(), "{name}: differences\n{report}");
        play.compared
    })
}

impl Play {
    fn step(&mut self, step: &Value) {
        if let Some(ms) = step["wait_ms"].as_u64().or(step["silent_ms"].as_u64()) {
            self.model.advance(ms);
        }
        if let Some(call) = step["call"].as_str() {
            let times = step["times"].as_u64().unwrap_or(1);
            for _ in 1..times {
                self.unary(call, step);
            }
            if let Some(answer) = self.unary(call, step) {
                self.compare(step, &answer, call);
            }
        } else if let Some(name) = step["stream"].as_str() {
            self.stream(name, step);
        }
    }

    fn compare(&mut self, step: &Value, answer: &Answer, call: &str) {
        self.compared += 1;
        let response = wire::method(call).response;
        for d in differences(step, answer, Some(&response)) {
            self.report.push(format!(
                "step {} {call}: {} differs\n  request  {}\n  recorded {}\n  got      {}",
                step["step"], d.field, step["request"], d.recorded, d.got
            ));
        }
    }

    fn unary(&mut self, call: &str, step: &Value) -> Option<Answer> {
        let method = wire::method(call);
        let bytes = match step["request_raw"].as_str() {
            Some(raw) => BASE64.decode(raw).expect("base64"),
            None => wire::encode(&method.request, &step["request"], &self.ids),
        };
        let limit = self.model.limits().request_bytes_max + RECEIVE_SLACK_BYTES;
        if bytes.len() > limit {
            let n = bytes.len();
            let message = format!("grpc: received message larger than max ({n} vs. {limit})");
            return Some(self.ids.error(8, &message));
        }
        let request = decode(call, &bytes)?;
        Some(match self.model.call(&request) {
            Ok(response) => self.ids.message(&method.response, &encode(&response)),
            Err(Refusal { code, message }) => self.ids.error(code, &message),
        })
    }

    fn stream(&mut self, name: &str, step: &Value) {
        if let Some(call) = step["open"].as_str() {
            let stream = OpenStream {
                number: self.streams.len() as u64,
                call: call.to_owned(),
                keep_alives: Vec::new(),
            };
            self.streams.insert(name.to_owned(), stream);
            return;
        }
        let stream = self.streams.get_mut(name).expect("an open stream");
        let (number, call) = (stream.number, stream.call.clone());
        if step.get("cancel").is_some() {
            self.model.close_watch(number);
        }
        if let Some(request) = step.get("send") {
            let bytes = wire::encode(&wire::method(&call).request, request, &self.ids);
            if call == "Watch/Watch" {
                let request = pb::WatchRequest::decode(&bytes[..]).expect("a watch request");
                self.model.watch(number, &request);
            } else if call == "Lease/LeaseKeepAlive" {
                let request = pb::LeaseKeepAliveRequest::decode(&bytes[..]).expect("a keep-alive");
                stream.keep_alives.push(request);
            }
        }
        let Some(count) = step["receive"].as_u64() else {
            return;
        };
        let mut answers = Vec::new();
        for _ in 0..count {
            let message = match call.as_str() {
                "Watch/Watch" => self.watch_next(number).map(|m| m.encode_to_vec()),
                "Lease/LeaseKeepAlive" => self.keep_alive(name),
                _ => return,
            };
            answers.extend(message.map(|m| self.ids.message(&wire::method(&call).response, &m)));
        }
        if step["order"] == "watch_id" {
            answers.sort_by_key(|a| {
                let id = a["response"]["watch_id"].as_str();
                id.map_or(0, |id| id.parse::<i64>().expect("a number"))
            });
        }
        let answer = received(&answers);
        self.compare(step, &answer, &call);
    }

    /// A recorded message that nothing caused comes from a lease that ended.
    fn watch_next(&mut self, stream: u64) -> Option<pb::WatchResponse> {
        loop {
            let message = self.model.watch_next(stream);
            if message.is_some() || !self.model.expire_next() {
                return message;
            }
        }
    }

    fn keep_alive(&mut self, name: &str) -> Option<Vec<u8>> {
        let waiting = &mut self.streams.get_mut(name)?.keep_alives;
        if waiting.is_empty() {
            return None;
        }
        let request = Request::LeaseKeepAlive(waiting.remove(0));
        Some(encode(&self.model.call(&request).ok()?))
    }
}

/// `None` for what the model does not know, and for bytes that are no request.
fn decode(call: &str, bytes: &[u8]) -> Option<Request> {
    fn of<M: Message + Default>(bytes: &[u8], request: fn(M) -> Request) -> Option<Request> {
        M::decode(bytes).ok().map(request)
    }
    match call {
        "KV/Range" => of(bytes, Request::Range),
        "KV/Put" => of(bytes, Request::Put),
        "KV/DeleteRange" => of(bytes, Request::DeleteRange),
        "KV/Txn" => decode_txn(bytes).map(Request::Txn),
        "KV/Compact" => of(bytes, Request::Compact),
        "Lease/LeaseGrant" => of(bytes, Request::LeaseGrant),
        "Lease/LeaseRevoke" => of(bytes, Request::LeaseRevoke),
        "Lease/LeaseTimeToLive" => of(bytes, Request::LeaseTimeToLive),
        "Lease/LeaseLeases" => of(bytes, Request::LeaseLeases),
        "Maintenance/HashKV" => of(bytes, Request::HashKv),
        "Maintenance/Alarm" => of(bytes, Request::Alarm),
        _ => None,
    }
}

fn encode(response: &Response) -> Vec<u8> {
    match response {
        Response::Range(r) => r.encode_to_vec(),
        Response::Put(r) => r.encode_to_vec(),
        Response::DeleteRange(r) => r.encode_to_vec(),
        Response::Txn(r) => r.encode_to_vec(),
        Response::Compact(r) => r.encode_to_vec(),
        Response::LeaseGrant(r) => r.encode_to_vec(),
        Response::LeaseRevoke(r) => r.encode_to_vec(),
        Response::LeaseKeepAlive(r) => r.encode_to_vec(),
        Response::LeaseTimeToLive(r) => r.encode_to_vec(),
        Response::LeaseLeases(r) => r.encode_to_vec(),
        Response::HashKv(r) => r.encode_to_vec(),
        Response::Alarm(r) => r.encode_to_vec(),
    }
}

/// A test per session; the number is how many answers must have been compared at least.
macro_rules! sessions {
    ($($test:ident: $name:literal, at least $count:literal;)*) => {$(
        #[test]
        fn $test() {
            let compared = play($name, Limits::default());
            assert!(compared >= $count, "only {compared} answers were compared");
        }
    )*};
}

sessions! {
    put_delete: "01-put-delete", at least 90;
    range: "02-range", at least 258;
    txn: "03-txn", at least 345;
    compaction: "04-compaction", at least 188;
    watch: "05-watch", at least 190;
    watch_batches: "05b-watch-batches", at least 8;
    lease: "06-lease", at least 90;
    lease_list: "06b-lease-list", at least 20;
    maintenance: "08-maintenance", at least 20;
    hash_kv: "08b-hashkv", at least 186;
    history_a: "12a-history", at least 2041;
    history_b: "12b-history", at least 2041;
    history_c: "12c-history", at least 2041;
}

#[test]
fn limits() {
    let compared = play("11-limits", Limits::default());
    assert!(compared >= 60, "only {compared} answers were compared");
}

#[test]
fn small_limits() {
    let limits = Limits {
        txn_ops_max: 4,
        request_bytes_max: 20_000,
        ..Default::default()
    };
    let compared = play("11b-small-limits", limits);
    assert!(compared >= 15, "only {compared} answers were compared");
}

#[test]
fn quota() {
    let limits = Limits {
        quota_bytes: 1 << 20,
        // A value of 300 KB is written first, and a file does not shrink by itself.
        file_bytes: 600_000,
        ..Default::default()
    };
    let compared = play("10-quota", limits);
    assert!(compared >= 50, "only {compared} answers were compared");
}
