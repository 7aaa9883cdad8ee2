//! The configuration file.
//!
//! etcd turns YAML into JSON and decodes that with Go's rules: keys match in any letter case, of several spellings the
//! bytewise last one wins, unknown keys are nothing, and types are strict. What etcd overlooks in silence (unknown and
//! repeated keys, further documents) is reported with a warning here.

use std::fmt;

use serde::{
    de::{EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor},
    Deserialize,
};

use super::{
    flags::{Flag, Kind, Place, FLAGS},
    help::nearest,
    url,
    value::{self, Value},
};
use crate::{
    caller,
    logging::{Level, Record},
};

/// Why a file was refused.
#[derive(Debug, PartialEq)]
pub(super) enum FileError {
    /// Goes with `failed to verify flags`.
    Verify(String),
    /// A line of its own on stderr, with the exit code.
    Plain(String, i32),
}

/// A YAML value in which a mapping keeps every entry, repeated keys included.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Seq(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// The settings of a file, in the order in which they apply.
pub(super) fn parse(
    text: &str,
    notes: &mut Vec<Record>,
) -> Result<Vec<(&'static Flag, Value)>, FileError> {
    let top = match document(text, notes)? {
        Node::Null => return Ok(Vec::new()),
        Node::Map(entries) => entries,
        other => {
            return Err(FileError::Verify(format!(
                "{UNMARSHAL} cannot unmarshal {} into Go value of type embed.configYAML",
                other.json_kind(false)
            )))
        }
    };
    let mut reader = Reader {
        notes,
        raw: Vec::new(),
        first_error: None,
    };
    reader.top(keyed(top)?)?;
    match reader.first_error {
        Some(text) => Err(FileError::Verify(text)),
        None => resolve(reader.raw),
    }
}

const UNMARSHAL: &str = "error unmarshaling JSON: while decoding JSON: json:";

