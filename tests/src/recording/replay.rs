//! Replays a recorded session against a running server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use bytes::Bytes;
use prost::Message as _;
use proto::etcdserverpb as pb;
use protox::prost_reflect::MessageDescriptor;
use serde_json::{json, Value};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::{differences, Answer, Difference, Ids, Session};
use crate::model::Refusal;
use crate::server::POLL;
use crate::transport::{Connection, Extras, Stream};
use crate::wire;

/// How long to wait for an answer or a stream's next message.
const WAIT: Duration = Duration::from_secs(20);
/// How long a call must stay unanswered to be recorded as pending.
const PENDING: Duration = Duration::from_millis(300);
const SNAPSHOT_CHUNK_BYTES: usize = 32_768;
const PAGE_BYTES: usize = 4096;

type Reply = Result<Bytes, Refusal>;

struct Replay {
    /// One per member, in the order of the recording's endpoints.
    connections: Vec<Connection>,
    ids: Ids,
    streams: BTreeMap<String, (String, Stream)>,
    pending: BTreeMap<String, (String, JoinHandle<Reply>)>,
}

/// A step that was answered differently.
#[derive(Debug)]
pub struct Deviation {
    pub step: u64,
    pub what: String,
    pub difference: Difference,
}

/// Plays all steps against the members behind `connections`, which must be fresh and started with the session's flags; the
/// first of several must lead.
pub async fn replay(session: &Session, connections: Vec<Connection>) -> Vec<Deviation> {
    let mut replay = Replay::new(session, connections).await;
    let mut deviations = Vec::new();
    for step in &session.steps {
        let message = replay.message_of(step);
        let answer = replay.run(step).await;
        for difference in differences(step, &answer, message.as_ref()) {
            deviations.push(Deviation {
                step: step["step"].as_u64().expect("steps are numbered"),
                what: describe(step),
                difference,
            });
        }
    }
    deviations
}

fn describe(step: &Value) -> String {
    let kept = [
        "call", "path", "request", "stream", "receive", "start", "await", "http", "endpoint",
    ];
    let parts = kept.iter().filter_map(|f| Some((*f, step.get(*f)?)));
    parts.map(|(f, v)| format!("{f} {v} ")).collect()
}

/// Member ids and ports matter to a session, so they are learnt from the members themselves.
async fn learn(connections: &[Connection], recorded: &Value) -> Ids {
    let mut ids = Ids::recorded(recorded);
    ids.members.clear();
    ids.texts.clear();
    for (index, connection) in connections.iter().enumerate() {
        let status: pb::StatusResponse = ask(connection, "Maintenance/Status").await;
        let header = status.header.expect("a header");
        if index == 0 {
            ids.cluster_id = header.cluster_id;
            ids.term = header.raft_term;
        }
        let number = match connections.len() {
            1 => String::new(),
            _ => (index + 1).to_string(),
        };
        // A learner does not tell the members.
        let member = published_member(&connections[0], header.member_id).await;
        ids.members.insert(format!("MID{number}"), header.member_id);
        let [peer, client] = [&member.peer_ur_ls[0], &member.client_ur_ls[0]];
        ids.texts.insert(format!("PEERURL{number}"), peer.clone());
        ids.texts
            .insert(format!("CLIENTURL{number}"), client.clone());
    }
    ids
}

async fn ask<M: prost::Message + Default>(connection: &Connection, method: &str) -> M {
    let path = format!("/etcdserverpb.{method}");
    let reply = connection
        .unary(&path, Bytes::new(), &Extras::default())
        .await;
    let reply = reply.unwrap_or_else(|e| panic!("{method} failed: {e:?}"));
    M::decode(reply).expect("the answer is a message")
}

/// A member, once it has told its client URLs.
async fn published_member(connection: &Connection, id: u64) -> pb::Member {
    let end = Instant::now() + WAIT;
    loop {
        let list: pb::MemberListResponse = ask(connection, "Cluster/MemberList").await;
        let mut members = list.members.into_iter();
        let member = members.find(|m| m.id == id).expect("the member");
        if !member.client_ur_ls.is_empty() {
            return member;
        }
        assert!(Instant::now() < end, "the member does not tell its URLs");
        tokio::time::sleep(POLL).await;
    }
}

