//! Decoding requests that nest.
//!
//! Transactions hold transactions, 128 levels deep with etcd's default limit, and each level is two messages. The
//! generated decoder recurses and stops at 100 messages, so the two nesting messages are decoded here with a stack of
//! their own; the messages inside, which do not nest, go to the generated code. Operations are counted while they are
//! decoded, so that a small request cannot become a large tree.

use super::validate::level_ops;
use crate::error::RequestError;
use crate::planted::{planted, Fault};
use bytes::{Buf, Bytes};
use prost::encoding::{decode_key, decode_varint, skip_field, DecodeContext, WireType};
use prost::Message;
use proto::etcdserverpb::{
    request_op::Request, Compare, InternalRaftRequest, RequestOp, TxnRequest,
};
use proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest};
use std::fmt;

/// Levels of nesting whatever `--max-txn-ops` says: building and dropping the decoded tree recurses.
pub const TXN_LEVELS_MAX: usize = 512;

// Fields of `InternalRaftRequest`.
const FIELD_ID: u32 = 1;
const FIELD_V2: u32 = 2;
const OPERATION_PUT: u32 = 4;
const OPERATION_DELETE_RANGE: u32 = 5;
const OPERATION_TXN: u32 = 6;
const FIELD_HEADER: u32 = 100;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not a message of this kind; the text is protobuf's.
    Malformed(String),
    /// More operations, or deeper nesting, than a transaction may have.
    TooManyOps,
    /// The entry asks for something that this version does not know: it must stop, not skip it.
    UnknownOperation { field: u32 },
    /// The entry asks for nothing, or for several things: no known version writes it.
    NotOneOperation,
}

impl DecodeError {
    /// What a client is told; `None` for what has no error of etcd's own.
    pub fn request_error(&self) -> Option<RequestError> {
        match self {
            DecodeError::TooManyOps => Some(RequestError::TooManyOps),
            _ => None,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Malformed(text) => write!(f, "malformed request: {text}"),
            DecodeError::TooManyOps => f.write_str(RequestError::TooManyOps.message()),
            DecodeError::UnknownOperation { field } => write!(
                f,
                "log entry with operation field {field}, which this version does not know: upgrade this member"
            ),
            DecodeError::NotOneOperation => {
                f.write_str("log entry without exactly one operation: no known version wrote it")
            }
        }
    }
}

impl std::error::Error for DecodeError {}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> DecodeError {
        DecodeError::Malformed(error.to_string())
    }
}

fn malformed(text: &str) -> DecodeError {
    DecodeError::Malformed(text.to_owned())
}