/// The first document; an empty file is null.
fn document(text: &str, notes: &mut Vec<Record>) -> Result<Node, FileError> {
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

/// Keys as JSON has them: text.
fn keyed(entries: Vec<(Node, Node)>) -> Result<Vec<(String, Node)>, FileError> {
    entries
        .into_iter()
        .map(|(key, value)| {
            let key = match key {
                Node::Str(text) => text,
                Node::Bool(value) => value.to_string(),
                Node::Int(value) => value.to_string(),
                Node::Float(value) => value.to_string(),
                other => {
                    let text = format!(
                        "error converting YAML to JSON: yaml: invalid map key: {}",
                        other.json_kind(false)
                    );
                    return Err(FileError::Verify(text));
                }
            };
            Ok((key, value))
        })
        .collect()
}

struct Reader<'a> {
    notes: &'a mut Vec<Record>,
    raw: Vec<(&'static Flag, Value)>,
    /// A wrong type does not end the reading, but the first one is what is reported.
    first_error: Option<String>,
}

impl Reader<'_> {
    fn top(&mut self, entries: Vec<(String, Node)>) -> Result<(), FileError> {
        for (key, node) in self.in_order("", entries) {
            let lower = key.to_ascii_lowercase();
            if let Some(flag) = FLAGS
                .iter()
                .find(|f| f.place() == Place::Top(known_name(f, &lower)))
            {
                self.assign(flag, &lower, node, "configYAML.Config.");
                continue;
            }
            let in_block =
                |f: &&Flag| matches!(f.place(), Place::Block(block, _) if block == lower);
            if FLAGS.iter().any(|f| in_block(&f)) {
                self.block(&lower, node)?;
            } else if lower == "discovery-config" && node != Node::Null {
                return Err(FileError::Verify(
                    "discovery-config is not supported by this version of ringd; name the members with initial-cluster".into(),
                ));
            } else if lower != "discovery-config" {
                self.unknown("", &key);
            }
        }
        Ok(())
    }

    fn block(&mut self, block: &str, node: Node) -> Result<(), FileError> {
        let entries = match node {
            Node::Null => return Ok(()),
            Node::Map(entries) => keyed(entries)?,
            other => {
                let kind = other.json_kind(false);
                let go_type = if block == "socket-options" {
                    "transport.SocketOpts"
                } else {
                    "embed.securityConfig"
                };
                self.mismatch(&kind, "configYAML.configJSON.", block, go_type);
                return Ok(());
            }
        };
        for (key, node) in self.in_order(block, entries) {
            let lower = key.to_ascii_lowercase();
            let here =
                |f: &&Flag| matches!(f.place(), Place::Block(b, k) if b == block && k == lower);
            match FLAGS.iter().find(here) {
                Some(flag) => self.assign(
                    flag,
                    &format!("{block}.{lower}"),
                    node,
                    "configYAML.configJSON.",
                ),
                None => self.unknown(block, &key),
            }
        }
        Ok(())
    }

    /// Sorts entries as Go's JSON has them and reports repetitions: of equal keys the last one stays, of keys that differ
    /// in case the one that sorts last comes last and wins.
    fn in_order(&mut self, block: &str, entries: Vec<(String, Node)>) -> Vec<(String, Node)> {
        let mut kept: Vec<(String, Node)> = Vec::new();
        for (key, node) in entries {
            if kept.iter().any(|(k, _)| k.eq_ignore_ascii_case(&key)) {
                let note = Record::new(Level::Warn, caller!(), "duplicate configuration key");
                self.notes.push(note.with("key", path(block, &key)));
            }
            kept.retain(|(k, _)| *k != key);
            kept.push((key, node));
        }
        kept.sort_by(|a, b| a.0.cmp(&b.0));
        kept
    }

    fn unknown(&mut self, block: &str, key: &str) {
        let lower = key.to_ascii_lowercase();
        let mut note = Record::new(Level::Warn, caller!(), "ignored unknown configuration key")
            .with("key", path(block, key));
        if let Some(name) = suggestion(block, &lower, key) {
            note = note.with("nearest", name);
        }
        self.notes.push(note);
    }

    fn mismatch(&mut self, kind: &str, prefix: &str, key: &str, go_type: &str) {
        let text = format!("{UNMARSHAL} cannot unmarshal {kind} into Go struct field {prefix}{key} of type {go_type}");
        self.first_error.get_or_insert(text);
    }

    fn assign(&mut self, flag: &'static Flag, key: &str, node: Node, prefix: &str) {
        if node == Node::Null {
            return;
        }
        let expected = go_type(flag);
        let value = match (flag.kind, &node) {
            (Kind::Bool, Node::Bool(v)) => Some(Value::Bool(*v)),
            (Kind::Uint, node) => node
                .integer()
                .and_then(|v| u64::try_from(v).ok())
                .map(Value::Uint),
            (Kind::Uint32, node) => node
                .integer()
                .and_then(|v| u32::try_from(v).ok())
                .map(|v| Value::Uint(v.into())),
            (Kind::Int, node) => node
                .integer()
                .and_then(|v| i64::try_from(v).ok())
                .map(Value::Int),
            (Kind::Duration, node) => node
                .integer()
                .and_then(|v| i64::try_from(v).ok())
                .map(Value::Duration),
            (_, Node::Seq(items)) if flag.is_yaml_list() => {
                let mut words = Vec::with_capacity(items.len());
                for item in items {
                    match item {
                        Node::Str(text) => words.push(text.clone()),
                        Node::Null => words.push(String::new()),
                        other => {
                            return self.mismatch(&other.json_kind(false), prefix, key, "string")
                        }
                    }
                }
                Some(Value::Words(words))
            }
            (Kind::Bool, _) => None,
            (_, Node::Str(text)) if !flag.is_yaml_list() => Some(Value::Text(text.clone())),
            _ => None,
        };
        match value {
            Some(value) => self.raw.push((flag, value)),
            None => {
                let numeric = matches!(
                    flag.kind,
                    Kind::Uint | Kind::Uint32 | Kind::Int | Kind::Duration
                );
                self.mismatch(&node.json_kind(numeric), prefix, key, expected);
            }
        }
    }
}

