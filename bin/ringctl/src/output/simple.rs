//! The default format: what a person reads, and what scripts cut.

use proto::{
    etcdserverpb::{
        response_op::Response, DeleteRangeResponse, LeaseTimeToLiveResponse, Member, PutResponse,
        RangeResponse, StatusResponse, TxnResponse, WatchResponse,
    },
    mvccpb::{event::EventType, KeyValue},
};

use crate::go;

/// How keys and values are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    pub hex: bool,
    pub values_only: bool,
}

impl Style {
    fn line(self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.hex {
            bytes
                .iter()
                .for_each(|byte| out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()));
        } else {
            out.extend_from_slice(bytes);
        }
        out.push(b'\n');
    }

    fn key_value(self, kv: &KeyValue, out: &mut Vec<u8>) {
        if !self.values_only {
            self.line(&kv.key, out);
        }
        self.line(&kv.value, out);
    }
}

pub fn get(r: &RangeResponse, style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    r.kvs.iter().for_each(|kv| style.key_value(kv, &mut out));
    out
}

pub fn put(r: &PutResponse, style: Style) -> Vec<u8> {
    let mut out = b"OK\n".to_vec();
    if let Some(kv) = &r.prev_kv {
        style.key_value(kv, &mut out);
    }
    out
}

pub fn del(r: &DeleteRangeResponse, style: Style) -> Vec<u8> {
    let mut out = format!("{}\n", r.deleted).into_bytes();
    r.prev_kvs
        .iter()
        .for_each(|kv| style.key_value(kv, &mut out));
    out
}

/// Each response is preceded by an empty line.
pub fn txn(r: &TxnResponse, style: Style) -> Vec<u8> {
    let mut out = if r.succeeded {
        b"SUCCESS\n".to_vec()
    } else {
        b"FAILURE\n".to_vec()
    };
    for op in &r.responses {
        out.push(b'\n');
        out.extend(match &op.response {
            Some(Response::ResponseRange(r)) => get(r, style),
            Some(Response::ResponsePut(r)) => put(r, style),
            Some(Response::ResponseDeleteRange(r)) => del(r, style),
            Some(Response::ResponseTxn(r)) => txn(r, style),
            None => Vec::new(),
        });
    }
    out
}

pub fn watch(r: &WatchResponse, style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    for event in &r.events {
        let kind: &[u8] = if event.r#type() == EventType::Delete {
            b"DELETE\n"
        } else {
            b"PUT\n"
        };
        out.extend_from_slice(kind);
        for kv in event.prev_kv.iter().chain(&event.kv) {
            style.key_value(kv, &mut out);
        }
    }
    out
}

pub fn lease_time_to_live(r: &LeaseTimeToLiveResponse, with_keys: bool) -> String {
    if r.granted_ttl == 0 {
        return format!("lease {:016x} already expired\n", r.id);
    }
    let mut text = format!(
        "lease {:016x} granted with TTL({}s), remaining({}s)",
        r.id, r.granted_ttl, r.ttl
    );
    if with_keys {
        let keys: Vec<_> = r
            .keys
            .iter()
            .map(|key| String::from_utf8_lossy(key))
            .collect();
        text.push_str(&format!(", attached keys([{}])", keys.join(" ")));
    }
    text.push('\n');
    text
}

/// The cells of a member's row.
pub fn member_row(m: &Member) -> Vec<String> {
    let status = if m.name.is_empty() {
        "unstarted"
    } else {
        "started"
    };
    vec![
        format!("{:x}", m.id),
        status.into(),
        m.name.clone(),
        m.peer_ur_ls.join(","),
        m.client_ur_ls.join(","),
        m.is_learner.to_string(),
    ]
}

/// The cells of an endpoint's row.
pub fn status_row(endpoint: &str, r: &StatusResponse) -> Vec<String> {
    let id = r.header.as_ref().map_or(0, |h| h.member_id);
    vec![
        endpoint.to_owned(),
        format!("{id:x}"),
        r.version.clone(),
        go::size(u64::try_from(r.db_size).unwrap_or(0)),
        (r.leader == id).to_string(),
        r.is_learner.to_string(),
        r.raft_term.to_string(),
        r.raft_index.to_string(),
        r.raft_applied_index.to_string(),
        r.errors.join(", "),
    ]
}

/// Rows with cells separated by comma and blank.
pub fn rows(rows: &[Vec<String>]) -> String {
    rows.iter()
        .map(|row| format!("{}\n", row.join(", ")))
        .collect()
}
