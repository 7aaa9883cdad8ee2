//! Ids, terms and URLs that differ from server to server, and their placeholders in a recording.

use std::collections::BTreeMap;

use protox::prost_reflect::{Kind, MessageDescriptor};
use serde_json::Value;

use crate::wire::{role, Field, Names, Role, Tree, Wire};

#[derive(Clone, Debug, Default)]
pub struct Ids {
    pub cluster_id: u64,
    pub term: u64,
    /// `MID` (`MID1`, `MID2` ... in a cluster) and names bound during a session → member id.
    pub members: BTreeMap<String, u64>,
    /// `PEERURL`, `CLIENTURL` → text; numbered as the ids.
    pub texts: BTreeMap<String, String>,
    /// The same placeholders on the recorded server.
    pub recorded: BTreeMap<String, String>,
}

impl Ids {
    /// The ids of the recorded server itself.
    pub fn recorded(first_line_ids: &Value) -> Self {
        let recorded: BTreeMap<String, String> = first_line_ids
            .as_object()
            .expect("ids are an object")
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().expect("ids are text").to_owned()))
            .collect();
        let number = |name: &str| recorded[name].parse().expect("a decimal id");
        Self {
            cluster_id: number("CID"),
            term: number("TERM"),
            members: recorded
                .keys()
                .filter(|name| name.starts_with("MID"))
                .map(|name| (name.clone(), number(name)))
                .collect(),
            texts: recorded
                .iter()
                .filter(|(name, _)| name.ends_with("URL"))
                .map(|(name, text)| (name.clone(), text.clone()))
                .collect(),
            recorded,
        }
    }

    fn recorded_number(&self, name: &str) -> Option<u64> {
        self.recorded.get(name)?.parse().ok()
    }

    /// The message as the recorded server would have sent it.
    pub fn recode(&self, message: &MessageDescriptor, tree: &Tree) -> Tree {
        tree.iter()
            .map(|field| Field {
                number: field.number,
                value: self.recode_value(message, field),
            })
            .collect()
    }

    fn recode_value(&self, message: &MessageDescriptor, field: &Field) -> Wire {
        let Some(descriptor) = message.get_field(field.number) else {
            return field.value.clone();
        };
        let role = role(message, &descriptor);
        match (&field.value, descriptor.kind()) {
            (Wire::Message(inner), Kind::Message(kind)) => Wire::Message(self.recode(&kind, inner)),
            (Wire::Bytes(text), _) if role == Role::Text => {
                let mut text = self.text_out(&String::from_utf8_lossy(text));
                for (name, value) in self.recorded.iter().rev() {
                    let replaced = ["MID", "PEERURL", "CLIENTURL", "NEW"];
                    if replaced.iter().any(|prefix| name.starts_with(prefix)) {
                        text = text.replace(name, value);
                    }
                }
                Wire::Bytes(text.into_bytes())
            }
            (Wire::Varint(n), _) => Wire::Varint(self.recode_number(role, *n)),
            (other, _) => other.clone(),
        }
    }

    fn recode_number(&self, role: Role, n: u64) -> u64 {
        match role {
            Role::ClusterId if n == self.cluster_id => self.recorded_number("CID").unwrap_or(n),
            Role::Term => {
                let recorded = self.recorded_number("TERM").unwrap_or(self.term);
                n.wrapping_sub(self.term).wrapping_add(recorded)
            }
            Role::MemberId => self.recorded_number(&self.number_out(role, n)).unwrap_or(n),
            _ => n,
        }
    }
}

impl Names for Ids {
    fn number_out(&self, role: Role, value: u64) -> String {
        let known = match role {
            Role::ClusterId if value == self.cluster_id => Some("CID"),
            Role::Term => Some("TERM"),
            Role::MemberId => {
                let mut members = self.members.iter();
                members
                    .find(|(_, id)| **id == value)
                    .map(|(name, _)| name.as_str())
            }
            _ => None,
        };
        known.map_or_else(|| value.to_string(), str::to_owned)
    }

    fn number_in(&self, text: &str) -> u64 {
        match (text, self.members.get(text)) {
            ("CID", _) => self.cluster_id,
            (_, Some(id)) => *id,
            _ => text
                .parse::<i64>()
                .map(|n| n as u64)
                .or_else(|_| text.parse())
                // A member that was not added here, though it was when this was recorded.
                .or_else(|_| self.recorded_number(text).ok_or(()))
                .unwrap_or_else(|()| panic!("no number: {text}")),
        }
    }

    fn text_out(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.texts {
            text = text.replace(value, name);
        }
        for (name, id) in &self.members {
            text = text.replace(&id.to_string(), name);
        }
        text
    }

    fn text_in(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.texts {
            text = text.replace(&format!("{{{name}}}"), value);
        }
        for (name, id) in &self.members {
            text = text.replace(&format!("{{{name}}}"), &id.to_string());
        }
        text
    }
}
