//! Cells: what a leaf or branch page holds per key (FORMAT.md, "Cells").
//!
//! Both kinds begin with the key's part, so that searching is the same for both; a separator moves between pages as these
//! very bytes, its overflow extent included.

use crate::page::{extent_pages, u16_at, u32_at, u64_at, Absent, PageNo, Pages};
use std::{borrow::Cow, cmp::Ordering};

/// Keys up to this many bytes lie in their cell.
pub(super) const KEY_INLINE_MAX: usize = 512;
/// Of a longer key so many bytes lie in the cell and the rest in an overflow extent.
pub(super) const KEY_HEAD: usize = 64;
/// Values from this many bytes up lie in an overflow extent.
pub(super) const VALUE_OVERFLOW_MIN: usize = 1024;

const KEY_LEN_MASK: u16 = 0x03ff;
const KEY_OVERFLOW: u16 = 0x0400;
const VALUE_OVERFLOW: u16 = 0x0800;
const WEIGHT_ONE: u16 = 0x1000;
const WEIGHT_WIDE: u16 = 0x2000;
const UNKNOWN_FLAGS: u16 = 0xc000;
/// Flags that belong to the key's part.
const KEY_FLAGS: u16 = KEY_LEN_MASK | KEY_OVERFLOW;

const FLAGS_BYTES: usize = 2;
/// Page number and length.
const REF_BYTES: usize = 8;
const CHILD_BYTES: usize = 12;

/// Where the rest of a key or a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverflowRef {
    pub page: PageNo,
    pub len: u32,
}

impl OverflowRef {
    pub(super) fn pages(self) -> u32 {
        extent_pages(self.len as usize)
    }

    pub(super) fn read<'p>(&self, pages: &'p Pages) -> Result<&'p [u8], Absent> {
        pages.extent(self.page, self.len as usize)
    }

    pub(super) fn release(self, pages: &mut Pages) {
        pages.release(self.page, self.pages());
    }

    fn at(bytes: &[u8], at: usize) -> OverflowRef {
        OverflowRef {
            page: PageNo(u32_at(bytes, at)),
            len: u32_at(bytes, at + 4),
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.page.0.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }
}

/// The key's part of a cell: flags, the bytes kept inline, and where the rest is.
#[derive(Clone, Copy)]
pub(super) struct KeyPart<'a>(pub &'a [u8]);

impl<'a> KeyPart<'a> {
    /// The key's part at the start of a cell.
    #[inline]
    pub(super) fn of(cell: &'a [u8]) -> KeyPart<'a> {
        KeyPart(cell)
    }

    #[inline]
    fn flags(self) -> u16 {
        u16_at(self.0, 0)
    }

    #[inline]
    pub(super) fn inline(self) -> &'a [u8] {
        let len = usize::from(self.flags() & KEY_LEN_MASK);
        &self.0[FLAGS_BYTES..FLAGS_BYTES + len]
    }

    pub(super) fn is_long(self) -> bool {
        self.flags() & KEY_OVERFLOW != 0
    }

    #[inline]
    pub(super) fn overflow(self) -> Option<OverflowRef> {
        if !self.is_long() {
            return None;
        }
        Some(OverflowRef::at(self.0, FLAGS_BYTES + self.inline().len()))
    }

    #[inline]
    pub(super) fn len(self) -> usize {
        let overflow = if self.is_long() { REF_BYTES } else { 0 };
        FLAGS_BYTES + usize::from(self.flags() & KEY_LEN_MASK) + overflow
    }

