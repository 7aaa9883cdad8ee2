//! `"Name" : value`, one per line; strings and bytes are quoted.

use std::fmt::{Display, Write};

use proto::{
    etcdserverpb::{
        response_op::Response, DeleteRangeResponse, LeaseTimeToLiveResponse, Member, PutResponse,
        RangeResponse, ResponseHeader, StatusResponse, TxnResponse, WatchResponse,
    },
    mvccpb::{event::EventType, KeyValue},
};

use crate::go::quote;

/// Lines under construction.
#[derive(Default)]
pub struct Fields(String);

impl Fields {
    pub fn field(&mut self, name: &str, value: impl Display) -> &mut Fields {
        let _ = writeln!(self.0, "\"{name}\" : {value}");
        self
    }

    pub fn text(&mut self, name: &str, value: &str) -> &mut Fields {
        self.field(name, quote(value.as_bytes()))
    }

    pub fn header(&mut self, header: Option<&ResponseHeader>) -> &mut Fields {
        let h = header.cloned().unwrap_or_default();
        self.field("ClusterID", h.cluster_id)
            .field("MemberID", h.member_id)
            .field("Revision", h.revision)
            .field("RaftTerm", h.raft_term)
    }

    fn key_value(&mut self, prefix: &str, kv: &KeyValue) -> &mut Fields {
        let name = |field: &str| format!("{prefix}{field}");
        self.field(&name("Key"), quote(&kv.key))
            .field(&name("CreateRevision"), kv.create_revision)
            .field(&name("ModRevision"), kv.mod_revision)
            .field(&name("Version"), kv.version)
            .field(&name("Value"), quote(&kv.value))
            .field(&name("Lease"), kv.lease)
    }

    pub fn end(&mut self) -> String {
        std::mem::take(&mut self.0)
    }
}

pub fn header_only(header: Option<&ResponseHeader>) -> String {
    Fields::default().header(header).end()
}

pub fn get(r: &RangeResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref());
    for kv in &r.kvs {
        out.key_value("", kv);
    }
    out.field("More", r.more).field("Count", r.count).end()
}

pub fn put(r: &PutResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref());
    if let Some(kv) = &r.prev_kv {
        out.key_value("Prev", kv);
    }
    out.end()
}

pub fn del(r: &DeleteRangeResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref()).field("Deleted", r.deleted);
    for kv in &r.prev_kvs {
        out.key_value("Prev", kv);
    }
    out.end()
}

pub fn txn(r: &TxnResponse) -> String {
    let mut out = Fields::default()
        .header(r.header.as_ref())
        .field("Succeeded", r.succeeded)
        .end();
    for op in &r.responses {
        out.push_str(&match &op.response {
            Some(Response::ResponseRange(r)) => get(r),
            Some(Response::ResponsePut(r)) => put(r),
            Some(Response::ResponseDeleteRange(r)) => del(r),
            Some(Response::ResponseTxn(r)) => txn(r),
            None => String::new(),
        });
    }
    out
}

pub fn watch(r: &WatchResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref());
    for event in &r.events {
        let kind = if event.r#type() == EventType::Delete {
            "DELETE"
        } else {
            "PUT"
        };
        out.field("Type", kind);
        if let Some(kv) = &event.prev_kv {
            out.key_value("Prev", kv);
        }
        if let Some(kv) = &event.kv {
            out.key_value("", kv);
        }
    }
    out.end()
}

pub fn lease(header: Option<&ResponseHeader>, id: i64, ttl: i64) -> String {
    Fields::default()
        .header(header)
        .field("ID", id)
        .field("TTL", ttl)
        .end()
}

pub fn lease_time_to_live(r: &LeaseTimeToLiveResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref())
        .field("ID", r.id)
        .field("TTL", r.ttl)
        .field("GrantedTTL", r.granted_ttl);
    for key in &r.keys {
        out.field("Key", quote(key));
    }
    out.end()
}

pub fn lease_list(r: &proto::etcdserverpb::LeaseLeasesResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref());
    for lease in &r.leases {
        out.field("ID", lease.id);
    }
    out.end()
}

pub fn members(header: Option<&ResponseHeader>, members: &[Member]) -> String {
    let mut out = Fields::default();
    out.header(header);
    for m in members {
        out.field("ID", m.id).text("Name", &m.name);
        for url in &m.peer_ur_ls {
            out.text("PeerURL", url);
        }
        for url in &m.client_ur_ls {
            out.text("ClientURL", url);
        }
        out.field("IsLearner", m.is_learner);
        out.0.push('\n');
    }
    out.end()
}

pub fn status(endpoint: &str, r: &StatusResponse) -> String {
    let mut out = Fields::default();
    out.header(r.header.as_ref())
        .text("Version", &r.version)
        .field("DBSize", r.db_size)
        .field("Leader", r.leader)
        .field("IsLearner", r.is_learner)
        .field("RaftIndex", r.raft_index)
        .field("RaftTerm", r.raft_term)
        .field("RaftAppliedIndex", r.raft_applied_index)
        .field("Errors", format!("[{}]", r.errors.join(" ")))
        .text("Endpoint", endpoint);
    out.0.push('\n');
    out.end()
}
