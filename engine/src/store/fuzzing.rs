//! What the fuzz targets of requests call, and an ordinary test replays.
//!
//! No input may panic, loop, or cost more memory than its own size explains; what is decoded means the same when it is
//! encoded and decoded again; and the same entries make the same store whatever was resident.

use super::{decode_internal_request, decode_txn, validate, Applied, ApplyError, Options, Payload};
use super::{DecodeError, Store};
use crate::page::{Options as PageOptions, Pages, SimFile};
use crate::store::meta::LogMark;
use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use std::sync::Arc;

/// Operations of a transaction, as the server's default.
const TXN_OPS_MAX: usize = 128;
/// Entries of one input.
const ENTRIES_MAX: usize = 64;
/// Fetches that a step may ask for.
const ROUNDS_MAX: usize = 1_000;

/// A message that the generated code decodes: encoded again it is the same message.
fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(input: &Bytes) -> Option<M> {
    let message = M::decode(input.clone()).ok()?;
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    let again = M::decode(Bytes::from(bytes)).expect("what was encoded can be decoded");
    assert_eq!(message, again);
    Some(message)
}

type Target = fn(&Bytes);

macro_rules! messages {
    ($($message:ident),* $(,)?) => {
        &[$(|input| {
            let _ = round_trip::<pb::$message>(input);
        }),*]
    };
}

/// Requests without checks of their own.
const PLAIN: &[Target] = messages![
    CompactionRequest,
    WatchRequest,
    LeaseRevokeRequest,
    LeaseKeepAliveRequest,
    LeaseTimeToLiveRequest,
    LeaseLeasesRequest,
    LeaseCheckpointRequest,
    MemberAddRequest,
    MemberRemoveRequest,
    MemberUpdateRequest,
    MemberListRequest,
    MemberPromoteRequest,
    StatusRequest,
    DefragmentRequest,
    HashRequest,
    HashKvRequest,
    SnapshotRequest,
    MoveLeaderRequest,
    DowngradeRequest,
    AuthEnableRequest,
    AuthDisableRequest,
    AuthStatusRequest,
    AuthenticateRequest,
    AuthUserAddRequest,
    AuthUserGetRequest,
    AuthUserDeleteRequest,
    AuthUserListRequest,
    AuthUserChangePasswordRequest,
    AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
    AuthRoleAddRequest,
    AuthRoleGetRequest,
    AuthRoleListRequest,
    AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest,
];

/// The body of any request: the first byte says whose.
pub fn grpc_proto(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let input = Bytes::copy_from_slice(rest);
    match kind {
        0 => {
            if let Some(range) = round_trip::<pb::RangeRequest>(&input) {
                let _ = validate::validate_range(&range);
                let _ = validate::validate_sort_order(&range);
            }
        }
        1 => {
            if let Some(put) = round_trip::<pb::PutRequest>(&input) {
                let _ = (validate::validate_put(&put), super::quota::put_cost(&put));
            }
        }
        2 => {
            if let Some(delete) = round_trip::<pb::DeleteRangeRequest>(&input) {
                let _ = validate::validate_delete_range(&delete);
            }
        }
        3 => txn(&input),
        4 => {
            if let Some(grant) = round_trip::<pb::LeaseGrantRequest>(&input) {
                let _ = validate::validate_lease_grant(&grant);
            }
        }
        5 => {
            if let Some(alarm) = round_trip::<pb::AlarmRequest>(&input) {
                let _ = validate::validate_alarm(&alarm);
            }
        }
        6 => entry(&input),
        kind => PLAIN[usize::from(*kind) % PLAIN.len()](&input),
    }
}

/// Our decoder of transactions against the generated one, where that goes deep enough.
fn txn(input: &Bytes) {
    let ours = decode_txn(input.clone(), TXN_OPS_MAX);
    match (&ours, pb::TxnRequest::decode(input.clone())) {
        (Ok(ours), Ok(theirs)) => assert_eq!(*ours, theirs),
        // It counts while it decodes, and so may stop before it meets what is malformed.
        (Err(DecodeError::TooManyOps), _) => {}
        (Err(error), Ok(theirs)) => panic!("{error}: {theirs:?}"),
        (Ok(_), Err(error)) => assert!(error.to_string().contains("recursion"), "{error}"),
        (Err(_), Err(_)) => {}
    }
    if let Ok(txn) = ours {
        let _ = (
            validate::validate_txn(&txn, TXN_OPS_MAX),
            super::quota::txn_cost(&txn),
        );
        let again = decode_txn(txn.encode_to_vec().into(), TXN_OPS_MAX);
        assert_eq!(again.as_ref(), Ok(&txn));
    }
}

/// An entry of the log, whoever wrote it.
fn entry(input: &Bytes) {
    let Ok(Payload::Request(request)) = decode_internal_request(input.clone()) else {
        return;
    };
    let again = decode_internal_request(request.encode_to_vec().into());
    assert_eq!(again, Ok(Payload::Request(request)));
}

