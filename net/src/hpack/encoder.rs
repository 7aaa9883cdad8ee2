//! Fields to header blocks (RFC 7541 section 6).

use super::{huffman, integer, static_table, table::Table, Field, Indexing};
use crate::planted::{planted, Fault};

/// One direction's encoding state.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// The most this encoder uses, whatever the peer allows.
    own_max: usize,
    /// Limits to announce at the start of the next block: the lowest since the last one, and the last.
    announce: Option<(usize, usize)>,
}

/// A block that is sent again and again: its bytes are kept for as long as the table does not change.
#[derive(Debug, Default)]
pub struct Prepared {
    bytes: Vec<u8>,
    generation: u64,
}

impl Encoder {
    pub fn new(own_max: usize) -> Encoder {
        Encoder {
            table: Table::new(own_max),
            own_max,
            announce: None,
        }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE. The change is announced in the next block.
    pub fn set_peer_max(&mut self, bytes: usize) {
        let limit = bytes.min(self.own_max);
        let current = self.announce.map_or(self.table.limit(), |(_, last)| last);
        if limit != current {
            let lowest = self.announce.map_or(limit, |(lowest, _)| lowest.min(limit));
            self.announce = Some((lowest, limit));
        }
    }

    /// Appends one block.
    pub fn encode<'a>(&mut self, fields: impl IntoIterator<Item = Field<'a>>, out: &mut Vec<u8>) {
        self.announce_limits(out);
        for field in fields {
            self.field(field, out);
        }
    }

    /// Appends the block of `fields`, which must be the same at every call with this `prepared`.
    #[inline]
    pub fn encode_prepared<'a>(
        &mut self,
        prepared: &mut Prepared,
        fields: impl IntoIterator<Item = Field<'a>>,
        out: &mut Vec<u8>,
    ) {
        if prepared.bytes.is_empty()
            || prepared.generation != self.table.generation()
            || self.announce.is_some()
        {
            return self.prepare(prepared, fields, out);
        }
        out.extend_from_slice(&prepared.bytes);
    }

    #[cold]
    fn prepare<'a>(
        &mut self,
        prepared: &mut Prepared,
        fields: impl IntoIterator<Item = Field<'a>>,
        out: &mut Vec<u8>,
    ) {
        self.announce_limits(out);
        let before = self.table.generation();
        prepared.bytes.clear();
        for field in fields {
            self.field(field, &mut prepared.bytes);
        }
        out.extend_from_slice(&prepared.bytes);
        if self.table.generation() == before {
            prepared.generation = before;
        } else {
            // This time fields were inserted; from the next time on they are references.
            prepared.bytes.clear();
        }
    }

    fn announce_limits(&mut self, out: &mut Vec<u8>) {
        if let Some((lowest, last)) = self.announce.take() {
            if lowest < last {
                integer::encode(lowest, 5, 0x20, out);
                self.table.resize(lowest);
            }
            if !planted(Fault::ResizeUntold) {
                integer::encode(last, 5, 0x20, out);
            }
            self.table.resize(last);
        }
    }

    fn field(&mut self, field: Field<'_>, out: &mut Vec<u8>) {
        let found = self.find(field.name, field.value);
        if let (Some((index, true)), Indexing::Add | Indexing::Without) = (found, field.indexing) {
            integer::encode(index, 7, 0x80, out);
            return;
        }
        // An entry larger than the table would only empty it.
        let indexing = match field.indexing {
            Indexing::Add if field.size_bytes() > self.table.limit() => Indexing::Without,
            Indexing::Never if planted(Fault::SecretForgotten) => Indexing::Without,
            indexing => indexing,
        };
        let (prefix_bits, pattern) = match indexing {
            Indexing::Add => (6, 0x40),
            Indexing::Without => (4, 0x00),
            Indexing::Never => (4, 0x10),
        };
        match found {
            Some((index, _)) => integer::encode(index, prefix_bits, pattern, out),
            None => {
                out.push(pattern);
                string(field.name, out);
            }
        }
        string(field.value, out);
        if indexing == Indexing::Add {
            self.table.insert(field.name, field.value);
        }
    }

    /// Index of the pair, else of the name.
    fn find(&self, name: &[u8], value: &[u8]) -> Option<(usize, bool)> {
        let mut by_name = match static_table::find(name, value) {
            Some((index, true)) => return Some((index, true)),
            other => other,
        };
        for age in 0..self.table.len() {
            let Some(entry) = self.table.get(age) else {
                break;
            };
            if entry.0 == name {
                let index = static_table::LEN + 1 + age;
                if entry.1 == value {
                    return Some((index, true));
                }
                by_name.get_or_insert((index, false));
            }
        }
        by_name
    }

    #[cfg(test)]
    pub(super) fn table_size(&self) -> usize {
        self.table.size()
    }
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    let coded = huffman::encoded_len(text);
    if coded < text.len() {
        integer::encode(coded, 7, 0x80, out);
        huffman::encode(text, out);
    } else {
        integer::encode(text.len(), 7, 0x00, out);
        out.extend_from_slice(text);
    }
}