/// The key of a flag's row when it is the one looked for, so that `Place::Top` can be compared in one go.
fn known_name(flag: &Flag, lower: &str) -> &'static str {
    match flag.place() {
        Place::Top(name) if name == lower => name,
        _ => "",
    }
}

fn path(block: &str, key: &str) -> String {
    if block.is_empty() {
        key.to_owned()
    } else {
        format!("{block}.{key}")
    }
}

fn suggestion(block: &str, lower: &str, key: &str) -> Option<String> {
    // A flag's name, or a block's key that lost its block.
    let moved = FLAGS.iter().find_map(|f| match f.place() {
        Place::Block(b, k) if b != block && (k == lower || f.name == lower) => {
            Some(format!("{b}.{k}"))
        }
        Place::Top(k) if f.name == lower && k != lower => Some(k.to_owned()),
        _ => None,
    });
    if moved.is_some() {
        return moved;
    }
    let mut known: Vec<&'static str> = FLAGS
        .iter()
        .filter_map(|f| match f.place() {
            Place::Top(k) if block.is_empty() => Some(k),
            Place::Block(b, _) if block.is_empty() => Some(b),
            Place::Block(b, k) if b == block => Some(k),
            _ => None,
        })
        .collect();
    known.sort_unstable();
    known.dedup();
    nearest(key, &known)
}

fn go_type(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Bool => "bool",
        Kind::Uint if flag.name == "snapshot-count" => "uint64",
        Kind::Uint => "uint",
        Kind::Uint32 => "uint32",
        Kind::Int if flag.name == "quota-backend-bytes" => "int64",
        Kind::Int => "int",
        Kind::Duration => "time.Duration",
        _ if flag.is_yaml_list() => "[]string",
        _ => "string",
    }
}

/// Turns the texts of URL lists into lists, in the order in which etcd does, and drops empty ones.
fn resolve(raw: Vec<(&'static Flag, Value)>) -> Result<Vec<(&'static Flag, Value)>, FileError> {
    const ORDER: [&str; 6] = [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "initial-advertise-peer-urls",
        "advertise-client-urls",
        "listen-metrics-urls",
    ];
    let mut raw = raw;
    raw.sort_by_key(|(flag, _)| {
        ORDER
            .iter()
            .position(|name| *name == flag.name)
            .unwrap_or(ORDER.len())
    });
    let mut out = Vec::with_capacity(raw.len());
    for (flag, value) in raw {
        let text = match (&flag.kind, &value) {
            (Kind::Urls | Kind::Origins | Kind::WordSet, Value::Text(text)) => text.trim(),
            _ => {
                out.push((flag, value));
                continue;
            }
        };
        if text.is_empty() {
            continue;
        }
        match value::parse(flag.kind, text) {
            Ok(Some(value)) => out.push((flag, value)),
            Ok(None) => {}
            Err(why) if flag.kind == Kind::Urls => {
                let label = if flag.name == "advertise-client-urls" {
                    "advertise-peer-urls"
                } else {
                    flag.name
                };
                return Err(FileError::Plain(
                    format!("unexpected error setting up {label}: {why}"),
                    1,
                ));
            }
            Err(why) => {
                return Err(FileError::Plain(
                    format!("panic: new UniqueURLs should never fail: {why}"),
                    2,
                ));
            }
        }
    }
    debug_assert!(out
        .iter()
        .all(|(_, v)| !matches!(v, Value::Urls(urls) if url::join(urls).is_empty())));
    Ok(out)
}

impl Node {
    /// What Go calls the JSON value; a number that does not fit a numeric field is named by its digits too.
    fn json_kind(&self, with_digits: bool) -> String {
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
    fn integer(&self) -> Option<i128> {
        match self {
            Node::Int(v) => Some(*v),
            Node::Float(v) if v.fract() == 0.0 && v.abs() < 1e21 => Some(*v as i128),
            _ => None,
        }
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
