//! The outputs: each line is one write.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::net::UnixDatagram,
};

use super::{Level, Output};

const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

pub(super) enum Sink {
    Stderr,
    Stdout,
    File(File),
    Journal(UnixDatagram),
}

/// An output that could not be opened, with the text that etcd prints.
#[derive(Debug)]
pub struct OpenError(String);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OpenError {}

impl Sink {
    pub(super) fn open(output: &Output) -> Result<Sink, OpenError> {
        Ok(match output {
            Output::Stderr => Sink::Stderr,
            Output::Stdout => Sink::Stdout,
            Output::File(path) => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(|e| {
                        let name = path.to_string_lossy();
                        OpenError(format!(
                            "couldn't open sink {name:?}: open {name}: {}",
                            os_text(&e)
                        ))
                    })?;
                Sink::File(file)
            }
            Output::Journal => {
                let socket =
                    UnixDatagram::unbound().and_then(|s| s.connect(JOURNAL_SOCKET).map(|()| s));
                Sink::Journal(socket.map_err(|e| {
                    OpenError(format!(
                        "can't find journal (dial unixgram {JOURNAL_SOCKET}: connect: {})",
                        os_text(&e)
                    ))
                })?)
            }
        })
    }

    pub(super) fn write(&self, level: Level, line: &[u8]) {
        let _ = match self {
            // Rust's stderr is unbuffered: one write of the whole line.
            Sink::Stderr => io::stderr().write_all(line),
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line).and_then(|()| out.flush())
            }
            Sink::File(file) => (&*file).write_all(line),
            Sink::Journal(socket) => journal(socket, level, line),
        };
    }
}

/// The journal's native protocol: `NAME=value` lines. The message is one line, so that no binary form is needed.
fn journal(socket: &UnixDatagram, level: Level, line: &[u8]) -> io::Result<()> {
    let priority = match level {
        Level::Debug => 7,
        Level::Info => 6,
        Level::Warn => 4,
        Level::Error => 3,
        Level::Dpanic | Level::Panic | Level::Fatal => 2,
    };
    let mut datagram =
        format!("PRIORITY={priority}\nSYSLOG_IDENTIFIER=ringd\nMESSAGE=").into_bytes();
    datagram.extend_from_slice(line);
    socket.send(&datagram).map(drop)
}

/// The operating system's text as Go prints it: lower case, without the number.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