/// Takes a length-delimited field's content, sharing the buffer.
fn take_message(wire: WireType, input: &mut Bytes) -> Result<Bytes, DecodeError> {
    if wire != WireType::LengthDelimited {
        return Err(malformed("invalid wire type"));
    }
    let len = decode_varint(input)?;
    match usize::try_from(len) {
        Ok(len) if len <= input.remaining() => Ok(input.split_to(len)),
        _ => Err(malformed("buffer underflow")),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Success,
    Failure,
}

/// One transaction that is being decoded, and the operation of its parent that it will become.
struct Level {
    txn: TxnRequest,
    input: Bytes,
    budget: usize,
    /// The operation whose fields are being read; its list follows.
    op: Option<(RequestOp, Bytes, List)>,
}

impl Level {
    fn new(txn: TxnRequest, input: Bytes, budget: usize) -> Level {
        Level {
            txn,
            input,
            budget,
            op: None,
        }
    }

    /// Reads on until a nested transaction begins or this one ends.
    fn advance(&mut self) -> Result<Option<Level>, DecodeError> {
        loop {
            if let Some((mut op, mut input, list)) = self.op.take() {
                if let Some(nested) = self.advance_op(&mut op, &mut input)? {
                    self.op = Some((op, input, list));
                    return Ok(Some(nested));
                }
                match list {
                    List::Success => self.txn.success.push(op),
                    List::Failure => self.txn.failure.push(op),
                }
                self.check_budget()?;
            }
            if !self.input.has_remaining() {
                return Ok(None);
            }
            let (tag, wire) = decode_key(&mut self.input)?;
            match tag {
                1 => {
                    let compare = Compare::decode(take_message(wire, &mut self.input)?)?;
                    self.txn.compare.push(compare);
                    self.check_budget()?;
                }
                2 | 3 => {
                    let list = if tag == 2 || planted(Fault::FailureTaken) {
                        List::Success
                    } else {
                        List::Failure
                    };
                    let input = take_message(wire, &mut self.input)?;
                    self.op = Some((RequestOp::default(), input, list));
                }
                _ => skip_field(wire, tag, &mut self.input, DecodeContext::default())?,
            }
        }
    }

    /// A member that comes again is merged into the one before, as everywhere in protobuf.
    fn advance_op(
        &self,
        op: &mut RequestOp,
        input: &mut Bytes,
    ) -> Result<Option<Level>, DecodeError> {
        while input.has_remaining() {
            let (tag, wire) = decode_key(input)?;
            match tag {
                1..=3 => {
                    let member = take_message(wire, input)?;
                    merge_member(op, tag, member)?;
                }
                4 => {
                    let member = take_message(wire, input)?;
                    let txn = match op.request.take() {
                        Some(Request::RequestTxn(txn)) => txn,
                        _ => TxnRequest::default(),
                    };
                    // What the parent has so far, with the operation being read: at least one.
                    let used = level_ops(&self.txn).max(1);
                    let budget = self.budget.checked_sub(used);
                    let budget = budget.ok_or(DecodeError::TooManyOps)?;
                    return Ok(Some(Level::new(txn, member, budget)));
                }
                _ => skip_field(wire, tag, input, DecodeContext::default())?,
            }
        }
        Ok(None)
    }

    fn check_budget(&self) -> Result<(), DecodeError> {
        match level_ops(&self.txn) > self.budget {
            true => Err(DecodeError::TooManyOps),
            false => Ok(()),
        }
    }
}

fn merge_member(op: &mut RequestOp, tag: u32, member: Bytes) -> Result<(), DecodeError> {
    match (tag, &mut op.request) {
        (1, Some(Request::RequestRange(range))) => range.merge(member)?,
        (2, Some(Request::RequestPut(put))) => put.merge(member)?,
        (3, Some(Request::RequestDeleteRange(delete))) => delete.merge(member)?,
        (1, request) => *request = Some(Request::RequestRange(Message::decode(member)?)),
        (2, request) => *request = Some(Request::RequestPut(Message::decode(member)?)),
        (_, request) => *request = Some(Request::RequestDeleteRange(Message::decode(member)?)),
    }
    Ok(())
}

fn decode_levels(input: Bytes, max_ops: usize) -> Result<TxnRequest, DecodeError> {
    let mut level = Level::new(TxnRequest::default(), input, max_ops);
    let mut outer: Vec<Level> = Vec::new();
    loop {
        match level.advance()? {
            Some(nested) => {
                if outer.len() + 1 >= TXN_LEVELS_MAX {
                    return Err(DecodeError::TooManyOps);
                }
                outer.push(std::mem::replace(&mut level, nested));
            }
            None => {
                let Some(mut parent) = outer.pop() else {
                    return Ok(level.txn);
                };
                if let Some((op, ..)) = &mut parent.op {
                    op.request = Some(Request::RequestTxn(level.txn));
                }
                level = parent;
            }
        }
    }
}

/// Decodes a client's transaction. `max_ops` is `--max-txn-ops`: a list longer than its level's budget is refused on
/// the way. [`super::validate::validate_txn`] makes the full check afterwards.
pub fn decode_txn(input: Bytes, max_ops: usize) -> Result<TxnRequest, DecodeError> {
    decode_levels(input, max_ops)
}

/// What a normal log entry asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, or a request of the v2 API without effect here.
    Nothing,
    Request(Box<InternalRaftRequest>),
}

/// Decodes the payload of a normal log entry, whoever wrote it: `InternalRaftRequest`, or a bare v2 `Request` of a
/// 3.5 server, of which the two that matter become their v3 forms.
pub fn decode_internal_request(input: Bytes) -> Result<Payload, DecodeError> {
    if input.is_empty() {
        return Ok(Payload::Nothing);
    }
    // A v2 request always fails to decode here, as its second field, a method's name, is no message.
    match decode_v3(input.clone()) {
        Err(DecodeError::Malformed(text)) => match decode_v2(input) {
            Ok(payload) => Ok(payload),
            Err(_) => Err(DecodeError::Malformed(text)),
        },
        decoded => decoded,
    }
}

