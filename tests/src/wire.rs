//! etcd's messages as data: the `.proto` files read at run time, so that a recorded request can be turned into bytes and
//! any answer into JSON without a line of code per message.
//!
//! The codec here is deliberately not prost: the bytes of a recording and of the server are compared field by field in
//! wire order, and a oneof member that is given is sent even if it is zero.

use std::path::PathBuf;
use std::sync::OnceLock;

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{json, Map, Value};

/// One field as it stood on the wire.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub number: u32,
    pub value: Wire,
}

/// The value of a field by its wire type; sub-messages are taken apart.
#[derive(Clone, Debug, PartialEq)]
pub enum Wire {
    Varint(u64),
    Bytes(Vec<u8>),
    Message(Tree),
    Fixed { wire_type: u64, bytes: Vec<u8> },
}

pub type Tree = Vec<Field>;

/// Fields whose value differs from server to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    ClusterId,
    MemberId,
    Term,
    Text,
    Plain,
}

/// Turns ids, terms and URLs into the placeholders of a recording and back.
pub trait Names {
    fn number_out(&self, role: Role, value: u64) -> String;
    fn number_in(&self, text: &str) -> u64;
    fn text_out(&self, text: &str) -> String;
    fn text_in(&self, text: &str) -> String;
}

/// The request and answer messages of one method.
#[derive(Clone)]
pub struct Method {
    pub path: String,
    pub request: MessageDescriptor,
    pub response: MessageDescriptor,
}

/// All services and messages.
pub fn schema() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../net/proto/proto");
        let mut compiler = protox::Compiler::new([&dir]).expect("the proto directory is readable");
        let files = [
            "rpc.proto",
            "v3lock.proto",
            "v3election.proto",
            "health.proto",
        ];
        compiler.open_files(files).expect("the proto files compile");
        compiler.descriptor_pool()
    })
}

/// The method that a recording calls `KV/Put`.
pub fn method(call: &str) -> Method {
    let (service, name) = call.split_once('/').expect("a call is SERVICE/METHOD");
    let service = schema()
        .services()
        .find(|s| s.name() == service)
        .unwrap_or_else(|| panic!("no service {service}"));
    let method = service
        .methods()
        .find(|m| m.name() == name)
        .unwrap_or_else(|| panic!("no method {call}"));
    Method {
        path: format!("/{}/{}", service.full_name(), name),
        request: method.input(),
        response: method.output(),
    }
}

/// What kind of value a field holds as far as comparing two servers is concerned.
pub fn role(message: &MessageDescriptor, field: &FieldDescriptor) -> Role {
    match (message.name(), field.name()) {
        (_, "cluster_id") => Role::ClusterId,
        (_, "raft_term" | "raftTerm") => Role::Term,
        (_, "member_id" | "memberID" | "leader" | "targetID") if field.kind() == Kind::Uint64 => {
            Role::MemberId
        }
        (name, "ID") if name.starts_with("Member") => Role::MemberId,
        _ if field.kind() == Kind::String => Role::Text,
        _ => Role::Plain,
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 127 {
        out.push((n & 127 | 128) as u8);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift < 64 {
            n |= u64::from(byte & 127) << shift;
        }
        if byte < 128 {
            return Some(n);
        }
    }
    None
}

fn take<'b>(bytes: &mut &'b [u8], n: u64) -> Option<&'b [u8]> {
    let n = usize::try_from(n).ok().filter(|n| *n <= bytes.len())?;
    let (head, rest) = bytes.split_at(n);
    *bytes = rest;
    Some(head)
}

/// Takes a message apart; `None` if it is not one.
pub fn parse(message: &MessageDescriptor, mut bytes: &[u8]) -> Option<Tree> {
    let mut tree = Tree::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let value = match tag & 7 {
            0 => Wire::Varint(take_varint(&mut bytes)?),
            2 => {
                let n = take_varint(&mut bytes)?;
                let body = take(&mut bytes, n)?;
                match message.get_field(number).map(|f| f.kind()) {
                    Some(Kind::Message(inner)) => Wire::Message(parse(&inner, body)?),
                    _ => Wire::Bytes(body.to_vec()),
                }
            }
            wire_type @ (1 | 5) => Wire::Fixed {
                wire_type,
                bytes: take(&mut bytes, if wire_type == 1 { 8 } else { 4 })?.to_vec(),
            },
            _ => return None,
        };
        tree.push(Field { number, value });
    }
    Some(tree)
}

/// The inverse of [`parse`], byte for byte (given shortest varints).
pub fn unparse(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    for Field { number, value } in tree {
        match value {
            Wire::Varint(n) => {
                put_varint(&mut out, u64::from(*number) << 3);
                put_varint(&mut out, *n);
            }
            Wire::Bytes(body) => put_bytes(&mut out, *number, body),
            Wire::Message(inner) => put_bytes(&mut out, *number, &unparse(inner)),
            Wire::Fixed { wire_type, bytes } => {
                put_varint(&mut out, u64::from(*number) << 3 | wire_type);
                out.extend_from_slice(bytes);
            }
        }
    }
    out
}

