//! Why the log took nothing, or stopped.

use std::path::PathBuf;

/// Why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError {
    /// Too much waits for the disk already. Certainly without effect: answer `too many requests`.
    Full {
        pending_bytes: usize,
        limit_bytes: usize,
    },
    /// A record larger than a segment.
    TooLarge { bytes: usize, limit_bytes: usize },
    /// Entries that do not follow the log or one another.
    OutOfOrder { last_index: u64, index: u64 },
    /// The log failed; this member must not acknowledge anything any more.
    Failed,
}

impl std::fmt::Display for AppendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AppendError::Full {
                pending_bytes,
                limit_bytes,
            } => {
                write!(
                    f,
                    "{pending_bytes} bytes wait for the log already, the limit is {limit_bytes}"
                )
            }
            AppendError::TooLarge { bytes, limit_bytes } => {
                write!(f, "a log record of {bytes} bytes does not fit a segment, the limit is {limit_bytes}")
            }
            AppendError::OutOfOrder { last_index, index } => {
                write!(f, "entry {index} does not follow entry {last_index}")
            }
            AppendError::Failed => f.write_str("the log has failed"),
        }
    }
}

impl std::error::Error for AppendError {}

/// A failed write, flush or file operation. Final: the process must stop acknowledging and exit (P4).
#[derive(Clone, Debug)]
pub struct WalFailed {
    pub file: PathBuf,
    pub offset: u64,
    pub errno: Option<i32>,
    pub doing: &'static str,
    pub message: String,
}

impl std::fmt::Display for WalFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let WalFailed {
            file,
            offset,
            doing,
            message,
            ..
        } = self;
        write!(
            f,
            "{doing} {} at offset {offset}: {message}; nothing is acknowledged after this, ",
            file.display()
        )?;
        f.write_str("check the device and restart, the log is read again from the device then")
    }
}

impl std::error::Error for WalFailed {}
