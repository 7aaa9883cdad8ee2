//! YAML as a tree, with what serde's own value drops: repeated keys, and YAML 1.1's booleans.

use std::fmt;

use serde::{
    de::{EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
    Deserialize,
};

use super::FileError;
use crate::{
    caller,
    logging::{Level, Record},
};

/// A YAML value in which a mapping keeps every entry, repeated keys included.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// What Go calls the JSON value; a number that does not fit a numeric field is named by its digits too.
    pub(super) fn json_kind(&self, with_digits: bool) -> String {
        match self {
            Node::Null => "null".into(),
            Node::Bool(_) => "bool".into(),
            Node::Int(v) if with_digits => format!("number {v}"),
            Node::Float(v) if with_digits => format!("number {v}"),
            Node::Int(_) | Node::Float(_) => "number".into(),
            Node::Str(_) => "string".into(),
            Node::Seq(_) => "array".into(),
            Node::Map(_) => "object".into(),
        }
    }

    /// A whole number, `5.0` included.
    pub(super) fn integer(&self) -> Option<i128> {
        match self {
            Node::Int(v) => Some(*v),
            Node::Float(v) if v.fract() == 0.0 && v.abs() < 1e21 => Some(*v as i128),
            _ => None,
        }
    }
}

/// The first document; an empty file is null.
pub(super) fn document(text: &str, notes: &mut Vec<Record>) -> Result<Node, FileError> {
    let text = plain_booleans(text);
    let mut documents = serde_yaml::Deserializer::from_str(&text);
    let Some(first) = documents.next() else {
        return Ok(Node::Null);
    };
    let node = match Node::deserialize(first) {
        Ok(node) => node,
        Err(error) if error.to_string().starts_with("EOF while parsing") => Node::Null,
        Err(error) => {
            return Err(FileError::Verify(format!(
                "error converting YAML to JSON: {}",
                go_text(&error)
            )))
        }
    };
    if documents.next().is_some() {
        notes.push(Record::new(
            Level::Warn,
            caller!(),
            "only the first document of the configuration file is read",
        ));
    }
    merged(node)
}

/// libyaml's message with the line in front, as Go's package prints it.
fn go_text(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text);
    match error.location() {
        Some(at) => format!("yaml: line {}: {message}", at.line()),
        None => format!("yaml: {message}"),
    }
}

/// Applies merge keys (`<<`): what a mapping says itself goes before what it takes from others.
fn merged(node: Node) -> Result<Node, FileError> {
    let bad = || {
        FileError::Verify("error converting YAML to JSON: yaml: map merge requires map or sequence of maps as the value".into())
    };
    match node {
        Node::Seq(items) => Ok(Node::Seq(
            items.into_iter().map(merged).collect::<Result<_, _>>()?,
        )),
        Node::Map(entries) => {
            let (mut own, mut taken) = (Vec::new(), Vec::new());
            for (key, value) in entries {
                if key != Node::Str("<<".into()) {
                    own.push((key, merged(value)?));
                    continue;
                }
                let sources = match value {
                    Node::Seq(items) => items,
                    map => vec![map],
                };
                for source in sources.into_iter().rev() {
                    match merged(source)? {
                        Node::Map(entries) => taken.extend(entries),
                        _ => return Err(bad()),
                    }
                }
            }
            taken.retain(|(key, _)| !own.iter().any(|(k, _)| k == key));
            // A later source repeats keys of an earlier one on purpose; only the file's own repetitions are reported.
            let mut unique: Vec<(Node, Node)> = Vec::new();
            for (key, value) in taken {
                match unique.iter_mut().find(|(k, _)| *k == key) {
                    Some(entry) => entry.1 = value,
                    None => unique.push((key, value)),
                }
            }
            unique.extend(own);
            Ok(Node::Map(unique))
        }
        other => Ok(other),
    }
}

/// YAML 1.1 reads unquoted `yes`, `no`, `on`, `off`, `y` and `n` as booleans; the parser used here follows 1.2 and does
/// not tell quoted from unquoted text. So they are rewritten before parsing, where they stand alone as a value. (Inside a
/// block scalar that would change text; no setting is written as one.)
fn plain_booleans(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        boolean_line(line, &mut out);
    }
    out
}

fn boolean_line(line: &str, out: &mut String) {
    let (mut rest, mut depth, mut value_next) = (line, 0usize, false);
    while let Some(c) = rest.chars().next() {
        if c == '#' && (out.is_empty() || out.ends_with([' ', '\t', '\n'])) {
            break;
        }
        let step = match c {
            '\'' | '"' => rest[1..].find(c).map_or(rest.len(), |end| end + 2),
            '[' | '{' => {
                depth += 1;
                value_next = c == '[';
                1
            }
            ']' | '}' => {
                depth = depth.saturating_sub(1);
                1
            }
            ',' if depth > 0 => {
                value_next = true;
                1
            }
            ':' if rest[1..].starts_with([' ', '\t']) => {
                value_next = true;
                1
            }
            '-' if rest[1..].starts_with(' ') && begins_item(out) => {
                value_next = true;
                1
            }
            ' ' | '\t' | '\r' | '\n' => 1,
            _ => {
                let end = rest
                    .find(|c| c == '\n' || (depth > 0 && ",]}:".contains(c)))
                    .unwrap_or(rest.len());
                let end = rest[..end].find(" #").unwrap_or(end);
                let word = rest[..end].trim_end();
                let boolean = match word {
                    "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some("true"),
                    "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some("false"),
                    _ => None,
                };
                match boolean {
                    Some(boolean) if std::mem::take(&mut value_next) => {
                        out.push_str(boolean);
                        rest = &rest[word.len()..];
                        continue;
                    }
                    _ => {
                        value_next = false;
                        // Up to the colon of a key, or the whole plain text.
                        rest.find([':', ',', ']', '}', '\n', ' '])
                            .unwrap_or(rest.len())
                            .max(c.len_utf8())
                    }
                }
            }
        };
        if matches!(c, '\'' | '"') {
            value_next = false;
        }
        out.push_str(&rest[..step]);
        rest = &rest[step..];
    }
    out.push_str(rest);
}

/// Whether only blanks and dashes of enclosing lists stand before this place in its line.
fn begins_item(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or(before);
    line.chars().all(|c| matches!(c, ' ' | '-'))
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_some<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Int(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Int(v.into()))
    }
    fn visit_i128<E>(self, v: i128) -> Result<Node, E> {
        Ok(Node::Int(v))
    }
    fn visit_u128<E>(self, v: u128) -> Result<Node, E> {
        Ok(i128::try_from(v).map_or(Node::Float(v as f64), Node::Int))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Str(v.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::Seq(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
    /// A tag that YAML does not define is dropped.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Node, A::Error> {
        let (_, variant) = data.variant::<String>()?;
        variant.newtype_variant()
    }
}