/// proto3 JSON with the original field names, 64-bit integers as text, enums by name.
pub fn to_json(message: &MessageDescriptor, tree: &Tree, names: &dyn Names) -> Value {
    let mut out = Map::new();
    for Field { number, value } in tree {
        let Some(field) = message.get_field(*number) else {
            out.insert(format!("$unknown_{number}"), json!(format!("{value:?}")));
            continue;
        };
        let role = role(message, &field);
        let json = match (value, field.kind()) {
            (Wire::Message(inner), Kind::Message(kind)) => to_json(&kind, inner, names),
            (Wire::Bytes(b), Kind::String) => {
                json!(names.text_out(&String::from_utf8_lossy(b)))
            }
            (Wire::Bytes(b), _) => json!(BASE64.encode(b)),
            (Wire::Varint(n), Kind::Bool) => json!(*n != 0),
            (Wire::Varint(n), Kind::Uint32) => json!(n),
            (Wire::Varint(n), Kind::Enum(kind)) => match kind.get_value(*n as i32) {
                Some(named) => json!(named.name()),
                None => json!(n),
            },
            (Wire::Varint(n), Kind::Int64) => json!((*n as i64).to_string()),
            (Wire::Varint(n), _) if role != Role::Plain => json!(names.number_out(role, *n)),
            (Wire::Varint(n), _) => json!(n.to_string()),
            (other, _) => json!(format!("{other:?}")),
        };
        if field.is_list() {
            let list = out.entry(field.name()).or_insert_with(|| json!([]));
            list.as_array_mut().expect("a list stays one").push(json);
        } else {
            out.insert(field.name().to_owned(), json);
        }
    }
    Value::Object(out)
}

/// Encodes a recorded request. Understands the short forms `$fill`, `$repeat` and `$key`.
pub fn encode(message: &MessageDescriptor, json: &Value, names: &dyn Names) -> Vec<u8> {
    encode_at(message, json, names, &mut Vec::new())
}

fn encode_at(
    message: &MessageDescriptor,
    json: &Value,
    names: &dyn Names,
    index: &mut Vec<u64>,
) -> Vec<u8> {
    let mut fields: Vec<_> = message.fields().collect();
    fields.sort_by_key(FieldDescriptor::number);
    let mut out = Vec::new();
    for field in fields {
        let Some(value) = json.get(field.name()) else {
            continue;
        };
        if !field.is_list() {
            encode_one(&field, value, names, index, &mut out);
        } else if let (Kind::Enum(kind), Some(list)) = (field.kind(), value.as_array()) {
            let mut packed = Vec::new();
            for item in list {
                put_varint(&mut packed, enum_number(&kind, item));
            }
            if !packed.is_empty() {
                put_bytes(&mut out, field.number(), &packed);
            }
        } else if let Some(count) = value.get("$repeat").and_then(Value::as_u64) {
            for i in 0..count {
                index.push(i);
                encode_one(&field, &value["item"], names, index, &mut out);
                index.pop();
            }
        } else {
            for item in value.as_array().expect("a repeated field is a list") {
                encode_one(&field, item, names, index, &mut out);
            }
        }
    }
    out
}

fn encode_one(
    field: &FieldDescriptor,
    value: &Value,
    names: &dyn Names,
    index: &mut Vec<u64>,
    out: &mut Vec<u8>,
) {
    let explicit = field.is_list() || field.containing_oneof().is_some();
    let number = match field.kind() {
        Kind::Message(inner) => {
            let body = encode_at(&inner, value, names, index);
            return put_bytes(out, field.number(), &body);
        }
        Kind::Bytes | Kind::String => {
            let body = if field.kind() == Kind::Bytes {
                bytes_of(value, index)
            } else {
                names
                    .text_in(value.as_str().expect("a string field"))
                    .into_bytes()
            };
            if !body.is_empty() || explicit {
                put_bytes(out, field.number(), &body);
            }
            return;
        }
        Kind::Enum(kind) => enum_number(&kind, value),
        Kind::Bool => u64::from(value.as_bool().expect("a bool field")),
        _ => match value {
            Value::String(text) => names.number_in(text),
            number => number
                .as_i64()
                .map_or_else(|| number.as_u64().expect("an integer"), |n| n as u64),
        },
    };
    if number != 0 || explicit {
        put_varint(out, u64::from(field.number()) << 3);
        put_varint(out, number);
    }
}

fn enum_number(kind: &protox::prost_reflect::EnumDescriptor, value: &Value) -> u64 {
    match value {
        Value::String(name) => kind
            .get_value_by_name(name)
            .unwrap_or_else(|| panic!("no value {name} in {}", kind.name()))
            .number() as i64 as u64,
        number => number.as_i64().expect("an enum is a name or a number") as u64,
    }
}

/// Base64 text, `{"$fill":"A","count":N}` or `{"$key":"k%03d"}`.
fn bytes_of(value: &Value, index: &[u64]) -> Vec<u8> {
    if let Some(text) = value.as_str() {
        return BASE64.decode(text).expect("bytes are base64");
    }
    if let Some(fill) = value.get("$fill").and_then(Value::as_str) {
        let count = value["count"].as_u64().expect("count of $fill") as usize;
        return fill.as_bytes().repeat(count);
    }
    let pattern = value["$key"].as_str().expect("base64, $fill or $key");
    let mut indices = index[index.len() - pattern.matches('%').count()..].iter();
    let mut parts = pattern.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (width, rest) = part.split_once('d').expect("%d or %0Nd");
        let width: usize = width.trim_start_matches('0').parse().unwrap_or(0);
        out += &format!("{:0width$}{rest}", indices.next().expect("an index per %"));
    }
    out.into_bytes()
}
