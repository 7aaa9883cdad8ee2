//! Messages as Go's encoding/json prints etcd's structs: snake case, zero fields left out, bytes in base64, 64-bit
//! integers as numbers.

use base64::{engine::general_purpose::STANDARD, Engine as _};
use proto::{
    etcdserverpb::{
        response_op::Response, DeleteRangeResponse, HashKvResponse, LeaseKeepAliveResponse,
        LeaseTimeToLiveResponse, Member, PutResponse, RangeResponse, ResponseHeader,
        StatusResponse, TxnResponse, WatchResponse,
    },
    mvccpb::{Event, KeyValue},
};

/// An object under construction. Zero values are left out unless they are added with `raw`.
pub struct Object(String);

impl Default for Object {
    fn default() -> Self {
        Object::new()
    }
}

impl Object {
    pub fn new() -> Object {
        Object("{".into())
    }

    pub fn raw(mut self, name: &str, json: impl AsRef<str>) -> Object {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{}", json.as_ref()));
        self
    }

    pub fn number(self, name: &str, value: impl Into<i128>) -> Object {
        match value.into() {
            0 => self,
            value => self.raw(name, value.to_string()),
        }
    }

    pub fn bool(self, name: &str, value: bool) -> Object {
        if value {
            self.raw(name, "true")
        } else {
            self
        }
    }

    pub fn text(self, name: &str, value: &str) -> Object {
        if value.is_empty() {
            self
        } else {
            self.raw(name, string(value))
        }
    }

    pub fn bytes(self, name: &str, value: &[u8]) -> Object {
        if value.is_empty() {
            self
        } else {
            self.raw(name, bytes(value))
        }
    }

    pub fn list(self, name: &str, items: impl IntoIterator<Item = String>) -> Object {
        let list = array(items);
        if list == "[]" {
            self
        } else {
            self.raw(name, list)
        }
    }

    pub fn header(self, header: Option<&ResponseHeader>) -> Object {
        match header {
            Some(header) => self.raw("header", header_object(header, false).end()),
            None => self,
        }
    }

    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

pub fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

fn bytes(value: &[u8]) -> String {
    format!("\"{}\"", STANDARD.encode(value))
}

/// A string with Go's escapes, which include those for HTML.
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", c as u32))
            }
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn id(value: u64, hex: bool) -> String {
    if hex {
        format!("\"{value:x}\"")
    } else {
        value.to_string()
    }
}

fn header_object(header: &ResponseHeader, hex: bool) -> Object {
    let object = if hex {
        Object::new()
            .raw("cluster_id", id(header.cluster_id, true))
            .raw("member_id", id(header.member_id, true))
    } else {
        Object::new()
            .number("cluster_id", header.cluster_id)
            .number("member_id", header.member_id)
    };
    object
        .number("revision", header.revision)
        .number("raft_term", header.raft_term)
}

pub fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

pub fn header_only(header: Option<&ResponseHeader>) -> String {
    Object::new().header(header).end()
}

pub fn get(r: &RangeResponse) -> String {
    Object::new()
        .header(r.header.as_ref())
        .list("kvs", r.kvs.iter().map(key_value))
        .bool("more", r.more)
        .number("count", r.count)
        .end()
}

pub fn put(r: &PutResponse) -> String {
    let object = Object::new().header(r.header.as_ref());
    match &r.prev_kv {
        Some(kv) => object.raw("prev_kv", key_value(kv)).end(),
        None => object.end(),
    }
}

pub fn del(r: &DeleteRangeResponse) -> String {
    Object::new()
        .header(r.header.as_ref())
        .number("deleted", r.deleted)
        .list("prev_kvs", r.prev_kvs.iter().map(key_value))
        .end()
}

pub fn txn(r: &TxnResponse) -> String {
    let response = |op: &proto::etcdserverpb::ResponseOp| {
        let inner = match &op.response {
            Some(Response::ResponseRange(r)) => Object::new().raw("response_range", get(r)).end(),
            Some(Response::ResponsePut(r)) => Object::new().raw("response_put", put(r)).end(),
            Some(Response::ResponseDeleteRange(r)) => {
                Object::new().raw("response_delete_range", del(r)).end()
            }
            Some(Response::ResponseTxn(r)) => Object::new().raw("response_txn", txn(r)).end(),
            None => "null".into(),
        };
        Object::new().raw("Response", inner).end()
    };
    Object::new()
        .header(r.header.as_ref())
        .bool("succeeded", r.succeeded)
        .list("responses", r.responses.iter().map(response))
        .end()
}

