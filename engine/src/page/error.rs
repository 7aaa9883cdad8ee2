//! What can be wrong with a page or a page file, and what the operator can do about it.

use super::{PageNo, PAGE_BYTES};
use std::{error::Error, fmt, io};

/// Why a page cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// The checksum does not match the content.
    Checksum,
    /// A valid page, but of another place: a misdirected write.
    WrongPage { found: u32 },
    /// The page lies beyond the end of the file.
    BeyondEnd,
    /// The checksum holds but the content contradicts itself or the page that names it.
    Malformed(&'static str),
    /// The device or the file system refused.
    Io(String),
    /// The mapping of the page faulted (SIGBUS): what was read there was not the page.
    Unmapped,
}

/// A damaged page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageError {
    pub file: String,
    pub page: PageNo,
    pub fault: PageFault,
}

impl PageError {
    pub fn offset(&self) -> u64 {
        self.page.offset()
    }
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, page, offset) = (&self.file, self.page.0, self.offset());
        write!(f, "{file}: page {page} at offset {offset} ")?;
        match &self.fault {
            PageFault::Checksum => write!(f, "is damaged: its checksum does not match"),
            PageFault::WrongPage { found } => {
                write!(f, "holds the content of page {found}: a misdirected write")
            }
            PageFault::BeyondEnd => write!(f, "lies beyond the end of the file"),
            PageFault::Malformed(why) => write!(f, "{why}"),
            PageFault::Io(e) => write!(f, "cannot be read: {e}"),
            PageFault::Unmapped => write!(f, "could not be read through the mapping"),
        }?;
        write!(
            f,
            "; replace this member, or restore it from a snapshot, after checking the device"
        )
    }
}

impl Error for PageError {}

/// Why a page file cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    Io {
        file: String,
        during: &'static str,
        error: io::Error,
    },
    /// Empty or shorter than its two meta pages.
    NotThere { file: String, len: u64 },
    /// Made by another program or a newer version.
    Unknown { file: String, why: String },
    /// Neither meta page can be used. One reason for each.
    NoMeta { file: String, reasons: [String; 2] },
    /// Shorter than the newest meta page says.
    Truncated { file: String, len: u64, needed: u64 },
}

impl OpenError {
    /// Whether the content is lost, rather than out of reach.
    pub fn is_damage(&self) -> bool {
        match self {
            OpenError::NotThere { .. } | OpenError::NoMeta { .. } | OpenError::Truncated { .. } => {
                true
            }
            OpenError::Io { .. } | OpenError::Unknown { .. } => false,
        }
    }

    /// What is wrong, without what to do about it where content is lost.
    pub fn what(&self) -> String {
        match self {
            OpenError::Io {
                file,
                during,
                error,
            } => format!("{file}: {during} failed: {error}"),
            OpenError::NotThere { file, len } => format!(
                "{file}: has {len} bytes and should begin with two meta pages of {PAGE_BYTES} bytes at offset 0; \
                 the file was lost or cut"
            ),
            OpenError::Unknown { file, why } => format!("{file}: {why}"),
            OpenError::NoMeta { file, reasons } => format!(
                "{file}: no usable meta page: at offset 0: {}; at offset {PAGE_BYTES}: {}",
                reasons[0], reasons[1]
            ),
            OpenError::Truncated { file, len, needed } => format!(
                "{file}: has {len} bytes but its newest meta page needs {needed}: the file was cut at offset {len}"
            ),
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REMEDY: &str =
            "remove the member and add it again with an empty data directory, or restore a snapshot";
        f.write_str(&self.what())?;
        match self.is_damage() {
            true => write!(f, "; {REMEDY}"),
            false => Ok(()),
        }
    }
}

impl Error for OpenError {}