fn is_known_operation(field: u32) -> bool {
    matches!(
        field,
        3..=11 | 1000 | 1011..=1013 | 1100..=1107 | 1200..=1204 | 1300..=1302 | 9900
    )
}

/// The operations of the hot path are decoded on the way; the others, which are small and rare, by the generated code.
fn decode_v3(input: Bytes) -> Result<Payload, DecodeError> {
    let mut request = Box::<InternalRaftRequest>::default();
    let mut rest = input.clone();
    let mut operation = None;
    let mut is_rare = false;
    let mut txn: Option<Bytes> = None;
    while rest.has_remaining() {
        let (field, wire) = decode_key(&mut rest)?;
        if is_known_operation(field) {
            one_operation(&mut operation, field)?;
        }
        match field {
            FIELD_V2 => return decode_v2(take_message(wire, &mut rest)?),
            FIELD_HEADER => {
                let header = request.header.get_or_insert_default();
                header.merge(take_message(wire, &mut rest)?)?;
            }
            OPERATION_PUT => {
                let put = request.put.get_or_insert_default();
                put.merge(take_message(wire, &mut rest)?)?;
            }
            OPERATION_DELETE_RANGE => {
                let delete = request.delete_range.get_or_insert_default();
                delete.merge(take_message(wire, &mut rest)?)?;
            }
            OPERATION_TXN => {
                let body = take_message(wire, &mut rest)?;
                // A field that comes again is merged; concatenation is the same.
                txn = Some(match txn {
                    None => body,
                    Some(before) => Bytes::from([&before[..], &body[..]].concat()),
                });
            }
            _ => {
                is_rare = true;
                skip_field(wire, field, &mut rest, DecodeContext::default())?;
                if field != FIELD_ID && !is_known_operation(field) {
                    return Err(DecodeError::UnknownOperation { field });
                }
            }
        }
    }
    if operation.is_none() {
        return Err(DecodeError::NotOneOperation);
    }
    if let Some(txn) = txn {
        request.txn = Some(decode_levels(txn, usize::MAX)?);
    } else if is_rare {
        *request = InternalRaftRequest::decode(input)?;
    }
    Ok(Payload::Request(request))
}

fn one_operation(operation: &mut Option<u32>, field: u32) -> Result<(), DecodeError> {
    match operation.replace(field) {
        Some(before) if before != field => Err(DecodeError::NotOneOperation),
        _ => Ok(()),
    }
}

/// The part of a v2 `Request` that matters (proto2: id 1, method 2, path 3, value 4).
#[derive(Clone, PartialEq, Message)]
struct V2Request {
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    value: String,
}

fn decode_v2(input: Bytes) -> Result<Payload, DecodeError> {
    let request = V2Request::decode(input)?;
    let known = || DecodeError::UnknownOperation { field: FIELD_V2 };
    let path = match request.method.as_str() {
        "PUT" => request.path.as_str(),
        // Expiry of the v2 store's keys, of which there are none here.
        "SYNC" => return Ok(Payload::Nothing),
        method if method.bytes().all(|byte| byte.is_ascii_uppercase()) && !method.is_empty() => {
            return Err(known())
        }
        _ => return Err(malformed("neither a v3 nor a v2 request")),
    };
    let mut converted = InternalRaftRequest::default();
    if path == "/0/version" {
        converted.cluster_version_set =
            Some(Box::new(ClusterVersionSetRequest { ver: request.value }));
    } else {
        let id = path.strip_prefix("/0/members/");
        let id = id.and_then(|id| id.strip_suffix("/attributes"));
        let id = id.and_then(|id| u64::from_str_radix(id, 16).ok());
        converted.cluster_member_attr_set = Some(Box::new(ClusterMemberAttrSetRequest {
            member_id: id.ok_or_else(known)?,
            member_attributes: Some(v2_attributes(&request.value)?),
        }));
    }
    Ok(Payload::Request(Box::new(converted)))
}

fn v2_attributes(json: &str) -> Result<Attributes, DecodeError> {
    let json: serde_json::Value =
        serde_json::from_str(json).map_err(|error| malformed(&error.to_string()))?;
    let urls = json["clientURLs"].as_array().map(Vec::as_slice);
    Ok(Attributes {
        name: json["name"].as_str().unwrap_or_default().to_owned(),
        client_urls: urls
            .unwrap_or_default()
            .iter()
            .filter_map(|url| url.as_str().map(str::to_owned))
            .collect(),
    })
}