impl Replay {
    async fn new(session: &Session, connections: Vec<Connection>) -> Self {
        Self {
            ids: learn(&connections, &session.ids).await,
            connections,
            streams: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    /// The member that a step asks.
    fn connection(&self, step: &Value) -> &Connection {
        let endpoint = step["endpoint"].as_u64().unwrap_or(1);
        let index = usize::try_from(endpoint - 1).expect("a small number");
        &self.connections[index]
    }

    /// What the answer's bytes are.
    fn message_of(&self, step: &Value) -> Option<MessageDescriptor> {
        let call = if let Some(call) = step["call"].as_str() {
            call
        } else if let Some(name) = step["await"].as_str() {
            &self.pending.get(name)?.0
        } else {
            &self.streams.get(step["stream"].as_str()?)?.0
        };
        Some(wire::method(call).response)
    }

    async fn run(&mut self, step: &Value) -> Answer {
        if let Some(ms) = step["wait_ms"].as_u64() {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            return Answer::new();
        }
        if let Some(name) = step["stream"].as_str() {
            return self.stream(name.to_owned(), step).await;
        }
        if let Some(name) = step["await"].as_str() {
            let (call, task) = self.pending.remove(name).expect("a started call");
            if step.get("cancel").is_some() {
                task.abort();
                return self.ids.error(1, "(cancelled by the caller)");
            }
            let reply = task.await.expect("a call does not panic");
            return self.answer(Some(&call), step, reply);
        }
        let call = step["call"].as_str();
        let path = match step["path"].as_str() {
            Some(path) => path.to_owned(),
            None => wire::method(call.expect("a call or a path")).path,
        };
        let body = self.body(step);
        let extras = self.extras(step);
        let connection = self.connection(step).clone();
        for _ in 1..step["times"].as_u64().unwrap_or(1) {
            let _ = connection.unary(&path, body.clone(), &extras).await;
        }
        let Some(name) = step["start"].as_str() else {
            let reply = connection.unary(&path, body, &extras).await;
            return self.answer(call, step, reply);
        };
        let task = tokio::spawn(async move { connection.unary(&path, body, &extras).await });
        tokio::time::sleep(PENDING).await;
        let pending = !task.is_finished();
        let call = call.expect("a started call has a method").to_owned();
        self.pending.insert(name.to_owned(), (call, task));
        Answer::from_iter([("pending".to_owned(), json!(pending))])
    }

    fn body(&self, step: &Value) -> Bytes {
        if let Some(raw) = step["request_raw"].as_str() {
            return BASE64.decode(raw).expect("base64").into();
        }
        let method = wire::method(step["call"].as_str().expect("a call"));
        wire::encode(&method.request, &step["request"], &self.ids).into()
    }

    fn extras(&self, step: &Value) -> Extras {
        let metadata = step["metadata"].as_object().into_iter().flatten();
        let seconds = step["timeout_s"].as_f64();
        Extras {
            metadata: metadata
                .map(|(k, v)| (k.clone(), v.as_str().expect("text").to_owned()))
                .collect(),
            gzip: step["compression"] == "gzip",
            deadline: Some(seconds.map_or(WAIT, Duration::from_secs_f64)),
        }
    }

    fn answer(&mut self, call: Option<&str>, step: &Value, reply: Reply) -> Answer {
        let bytes = match reply {
            Ok(bytes) => bytes,
            Err(Refusal { code, message }) => return self.ids.error(code, &message),
        };
        let Some(call) = call else {
            return Answer::from_iter([("raw".to_owned(), json!(BASE64.encode(bytes)))]);
        };
        if let Some(name) = step["save_member"].as_str() {
            let added = pb::MemberAddResponse::decode(bytes.clone()).expect("an added member");
            let id = added.member.expect("an added member").id;
            self.ids.members.insert(name.to_owned(), id);
        }
        self.ids.message(&wire::method(call).response, &bytes)
    }

    async fn stream(&mut self, name: String, step: &Value) -> Answer {
        if let Some(call) = step["open"].as_str() {
            let only = step.get("request").map(|request| {
                wire::encode(&wire::method(call).request, request, &self.ids).into()
            });
            let path = wire::method(call).path;
            let extras = self.extras(step);
            let stream = self.connection(step).stream(&path, only, &extras);
            self.streams.insert(name, (call.to_owned(), stream));
            return Answer::new();
        }
        if step.get("cancel").is_some() {
            self.streams.remove(&name);
            return Answer::new();
        }
        let (call, stream) = self.streams.get_mut(&name).expect("an open stream");
        let method = wire::method(call);
        if let Some(request) = step.get("send") {
            stream.send(wire::encode(&method.request, request, &self.ids).into());
        } else if step.get("half_close").is_some() {
            stream.half_close();
        } else if let Some(ms) = step["silent_ms"].as_u64() {
            let heard = stream.next(Duration::from_millis(ms)).await;
            let messages: Value = heard
                .map(|m| self.ids.heard(&method.response, m))
                .into_iter()
                .map(Value::Object)
                .collect();
            return Answer::from_iter([("messages".to_owned(), messages)]);
        } else if step.get("end").is_some() {
            return match stream.next(WAIT).await {
                Some(Err(Refusal { code, message })) => self.ids.error(code, &message),
                Some(Ok(bytes)) => self.ids.message(&method.response, &bytes),
                None => Answer::from_iter([("error".to_owned(), json!("the stream did not end"))]),
            };
        } else if step.get("framing").is_some() {
            return snapshot_framing(stream).await;
        } else if let Some(count) = step["receive"].as_u64() {
            return self.receive(&name, &method.response, count, step).await;
        }
        Answer::new()
    }

    async fn receive(
        &mut self,
        name: &str,
        message: &MessageDescriptor,
        count: u64,
        step: &Value,
    ) -> Answer {
        let (_, stream) = self.streams.get_mut(name).expect("an open stream");
        let mut got = Vec::new();
        for _ in 0..count {
            let Some(heard) = stream.next(WAIT).await else {
                break;
            };
            let ended = heard.is_err();
            got.push(self.ids.heard(message, heard));
            if ended {
                break;
            }
        }
        if step["order"] == "watch_id" {
            got.sort_by_key(|answer| {
                let id = answer.get("response").and_then(|r| r["watch_id"].as_str());
                id.map_or(0, |id| id.parse::<i64>().expect("a number"))
            });
        }
        received(&got)
    }
}

/// Several messages as one answer.
pub fn received(messages: &[Answer]) -> Answer {
    let raw = messages.iter().map(|m| match m.get("raw") {
        Some(raw) => raw.clone(),
        None => json!({"len": m.get("raw_len"), "sha256": m.get("raw_sha256")}),
    });
    let content = messages.iter().map(|m| match m.get("response") {
        Some(response) => response.clone(),
        None => Value::Object(m.clone()),
    });
    Answer::from_iter([
        ("raw".to_owned(), raw.collect()),
        ("messages".to_owned(), content.collect()),
    ])
}

impl Ids {
    fn heard(&self, message: &MessageDescriptor, heard: Reply) -> Answer {
        match heard {
            Ok(bytes) => self.message(message, &bytes),
            Err(Refusal { code, message }) => self.error(code, &message),
        }
    }
}

/// The shape of a snapshot stream; its content is the server's own.
async fn snapshot_framing(stream: &mut Stream) -> Answer {
    let mut parts = Vec::new();
    let end = loop {
        match stream.next(WAIT).await {
            Some(Ok(bytes)) => {
                parts.push(pb::SnapshotResponse::decode(bytes).expect("a part of a snapshot"));
            }
            Some(Err(Refusal { code, message })) => {
                break json!({"error": {"code": code, "message": message}});
            }
            None => break json!("the stream did not end"),
        }
    };
    let Some((last, data)) = parts.split_last() else {
        return Answer::from_iter([("framing".to_owned(), json!({"end": end}))]);
    };
    let total: usize = data.iter().map(|p| p.blob.len()).sum();
    let mut digest = Sha256::new();
    let mut sent = 0;
    let mut remaining_fits = true;
    for part in data {
        digest.update(&part.blob);
        sent += part.blob.len();
        remaining_fits &= part.remaining_bytes == (total - sent) as u64;
    }
    let full = data.iter().rev().skip(1);
    let framing = json!({
        "data_chunks_are_32768_but_the_last": full.clone().all(|p| p.blob.len() == SNAPSHOT_CHUNK_BYTES)
            && data.last().is_none_or(|p| (1..=SNAPSHOT_CHUNK_BYTES).contains(&p.blob.len())),
        "remaining_is_total_minus_sent_with_this": remaining_fits,
        "last_message_blob": last.blob.len(),
        "last_message_remaining": last.remaining_bytes,
        "last_blob_is_sha256_of_all_before": digest.finalize()[..] == last.blob[..],
        "messages_with_header": parts.iter().filter(|p| p.header.is_some()).count(),
        "total_is_multiple_of_4096": total % PAGE_BYTES == 0,
        "end": end,
    });
    Answer::from_iter([("framing".to_owned(), framing)])
}
