//! A server's answer in the form of a recording, and the differences between the two.

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use protox::prost_reflect::{Kind, MessageDescriptor};
use serde_json::{json, Map, Value};
use sha2::{Digest as _, Sha256};

use super::Ids;
use crate::wire::{self, Tree, Wire};

/// Longer messages are recorded by length and digest.
const WHOLE_BYTES_MAX: usize = 4096;
/// Longer lists and texts of such messages are recorded shortened.
const WHOLE_ITEMS_MAX: usize = 20;
const WHOLE_TEXT_MAX: usize = 400;

/// What a recording can tell of an answer; `step` and `Answer` are compared by these.
const CONTENT: [&str; 5] = ["response", "error", "messages", "framing", "pending"];

/// An answer as an object with the fields that a recorded step would have.
pub type Answer = Map<String, Value>;

#[derive(Debug)]
pub struct Difference {
    pub field: &'static str,
    pub recorded: Value,
    pub got: Value,
}

fn hex_sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

impl Ids {
    /// One answer message.
    pub fn message(&self, message: &MessageDescriptor, bytes: &[u8]) -> Answer {
        let mut answer = Answer::new();
        let Some(tree) = wire::parse(message, bytes) else {
            let text = format!("cannot be decoded: {}", BASE64.encode(bytes));
            answer.insert("response".to_owned(), json!(text));
            return answer;
        };
        let response = wire::to_json(message, &tree, self);
        let recoded = wire::unparse(&self.recode(message, &tree));
        if recoded.len() > WHOLE_BYTES_MAX {
            answer.insert("response".to_owned(), shorten(&response));
            answer.insert("raw_len".to_owned(), json!(recoded.len()));
            answer.insert("raw_sha256".to_owned(), json!(hex_sha256(&recoded)));
        } else {
            answer.insert("response".to_owned(), response);
            answer.insert("raw".to_owned(), json!(BASE64.encode(&recoded)));
        }
        answer
    }

    pub fn error(&self, code: i32, message: &str) -> Answer {
        use crate::wire::Names as _;
        let error = json!({"code": code, "message": self.text_out(message)});
        Answer::from_iter([("error".to_owned(), error)])
    }
}

/// Long lists and texts by their size and ends.
fn shorten(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (k.clone(), shorten(v)));
            Value::Object(fields.collect())
        }
        Value::Array(items) if items.len() > WHOLE_ITEMS_MAX => json!({
            "$list": items.len(),
            "first": [shorten(&items[0]), shorten(&items[1])],
            "last": shorten(&items[items.len() - 1]),
        }),
        Value::Array(items) => Value::Array(items.iter().map(shorten).collect()),
        Value::String(text) if text.len() > WHOLE_TEXT_MAX => {
            json!({"$len": text.len(), "$sha256": hex_sha256(text.as_bytes())})
        }
        other => other.clone(),
    }
}

fn names(step: &Value, field: &str) -> Vec<String> {
    let list = step.get(field).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

fn without(value: &Value, varies: &[String]) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(k, _)| !varies.contains(k));
            Value::Object(kept.map(|(k, v)| (k.clone(), without(v, varies))).collect())
        }
        Value::Array(items) => items.iter().map(|v| without(v, varies)).collect(),
        other => other.clone(),
    }
}

fn normal(value: Option<&Value>, varies: &[String], unordered: &[String]) -> Value {
    let mut value = without(value.unwrap_or(&Value::Null), varies);
    for field in unordered {
        if let Some(list) = value.get_mut(field).and_then(Value::as_array_mut) {
            list.sort_by_key(Value::to_string);
        }
    }
    value
}

/// Compares content first; if that is equal, the bytes (`message` is what they are).
pub fn differences(
    step: &Value,
    answer: &Answer,
    message: Option<&MessageDescriptor>,
) -> Vec<Difference> {
    let (varies, unordered) = (names(step, "varies"), names(step, "unordered"));
    let mut found = Vec::new();
    for field in CONTENT {
        let recorded = normal(step.get(field), &varies, &unordered);
        let got = normal(answer.get(field), &varies, &unordered);
        if recorded != got {
            found.push(Difference {
                field,
                recorded,
                got,
            });
        }
    }
    let Some(message) = message.filter(|_| found.is_empty() && unordered.is_empty()) else {
        return found;
    };
    for field in ["raw", "raw_len", "raw_sha256"] {
        let raw = |value: Option<&Value>| match value {
            Some(Value::Array(list)) => list.iter().map(|r| strip(message, r, &varies)).collect(),
            Some(one) => strip(message, one, &varies),
            None => Value::Null,
        };
        let (recorded, got) = (raw(step.get(field)), raw(answer.get(field)));
        if recorded != got && step.get("error").is_none() {
            found.push(Difference {
                field,
                recorded,
                got,
            });
        }
    }
    found
}

/// The bytes of a message without the fields that vary.
fn strip(message: &MessageDescriptor, raw: &Value, varies: &[String]) -> Value {
    let bytes = raw.as_str().and_then(|text| BASE64.decode(text).ok());
    match bytes.and_then(|bytes| wire::parse(message, &bytes)) {
        Some(tree) if !varies.is_empty() => {
            json!(BASE64.encode(wire::unparse(&strip_tree(message, tree, varies))))
        }
        _ => raw.clone(),
    }
}

fn strip_tree(message: &MessageDescriptor, tree: Tree, varies: &[String]) -> Tree {
    let mut kept = Tree::new();
    for mut field in tree {
        let descriptor = message.get_field(field.number);
        if descriptor
            .as_ref()
            .is_some_and(|d| varies.iter().any(|v| v == d.name()))
        {
            continue;
        }
        if let (Wire::Message(inner), Some(Kind::Message(kind))) =
            (&mut field.value, descriptor.map(|d| d.kind()))
        {
            *inner = strip_tree(&kind, std::mem::take(inner), varies);
        }
        kept.push(field);
    }
    kept
}