fn event(event: &Event) -> String {
    let mut object = Object::new().number("type", event.r#type);
    if let Some(kv) = &event.kv {
        object = object.raw("kv", key_value(kv));
    }
    if let Some(kv) = &event.prev_kv {
        object = object.raw("prev_kv", key_value(kv));
    }
    object.end()
}

pub fn watch(r: &WatchResponse) -> String {
    let header = r
        .header
        .as_ref()
        .map_or("{}".into(), |h| header_object(h, false).end());
    Object::new()
        .raw("Header", header)
        .raw("Events", array(r.events.iter().map(event)))
        .raw("CompactRevision", r.compact_revision.to_string())
        .raw("Canceled", r.canceled.to_string())
        .raw("Created", r.created.to_string())
        .end()
}

/// Lease responses carry the header's fields beside their own.
fn lease(header: Option<&ResponseHeader>) -> Object {
    let h = header.cloned().unwrap_or_default();
    header_object(&h, false)
}

pub fn lease_grant(r: &proto::etcdserverpb::LeaseGrantResponse) -> String {
    lease(r.header.as_ref())
        .raw("ID", r.id.to_string())
        .raw("TTL", r.ttl.to_string())
        .raw("Error", string(&r.error))
        .end()
}

pub fn lease_keep_alive(r: &LeaseKeepAliveResponse) -> String {
    lease(r.header.as_ref())
        .raw("ID", r.id.to_string())
        .raw("TTL", r.ttl.to_string())
        .end()
}

/// `keys` is null when they were not asked for.
pub fn lease_time_to_live(r: &LeaseTimeToLiveResponse, with_keys: bool) -> String {
    let keys = match with_keys && !r.keys.is_empty() {
        true => array(r.keys.iter().map(|key| bytes(key))),
        false => "null".into(),
    };
    lease(r.header.as_ref())
        .raw("id", r.id.to_string())
        .raw("ttl", r.ttl.to_string())
        .raw("granted-ttl", r.granted_ttl.to_string())
        .raw("keys", keys)
        .end()
}

pub fn lease_list(r: &proto::etcdserverpb::LeaseLeasesResponse) -> String {
    let one =
        |l: &proto::etcdserverpb::LeaseStatus| Object::new().raw("id", l.id.to_string()).end();
    lease(r.header.as_ref())
        .raw("leases", array(r.leases.iter().map(one)))
        .end()
}

fn member(m: &Member) -> String {
    Object::new()
        .number("ID", m.id)
        .text("name", &m.name)
        .list("peerURLs", m.peer_ur_ls.iter().map(|u| string(u)))
        .list("clientURLs", m.client_ur_ls.iter().map(|u| string(u)))
        .bool("isLearner", m.is_learner)
        .end()
}

/// A response of the membership calls: the member, where there is one, and all members.
pub fn members(header: Option<&ResponseHeader>, added: Option<&Member>, all: &[Member]) -> String {
    let mut object = Object::new().header(header);
    if let Some(added) = added {
        object = object.raw("member", member(added));
    }
    object.list("members", all.iter().map(member)).end()
}

/// With `--hex` identifiers are strings, and one key is spelled as etcdctl 3.5 spells it.
pub fn members_hex(header: Option<&ResponseHeader>, all: &[Member]) -> String {
    let member = |m: &Member| {
        let urls = |urls: &[String]| array(urls.iter().map(|u| string(u)));
        let mut object = Object::new()
            .raw("ID", id(m.id, true))
            .text("name", &m.name);
        object = object
            .raw("peerURLs", urls(&m.peer_ur_ls))
            .raw("clientURLS", urls(&m.client_ur_ls));
        object.bool("isLearner", m.is_learner).end()
    };
    let header = header.map_or("{}".into(), |h| header_object(h, true).end());
    Object::new()
        .raw("header", header)
        .raw("members", array(all.iter().map(member)))
        .end()
}

pub fn status(r: &StatusResponse) -> String {
    Object::new()
        .header(r.header.as_ref())
        .text("version", &r.version)
        .number("dbSize", r.db_size)
        .number("leader", r.leader)
        .number("raftIndex", r.raft_index)
        .number("raftTerm", r.raft_term)
        .number("raftAppliedIndex", r.raft_applied_index)
        .list("errors", r.errors.iter().map(|e| string(e)))
        .number("dbSizeInUse", r.db_size_in_use)
        .bool("isLearner", r.is_learner)
        .end()
}

pub fn hash_kv(r: &HashKvResponse) -> String {
    Object::new()
        .header(r.header.as_ref())
        .number("hash", r.hash)
        .number("compact_revision", r.compact_revision)
        .end()
}
