//! Encoding of `WatchResponse`, by hand: the events of a response are its last field, so one encoding of them serves every
//! watcher, behind a head of a few dozen bytes that is the watcher's own.

use bytes::Bytes;

use super::types::{EventKind, EventRef, Head, KeyValueRef, HEAD_BYTES_MAX};

const HEADER: u8 = 0x0a;
const WATCH_ID: u8 = 0x10;
const CREATED: u8 = 0x18;
const CANCELED: u8 = 0x20;
const COMPACT_REVISION: u8 = 0x28;
const CANCEL_REASON: u8 = 0x32;
const FRAGMENT: u8 = 0x38;
const EVENT: u8 = 0x5a;

/// Bytes of the `fragment` field when set.
const FRAGMENT_BYTES: usize = 2;

/// Who answers. All three show in the header of every response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The member's current term.
    pub raft_term: u64,
}

/// Builds the start of a response: fields in ascending order, zeros left out, the header always present.
#[derive(Clone, Copy)]
pub(super) struct HeadBuilder {
    head: Head,
}

impl HeadBuilder {
    pub(super) fn new(identity: &Identity, revision: i64) -> HeadBuilder {
        let mut fields = HeadBuilder::empty();
        fields.varint_field(0x08, identity.cluster_id);
        fields.varint_field(0x10, identity.member_id);
        fields.varint_field(0x18, revision as u64);
        fields.varint_field(0x20, identity.raft_term);
        let len = usize::from(fields.head.len);
        let mut builder = HeadBuilder::empty();
        builder.byte(HEADER);
        // Four fields of at most 11 bytes: the length is one byte.
        builder.byte(fields.head.len);
        builder.head.bytes[2..2 + len].copy_from_slice(&fields.head.bytes[..len]);
        builder.head.len += fields.head.len;
        builder
    }

    pub(super) fn watch_id(mut self, id: i64) -> HeadBuilder {
        self.varint_field(WATCH_ID, id as u64);
        self
    }

    pub(super) fn created(mut self) -> HeadBuilder {
        self.varint_field(CREATED, 1);
        self
    }

    pub(super) fn canceled(mut self) -> HeadBuilder {
        self.varint_field(CANCELED, 1);
        self
    }

    pub(super) fn compact_revision(mut self, revision: i64) -> HeadBuilder {
        self.varint_field(COMPACT_REVISION, revision as u64);
        self
    }

    pub(super) fn fragment(mut self) -> HeadBuilder {
        self.varint_field(FRAGMENT, 1);
        self
    }

    pub(super) fn build(self) -> Head {
        self.head
    }

    fn len(&self) -> usize {
        usize::from(self.head.len)
    }

    fn empty() -> HeadBuilder {
        HeadBuilder {
            head: Head {
                len: 0,
                bytes: [0; HEAD_BYTES_MAX],
            },
        }
    }

    fn byte(&mut self, byte: u8) {
        self.head.bytes[usize::from(self.head.len)] = byte;
        self.head.len += 1;
    }

    fn varint_field(&mut self, tag: u8, mut value: u64) {
        if value == 0 {
            return;
        }
        self.byte(tag);
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }
}

/// The cancel reason as the last part of a response.
pub(super) fn cancel_reason(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 4);
    put_bytes(&mut out, CANCEL_REASON, text.as_bytes());
    Bytes::from(out)
}

/// Events of one response, encoded.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    pub(super) bytes: Bytes,
    /// Where each event ends; empty for a single event.
    pub(super) ends: Vec<usize>,
}

impl Payload {
    pub(super) fn events(&self) -> usize {
        self.ends.len().max(1)
    }
}

/// Cuts a payload into the parts that a watcher with the `fragment` option gets: none if it fits, otherwise the end of each
/// part. A part takes events until the next one would make its response reach `limit_bytes`, but at least one.
pub(super) fn fragments(head: &HeadBuilder, payload: &Payload, limit_bytes: usize) -> Vec<usize> {
    let mut cuts = Vec::new();
    if payload.ends.len() < 2 || head.len() + payload.bytes.len() < limit_bytes {
        return cuts;
    }
    let head_bytes = head.len() + FRAGMENT_BYTES;
    let mut start = 0;
    let mut end = 0;
    for &event_end in &payload.ends {
        if end > start && head_bytes + (event_end - start) >= limit_bytes {
            cuts.push(end);
            start = end;
        }
        end = event_end;
    }
    cuts.push(end);
    cuts
}

/// Appends one event, as a field of a response.
pub(super) fn put_event(
    out: &mut Vec<u8>,
    event: &EventRef<'_>,
    previous: Option<&KeyValueRef<'_>>,
) {
    let kind_len = if event.kind == EventKind::Delete {
        2
    } else {
        0
    };
    let kv_len = key_value_len(&event.kv);
    let previous_len = previous.map(key_value_len);
    let len = kind_len
        + 1
        + varint_len(kv_len as u64)
        + kv_len
        + previous_len.map_or(0, |len| 1 + varint_len(len as u64) + len);
    out.reserve(1 + varint_len(len as u64) + len);
    out.push(EVENT);
    put_varint(out, len as u64);
    if event.kind == EventKind::Delete {
        out.extend_from_slice(&[0x08, 1]);
    }
    put_key_value(out, 0x12, kv_len, &event.kv);
    if let (Some(previous), Some(len)) = (previous, previous_len) {
        put_key_value(out, 0x1a, len, previous);
    }
}

/// Upper bound of what [`put_event`] appends without a previous value.
pub(super) fn event_len_max(event: &EventRef<'_>) -> usize {
    event.kv.key.len() + event.kv.value.len() + 80
}