/// Entries one after another, each behind its length in two bytes: a store that keeps everything resident, and one that is
/// written back and opened again now and then and keeps little, answer alike and end alike.
pub fn store_apply(data: &[u8]) {
    let mut rest = data;
    let (mut one, mut other) = (Machine::new(1 << 30), Machine::new(0));
    for number in 0..ENTRIES_MAX {
        let Some((head, tail)) = rest.split_first_chunk::<2>() else {
            break;
        };
        let head = u16::from_le_bytes(*head);
        let (restarts, len) = (head >> 15 == 1, usize::from(head & 0x7fff).min(tail.len()));
        let (bytes, tail) = tail.split_at(len);
        rest = tail;
        let payload = decode_internal_request(Bytes::copy_from_slice(bytes));
        let Ok(Payload::Request(request)) = payload else {
            continue;
        };
        let (a, b) = (one.apply(&request), other.apply(&request));
        // The number of a compaction counts from the start of the process.
        let told = |applied: &Option<Applied>| {
            let applied = applied.as_ref()?;
            Some((applied.response.clone(), applied.revision))
        };
        assert_eq!(told(&a), told(&b), "entry {number}: {request:?}");
        if a.is_none() {
            return;
        }
        let hashes = [&one, &other].map(|machine| machine.store.result_hash(machine.index));
        assert!(
            hashes[0].is_some() && hashes[0] == hashes[1],
            "entry {number}: {request:?}"
        );
        if restarts {
            other.restart();
        }
    }
    assert_eq!(one.store.revision(), other.store.revision());
    assert_eq!(one.store.compacted(), other.store.compacted());
    assert_eq!(one.hash(), other.hash());
}

/// A store that is fed entries.
struct Machine {
    store: Store,
    file: SimFile,
    index: u64,
    resident_bytes_max: u64,
}

fn options() -> Options {
    Options {
        quota_bytes: None,
        ..Options::default()
    }
}

impl Machine {
    fn new(resident_bytes_max: u64) -> Machine {
        let file = SimFile::new();
        let opened = Pages::open(Arc::new(file.clone()), page_options(resident_bytes_max));
        Machine {
            store: Store::create(opened.expect("a new file").pages, options()),
            file,
            index: 0,
            resident_bytes_max,
        }
    }

    /// None if the entry is one that must stop a member.
    fn apply(&mut self, request: &pb::InternalRaftRequest) -> Option<Applied> {
        self.index += 1;
        let slice = match self.resident_bytes_max {
            0 => 1 + self.index as usize % 3,
            _ => usize::MAX,
        };
        let mut rounds = 0;
        while rounds < ROUNDS_MAX {
            rounds += 1;
            let at = (self.index, 1);
            match self.store.apply_slice(at, Some(request), 0, slice) {
                Ok(Some(applied)) => return Some(applied),
                // One slice further: each may need as many.
                Ok(None) => rounds = 0,
                Err(ApplyError::Fatal(_)) => return None,
                Err(ApplyError::Miss(miss)) => {
                    let Some(job) = self.store.pages_mut().fetch_job(&miss) else {
                        continue;
                    };
                    let done = job.run();
                    let pages = self.store.pages_mut();
                    pages.fetch_done_keeping(done).expect("sound pages");
                }
            }
        }
        panic!("an entry never got its pages");
    }

    fn restart(&mut self) {
        let job = self.store.begin_checkpoint(LogMark::default());
        let done = job.expect("no checkpoint runs").run();
        let done = done.expect("a sound file");
        self.store.pages_mut().checkpoint_done(done);
        self.file = SimFile::from_bytes(self.file.durable());
        let options_of_pages = page_options(self.resident_bytes_max);
        let opened = Pages::open(Arc::new(self.file.clone()), options_of_pages);
        let opened = opened.expect("a sound file");
        let meta = opened.meta.expect("a checkpoint");
        self.store = Store::open(opened.pages, &meta, options()).expect("a sound store");
    }

    /// The hash of all keys, or that there is none.
    fn hash(&mut self) -> String {
        for _ in 0..ROUNDS_MAX {
            match self.store.hash_kv_now(0) {
                Ok(hash) => return format!("{hash:?}"),
                Err(miss) => {
                    if let Some(job) = self.store.pages_mut().fetch_job(&miss) {
                        let done = job.run();
                        let pages = self.store.pages_mut();
                        pages.fetch_done_keeping(done).expect("sound pages");
                    }
                }
            }
        }
        panic!("a hash never got its pages");
    }
}

fn page_options(resident_bytes_max: u64) -> PageOptions {
    PageOptions {
        create: true,
        resident_bytes_max,
        growth_bytes: 64 << 10,
        reserve_bytes: 0,
    }
}
