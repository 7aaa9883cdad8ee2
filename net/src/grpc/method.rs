//! The methods that a server offers, found by path.

use std::collections::BTreeSet;

use super::status::{Code, Status};

/// What flows in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MethodKind {
    Unary,
    ServerStream,
    ClientStream,
    Bidi,
}

impl MethodKind {
    /// The request is exactly one message, handed over once it is complete.
    pub fn takes_one_message(self) -> bool {
        matches!(self, MethodKind::Unary | MethodKind::ServerStream)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `/package.Service/Method`
    pub path: &'static str,
    /// The application's number for it.
    pub id: u16,
    pub kind: MethodKind,
}

/// A table over the paths, at most a quarter full.
#[derive(Debug)]
pub struct Methods {
    list: &'static [Method],
    services: BTreeSet<&'static str>,
    /// Position in `list` plus one, 0 for an empty place.
    table: Vec<u16>,
}

impl Methods {
    /// Paths must differ and have the form `/service/method`.
    pub fn new(list: &'static [Method]) -> Methods {
        let places = (list.len() * 4).next_power_of_two();
        let mut table = vec![0u16; places];
        let mut services = BTreeSet::new();
        for (at, method) in list.iter().enumerate() {
            let mut place = hash(method.path.as_bytes()) as usize & (places - 1);
            while table[place] != 0 {
                place = (place + 1) & (places - 1);
            }
            table[place] = at as u16 + 1;
            if let Some((service, _)) = split(method.path) {
                services.insert(service);
            }
        }
        Methods {
            list,
            services,
            table,
        }
    }

    #[inline]
    pub fn find(&self, path: &[u8]) -> Option<&'static Method> {
        let mask = self.table.len().checked_sub(1)?;
        let mut place = hash(path) as usize & mask;
        loop {
            let at = self.table[place];
            if at == 0 {
                return None;
            }
            let method = &self.list[usize::from(at) - 1];
            if method.path.as_bytes() == path {
                return Some(method);
            }
            place = (place + 1) & mask;
        }
    }

    /// Why `path` is not found.
    pub(super) fn unknown(&self, path: &[u8]) -> Status {
        let text = String::from_utf8_lossy(path);
        let message = match split(&text) {
            None => format!("malformed method name: \"{}\"", text.escape_default()),
            Some((service, method)) if self.services.contains(service) => {
                format!("unknown method {method} for service {service}")
            }
            Some((service, _)) => format!("unknown service {service}"),
        };
        Status::new(Code::UNIMPLEMENTED, message)
    }
}

/// Service and method of a path; a path without a leading slash has none (CVE-2026-33186).
fn split(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.rsplit_once('/')
}

/// Eight bytes at a time; the paths are ours, so nobody can choose collisions.
fn hash(path: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = path.len() as u64;
    for chunk in path.chunks(8) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    state >> 32
}