    /// Writes the key's part alone, without flags of the rest of the cell.
    pub(super) fn append_to(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.flags() & KEY_FLAGS).to_le_bytes());
        out.extend_from_slice(&self.0[FLAGS_BYTES..self.len()]);
    }

    pub(super) fn read<'p>(self, pages: &'p Pages) -> Result<Cow<'p, [u8]>, Absent>
    where
        'a: 'p,
    {
        let head = self.inline();
        let Some(overflow) = self.overflow() else {
            return Ok(Cow::Borrowed(head));
        };
        let rest = overflow.read(pages)?;
        Ok(Cow::Owned([head, rest].concat()))
    }

    /// Compares this key with another one.
    #[inline]
    pub(super) fn compare(self, pages: &Pages, key: &[u8]) -> Result<Ordering, Absent> {
        let head = self.inline();
        let Some(overflow) = self.overflow() else {
            return Ok(head.cmp(key));
        };
        let split = head.len().min(key.len());
        match head.cmp(&key[..split]) {
            Ordering::Equal => {}
            unequal => return Ok(unequal),
        }
        if key.len() <= head.len() {
            return Ok(Ordering::Greater);
        }
        Ok(overflow.read(pages)?.cmp(&key[split..]))
    }

    /// Writes the key's part for a key, with an overflow extent of its own if it is long.
    pub(super) fn build(pages: &mut Pages, key: &[u8], out: &mut Vec<u8>) {
        if key.len() <= KEY_INLINE_MAX {
            out.extend_from_slice(&(key.len() as u16).to_le_bytes());
            out.extend_from_slice(key);
            return;
        }
        let (head, rest) = key.split_at(KEY_HEAD);
        let page = pages.create_extent(rest);
        out.extend_from_slice(&(KEY_HEAD as u16 | KEY_OVERFLOW).to_le_bytes());
        out.extend_from_slice(head);
        let len = rest.len() as u32;
        OverflowRef { page, len }.put(out);
    }

    fn bytes_for(key_len: usize) -> usize {
        if key_len <= KEY_INLINE_MAX {
            FLAGS_BYTES + key_len
        } else {
            FLAGS_BYTES + KEY_HEAD + REF_BYTES
        }
    }
}

/// Writes another page into an overflow reference of a leaf cell: the key's, or the value's.
pub(super) fn set_overflow(cell: &mut [u8], is_key: bool, page: PageNo) {
    let at = if is_key {
        KeyPart::of(cell).len() - REF_BYTES
    } else {
        LeafCell(cell).value_at()
    };
    cell[at..at + 4].copy_from_slice(&page.0.to_le_bytes());
}

/// The value of a leaf cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Inline(&'a [u8]),
    Overflow(OverflowRef),
}

impl<'a> Value<'a> {
    pub(super) fn read<'p>(self, pages: &'p Pages) -> Result<&'p [u8], Absent>
    where
        'a: 'p,
    {
        match self {
            Value::Inline(bytes) => Ok(bytes),
            Value::Overflow(overflow) => overflow.read(pages),
        }
    }
}

/// A leaf cell: key, value length, weight if it is neither 0 nor 1, value.
#[derive(Clone, Copy)]
pub(super) struct LeafCell<'a>(pub &'a [u8]);

