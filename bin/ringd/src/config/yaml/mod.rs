//! The configuration file.
//!
//! etcd turns YAML into JSON and decodes that with Go's rules: keys match in any letter case, of several spellings the
//! bytewise last one wins, unknown keys are nothing, and types are strict. What etcd overlooks in silence (unknown and
//! repeated keys, further documents) is reported with a warning here.

mod node;

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
use node::Node;

/// Why a file was refused.
#[derive(Debug, PartialEq)]
pub(super) enum FileError {
    /// Goes with `failed to verify flags`.
    Verify(String),
    /// A line of its own on stderr, with the exit code.
    Plain(String, i32),
}

/// The settings of a file, in the order in which they apply.
pub(super) fn parse(
    text: &str,
    notes: &mut Vec<Record>,
) -> Result<Vec<(&'static Flag, Value)>, FileError> {
    let top = match node::document(text, notes)? {
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
            if is_block(&lower) {
                self.block(&lower, node)?;
            } else {
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
                let go_type = match block {
                    "socket-options" => "transport.SocketOpts",
                    "discovery-config" => "v3discovery.DiscoveryConfig",
                    "discovery-config.client" => "clientv3.ConfigSpec",
                    "discovery-config.client.secure" => "clientv3.SecureConfig",
                    "discovery-config.client.auth" => "clientv3.AuthConfig",
                    _ => "embed.securityConfig",
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
                None => {
                    let inner = path(block, &lower);
                    match is_block(&inner) {
                        true => self.block(&inner, node)?,
                        false => self.unknown(block, &key),
                    }
                }
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

/// Whether keys stand in this block or in one inside it.
fn is_block(path: &str) -> bool {
    FLAGS.iter().any(|flag| match flag.place() {
        Place::Block(block, _) => block
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
        _ => false,
    })
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
