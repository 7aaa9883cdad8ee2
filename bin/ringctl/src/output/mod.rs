//! The five output formats.
//!
//! One file per format; each turns a response into text and knows nothing of commands. A format that etcdctl does not
//! offer for a response is an error with code 4, raised after the request was carried out, as there.

pub mod fields;
pub mod json;
pub mod simple;
pub mod table;

use std::io::Write;

use crate::{
    failure::{Failure, BAD_FEATURE},
    global::Format,
};

/// Writes to stdout at once: a reader behind a pipe sees every response when it comes.
pub fn emit(text: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(Failure::from)
}

/// The error for a response that the format does not know.
pub fn unsupported(format: Format) -> Failure {
    let name = match format {
        Format::Simple => "simple",
        Format::Json => "json",
        Format::Fields => "fields",
        Format::Table => "table",
        Format::Protobuf => "protobuf",
    };
    Failure::new(
        BAD_FEATURE,
        format!("{name} not supported as output format"),
    )
}
