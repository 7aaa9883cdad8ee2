//! Header blocks to field lists (RFC 7541 sections 3 and 6).

use super::{huffman, integer, static_table, table::Table, DecodeError, FieldList, Indexing};
use crate::limits;

/// A peer may lower the limit and raise it again before a block, hence two (section 4.2).
const SIZE_UPDATES_MAX: u32 = 2;

/// One direction's decoding state.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Our SETTINGS_HEADER_TABLE_SIZE: what the peer may use.
    allowed: usize,
    /// The setting was lowered: the next block must begin with an update at or below this.
    update_due: Option<usize>,
}

impl Decoder {
    pub fn new(table_bytes_max: usize) -> Decoder {
        Decoder {
            table: Table::new(table_bytes_max),
            allowed: table_bytes_max,
            update_due: None,
        }
    }

    /// The peer has acknowledged a new SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_table_bytes_max(&mut self, bytes: usize) {
        if bytes < self.table.limit() {
            self.update_due = Some(bytes);
        }
        self.allowed = bytes;
    }

    /// Changes when the dynamic table does. A block that did not change it decodes to the same fields until then.
    pub fn generation(&self) -> u64 {
        self.table.generation()
    }

    /// Decodes one whole block and appends its fields to `list`. Fields beyond the list limits are decoded for the
    /// table's sake and dropped ([`FieldList::fit`]).
    pub fn decode(&mut self, block: &[u8], list: &mut FieldList) -> Result<(), DecodeError> {
        let mut at = self.size_updates(block)?;
        while at < block.len() {
            let first = block[at];
            if first & 0x80 != 0 {
                let index = integer::decode(block, &mut at, 7)?;
                self.indexed(index, list)?;
            } else if first & 0x40 != 0 {
                self.literal(block, &mut at, 6, Indexing::Add, list)?;
            } else if first & 0x20 != 0 {
                return Err(DecodeError::InvalidSizeUpdate);
            } else if first & 0x10 != 0 {
                self.literal(block, &mut at, 4, Indexing::Never, list)?;
            } else {
                self.literal(block, &mut at, 4, Indexing::Without, list)?;
            }
            if list.size_bytes() > limits::HEADER_LIST_BYTES_CLOSE {
                return Err(DecodeError::ListTooLarge);
            }
        }
        Ok(())
    }

    /// Updates may stand only at the start; returns where the fields begin.
    fn size_updates(&mut self, block: &[u8]) -> Result<usize, DecodeError> {
        let mut at = 0;
        let mut seen = 0;
        while block.get(at).is_some_and(|b| b & 0xe0 == 0x20) {
            let size = integer::decode(block, &mut at, 5)? as usize;
            seen += 1;
            if size > self.allowed || seen > SIZE_UPDATES_MAX {
                return Err(DecodeError::InvalidSizeUpdate);
            }
            if self.update_due.is_some_and(|due| size <= due) {
                self.update_due = None;
            }
            self.table.resize(size);
        }
        match self.update_due {
            Some(_) => Err(DecodeError::InvalidSizeUpdate),
            None => Ok(at),
        }
    }

    #[inline]
    fn lookup(&self, index: u32) -> Result<(&[u8], &[u8]), DecodeError> {
        let index = index as usize;
        if index > static_table::LEN {
            self.table
                .get(index - static_table::LEN - 1)
                .ok_or(DecodeError::InvalidIndex)
        } else if index > 0 {
            Ok(static_table::ENTRIES[index - 1])
        } else {
            Err(DecodeError::InvalidIndex)
        }
    }

    #[inline]
    fn indexed(&mut self, index: u32, list: &mut FieldList) -> Result<(), DecodeError> {
        let (name, value) = self.lookup(index)?;
        let start = list.begin();
        list.buffer().extend_from_slice(name);
        list.buffer().extend_from_slice(value);
        let name_len = name.len();
        list.commit(start, name_len, Indexing::Add);
        Ok(())
    }

    fn literal(
        &mut self,
        block: &[u8],
        at: &mut usize,
        prefix_bits: u32,
        indexing: Indexing,
        list: &mut FieldList,
    ) -> Result<(), DecodeError> {
        let start = list.begin();
        let index = integer::decode(block, at, prefix_bits)?;
        if index == 0 {
            string(block, at, list.buffer())?;
        } else {
            let (name, _) = self.lookup(index)?;
            list.buffer().extend_from_slice(name);
        }
        let name_len = list.begin() - start;
        string(block, at, list.buffer())?;
        if indexing == Indexing::Add {
            // The name has been copied: inserting may evict the entry that it came from (section 4.4).
            let (name, value) = list.pending(start, name_len);
            self.table.insert(name, value);
        }
        list.commit(start, name_len, indexing);
        Ok(())
    }
}

/// Appends a string literal (section 5.2). Its length is checked against the block before anything is reserved.
fn string(block: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let huffman_coded = block.get(*at).ok_or(DecodeError::Truncated)? & 0x80 != 0;
    let length = integer::decode(block, at, 7)? as usize;
    let end = at
        .checked_add(length)
        .filter(|&end| end <= block.len())
        .ok_or(DecodeError::Truncated)?;
    let raw = &block[*at..end];
    *at = end;
    if huffman_coded {
        huffman::decode(raw, out)
    } else {
        out.extend_from_slice(raw);
        Ok(())
    }
}