fn put_key_value(out: &mut Vec<u8>, tag: u8, len: usize, kv: &KeyValueRef<'_>) {
    out.push(tag);
    put_varint(out, len as u64);
    put_bytes(out, 0x0a, kv.key);
    put_int(out, 0x10, kv.create_revision);
    put_int(out, 0x18, kv.mod_revision);
    put_int(out, 0x20, kv.version);
    put_bytes(out, 0x2a, kv.value);
    put_int(out, 0x30, kv.lease);
}

fn key_value_len(kv: &KeyValueRef<'_>) -> usize {
    let bytes_len = |bytes: &[u8]| match bytes.len() {
        0 => 0,
        len => 1 + varint_len(len as u64) + len,
    };
    let int_len = |value: i64| {
        if value == 0 {
            0
        } else {
            1 + varint_len(value as u64)
        }
    };
    bytes_len(kv.key)
        + int_len(kv.create_revision)
        + int_len(kv.mod_revision)
        + int_len(kv.version)
        + bytes_len(kv.value)
        + int_len(kv.lease)
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn put_int(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        put_varint(out, value as u64);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    // Seven bits to a byte, and at least one byte.
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::etcdserverpb::{ResponseHeader, WatchResponse};
    use proto::mvccpb::{event::EventType, Event, KeyValue};

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: u64::MAX,
            member_id: 7,
            raft_term: 2,
        }
    }

    fn owned(kv: &KeyValueRef<'_>) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(kv.key),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: Bytes::copy_from_slice(kv.value),
            lease: kv.lease,
        }
    }

    #[test]
    fn bytes_equal_the_generated_encoder() {
        let value = vec![b'v'; 300];
        let put = KeyValueRef {
            key: b"k",
            create_revision: 5,
            mod_revision: 1 << 40,
            version: 128,
            value: &value,
            lease: -1,
        };
        let delete = KeyValueRef {
            key: b"k",
            mod_revision: i64::MAX,
            ..Default::default()
        };
        let events = [
            (EventKind::Put, put, Some(put)),
            (EventKind::Put, put, None),
            (EventKind::Delete, delete, Some(put)),
            (EventKind::Delete, delete, None),
            (
                EventKind::Put,
                KeyValueRef::default(),
                Some(KeyValueRef::default()),
            ),
        ];
        let mut tail = Vec::new();
        let mut expected = WatchResponse {
            header: Some(ResponseHeader {
                cluster_id: u64::MAX,
                member_id: 7,
                revision: -1,
                raft_term: 2,
            }),
            watch_id: i64::MIN,
            created: true,
            canceled: true,
            compact_revision: i64::MIN,
            cancel_reason: String::new(),
            fragment: true,
            events: Vec::new(),
        };
        for (kind, kv, previous) in events {
            let event = EventRef { kind, kv };
            put_event(&mut tail, &event, previous.as_ref());
            let kind = match kind {
                EventKind::Put => EventType::Put,
                EventKind::Delete => EventType::Delete,
            };
            expected.events.push(Event {
                r#type: kind.into(),
                kv: Some(owned(&kv)),
                prev_kv: previous.as_ref().map(owned),
            });
        }
        let head = HeadBuilder::new(&identity(), -1)
            .watch_id(i64::MIN)
            .created()
            .canceled()
            .compact_revision(i64::MIN)
            .fragment()
            .build();
        let mut message = head.bytes[..usize::from(head.len)].to_vec();
        message.extend_from_slice(&tail);
        assert_eq!(message, expected.encode_to_vec());
    }

    #[test]
    fn header_is_present_even_when_all_of_it_is_zero() {
        let head = HeadBuilder::new(&Identity::default(), 0).build();
        assert_eq!(head.bytes[..usize::from(head.len)], [HEADER, 0]);
    }

    #[test]
    fn cancel_reason_is_a_field() {
        let encoded = cancel_reason("mvcc: x");
        let decoded = WatchResponse::decode(encoded).unwrap();
        assert_eq!(decoded.cancel_reason, "mvcc: x");
    }

    fn payload(sizes: &[usize]) -> Payload {
        let mut ends = Vec::new();
        let mut end = 0;
        for size in sizes {
            end += size;
            ends.push(end);
        }
        Payload {
            bytes: Bytes::from(vec![0; end]),
            ends,
        }
    }

    #[test]
    fn fragments_stay_below_the_limit_or_hold_one_event() {
        let head = HeadBuilder::new(&identity(), 9);
        let fixed = head.len() + FRAGMENT_BYTES;
        // Two events of 100 fill a part exactly to one byte below the limit.
        let limit = fixed + 201;
        assert_eq!(
            fragments(&head, &payload(&[100, 100, 100]), limit),
            [200, 300]
        );
        assert_eq!(
            fragments(&head, &payload(&[100, 100, 100]), limit - 1),
            [100, 200, 300]
        );
        assert_eq!(
            fragments(&head, &payload(&[900, 900, 10, 10]), limit),
            [900, 1800, 1820]
        );
    }

    #[test]
    fn small_or_single_responses_are_not_cut() {
        let head = HeadBuilder::new(&identity(), 9);
        assert!(fragments(&head, &payload(&[10, 10]), head.len() + 21).is_empty());
        // At the limit without the flag: cut in name, though the parts may turn out to be one.
        assert_eq!(
            fragments(&head, &payload(&[10, 10]), head.len() + 20).len(),
            2
        );
        assert!(fragments(&head, &payload(&[10_000]), 100).is_empty());
    }
}
