//! HPACK, the header compression of HTTP/2 (RFC 7541).
//!
//! A header block goes through [`Decoder`] into a [`FieldList`], one contiguous buffer with spans, and from field
//! iterators through [`Encoder`] to bytes. Both sides keep a dynamic [`table`](self::table) that must stay in step with
//! the peer's, so every block has to be decoded, also one whose request is refused.
//!
//! What lets the floors above skip work: [`Decoder::generation`] changes with every change of the table, so a block that
//! left it alone decodes to the same fields as long as the generation stands; [`Prepared`] is the same idea for sending.

mod decoder;
mod encoder;
mod field_list;
mod huffman;
mod integer;
mod static_table;
mod table;

pub use decoder::Decoder;
pub use encoder::{Encoder, Prepared};
pub use field_list::{Field, FieldList, Fit, Indexing};

/// What every table entry and every field of a header list costs on top of its name and value (RFC 7541 section 4.1,
/// RFC 9113 section 6.5.2).
pub const ENTRY_OVERHEAD_BYTES: usize = 32;

/// Why a header block cannot be decoded. After any of these the tables of both sides differ, so the connection ends:
/// with COMPRESSION_ERROR, except for `ListTooLarge`, which is ENHANCE_YOUR_CALM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The block ends inside a field.
    Truncated,
    /// An integer of more than five continuation bytes or above 2^32-1.
    IntegerOverflow,
    /// Index 0, or one beyond both tables.
    InvalidIndex,
    /// EOS inside a string, padding of more than 7 bits or not of ones.
    InvalidHuffman,
    /// A table size update above our setting, not at the start of a block, more than two, or missing.
    InvalidSizeUpdate,
    /// The decoded list passed the hard limit.
    ListTooLarge,
}

impl DecodeError {
    pub fn text(self) -> &'static str {
        match self {
            DecodeError::Truncated => "hpack: block ends inside a field",
            DecodeError::IntegerOverflow => "hpack: integer overflow",
            DecodeError::InvalidIndex => "hpack: invalid index",
            DecodeError::InvalidHuffman => "hpack: invalid Huffman string",
            DecodeError::InvalidSizeUpdate => "hpack: invalid table size update",
            DecodeError::ListTooLarge => "header list too large",
        }
    }
}

#[cfg(test)]
mod tests;
