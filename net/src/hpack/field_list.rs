//! A decoded header list: names and values in one buffer.

use super::ENTRY_OVERHEAD_BYTES;
use crate::limits;

/// How a field was, or is to be, represented (RFC 7541 sections 6.2 and 7.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Indexing {
    /// May enter the dynamic table.
    #[default]
    Add,
    /// A literal that does not enter the table: the value will hardly come again.
    Without,
    /// A secret: a literal on every hop, in no table, anywhere.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    pub indexing: Indexing,
}

impl<'a> Field<'a> {
    pub fn new(name: &'a [u8], value: &'a [u8]) -> Field<'a> {
        Field {
            name,
            value,
            indexing: Indexing::Add,
        }
    }

    pub fn without_indexing(name: &'a [u8], value: &'a [u8]) -> Field<'a> {
        Field {
            name,
            value,
            indexing: Indexing::Without,
        }
    }

    pub fn never_indexed(name: &'a [u8], value: &'a [u8]) -> Field<'a> {
        Field {
            name,
            value,
            indexing: Indexing::Never,
        }
    }

    /// What the field counts in a header list.
    pub fn size_bytes(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    name_len: u32,
    value_len: u32,
    indexing: Indexing,
}

/// Whether a decoded list stayed within the limits of [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    #[default]
    Complete,
    /// Fields beyond the limit were decoded, so that the table is right, and dropped.
    Truncated,
}

/// A header list in order. Reused from block to block, so decoding allocates nothing once the buffers have grown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldList {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    size_bytes: usize,
    fit: Fit,
}

impl FieldList {
    pub fn new() -> FieldList {
        FieldList::default()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.size_bytes = 0;
        self.fit = Fit::Complete;
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Names and values as transferred, plus 32 for each field; also of the fields that were dropped.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    pub fn fit(&self) -> Fit {
        self.fit
    }

    pub fn push(&mut self, field: Field<'_>) {
        let start = self.begin();
        self.bytes.extend_from_slice(field.name);
        self.bytes.extend_from_slice(field.value);
        self.commit(start, field.name.len(), field.indexing);
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'_>> + Clone {
        self.spans.iter().map(|span| {
            let name_end = (span.start + span.name_len) as usize;
            Field {
                name: &self.bytes[span.start as usize..name_end],
                value: &self.bytes[name_end..name_end + span.value_len as usize],
                indexing: span.indexing,
            }
        })
    }

    /// Starts a field at the end of the buffer: the decoder appends the name, then the value, then commits.
    pub(super) fn begin(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Name and value of the field that was begun at `start`.
    pub(super) fn pending(&self, start: usize, name_len: usize) -> (&[u8], &[u8]) {
        self.bytes[start..].split_at(name_len)
    }

    /// Ends the field begun at `start`; beyond the limits it only counts.
    pub(super) fn commit(&mut self, start: usize, name_len: usize, indexing: Indexing) {
        let value_len = self.bytes.len() - start - name_len;
        self.size_bytes += name_len + value_len + ENTRY_OVERHEAD_BYTES;
        if self.size_bytes > limits::HEADER_LIST_BYTES_MAX
            || self.spans.len() >= limits::HEADER_COUNT_MAX
        {
            self.fit = Fit::Truncated;
            self.bytes.truncate(start);
            return;
        }
        self.spans.push(Span {
            start: start as u32,
            name_len: name_len as u32,
            value_len: value_len as u32,
            indexing,
        });
    }
}