impl<'a> LeafCell<'a> {
    pub(super) fn key(self) -> KeyPart<'a> {
        KeyPart(self.0)
    }

    pub(super) fn weight(self) -> u32 {
        let flags = self.key().flags();
        if flags & WEIGHT_WIDE != 0 {
            return u32_at(self.0, self.key().len() + 2);
        }
        u32::from(flags & WEIGHT_ONE != 0)
    }

    fn value_at(self) -> usize {
        let wide = self.key().flags() & WEIGHT_WIDE != 0;
        self.key().len() + 2 + if wide { 4 } else { 0 }
    }

    #[inline]
    pub(super) fn value(self) -> Value<'a> {
        let at = self.value_at();
        if self.key().flags() & VALUE_OVERFLOW != 0 {
            return Value::Overflow(OverflowRef::at(self.0, at));
        }
        let len = usize::from(u16_at(self.0, self.key().len()));
        Value::Inline(&self.0[at..at + len])
    }

    pub(super) fn len(self) -> usize {
        let value = if self.key().flags() & VALUE_OVERFLOW != 0 {
            REF_BYTES
        } else {
            usize::from(u16_at(self.0, self.key().len()))
        };
        self.value_at() + value
    }

    /// Bytes of the cell for a key and value.
    pub(super) fn bytes_for(key_len: usize, value_len: usize, weight: u32) -> usize {
        let value = if value_len < VALUE_OVERFLOW_MIN {
            value_len
        } else {
            REF_BYTES
        };
        let wide = if weight > 1 { 4 } else { 0 };
        KeyPart::bytes_for(key_len) + 2 + wide + value
    }

    /// Writes a cell behind a key's part that is in `out` already.
    pub(super) fn build(pages: &mut Pages, value: &[u8], weight: u32, out: &mut Vec<u8>) {
        let mut flags = u16_at(out, 0) & KEY_FLAGS;
        flags |= match weight {
            0 => 0,
            1 => WEIGHT_ONE,
            _ => WEIGHT_WIDE,
        };
        let is_inline = value.len() < VALUE_OVERFLOW_MIN;
        let inline_len = if is_inline { value.len() as u16 } else { 0 };
        out.extend_from_slice(&inline_len.to_le_bytes());
        if weight > 1 {
            out.extend_from_slice(&weight.to_le_bytes());
        }
        if is_inline {
            out.extend_from_slice(value);
        } else {
            flags |= VALUE_OVERFLOW;
            let page = pages.create_extent(value);
            let len = value.len() as u32;
            OverflowRef { page, len }.put(out);
        }
        out[..FLAGS_BYTES].copy_from_slice(&flags.to_le_bytes());
    }
}

/// A branch cell: separator, child page, weight of everything below the child.
#[derive(Clone, Copy)]
pub(super) struct BranchCell<'a>(pub &'a [u8]);

impl<'a> BranchCell<'a> {
    pub(super) fn key(self) -> KeyPart<'a> {
        KeyPart(self.0)
    }

    #[inline]
    pub(super) fn child(self) -> PageNo {
        PageNo(u32_at(self.0, self.key().len()))
    }

    pub(super) fn weight(self) -> u64 {
        u64_at(self.0, self.key().len() + 4)
    }

    pub(super) fn len(self) -> usize {
        self.key().len() + CHILD_BYTES
    }

    /// Writes a cell behind a key's part that is in `out` already.
    pub(super) fn build(child: PageNo, weight: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&child.0.to_le_bytes());
        out.extend_from_slice(&weight.to_le_bytes());
    }

    /// The same cell as the first of a page: what is left of its separator stands for "below all".
    pub(super) fn as_first(self) -> Vec<u8> {
        let mut cell = vec![0; FLAGS_BYTES];
        BranchCell::build(self.child(), self.weight(), &mut cell);
        cell
    }

    pub(super) fn set_child(cell: &mut [u8], child: PageNo) {
        let at = KeyPart::of(cell).len();
        cell[at..at + 4].copy_from_slice(&child.0.to_le_bytes());
    }

    pub(super) fn set_weight(cell: &mut [u8], weight: u64) {
        let at = KeyPart::of(cell).len() + 4;
        cell[at..at + 8].copy_from_slice(&weight.to_le_bytes());
    }
}

/// The length of the cell that starts `bytes`, checked against them; `bytes` is what is left of its page.
pub(super) fn checked_len(bytes: &[u8], is_leaf: bool) -> Option<usize> {
    if bytes.len() < FLAGS_BYTES {
        return None;
    }
    let key = KeyPart::of(bytes);
    let flags = key.flags();
    let inline = usize::from(flags & KEY_LEN_MASK);
    let is_long = flags & KEY_OVERFLOW != 0;
    if flags & UNKNOWN_FLAGS != 0 || inline > KEY_INLINE_MAX || (is_long && inline != KEY_HEAD) {
        return None;
    }
    let fixed = key.len() + if is_leaf { 2 } else { CHILD_BYTES };
    let wide = if flags & WEIGHT_WIDE != 0 { 4 } else { 0 };
    if bytes.len() < fixed + wide {
        return None;
    }
    if is_leaf {
        let len = LeafCell(bytes).len();
        return (len <= bytes.len()).then_some(len);
    }
    (flags & !KEY_FLAGS == 0).then_some(fixed)
}
