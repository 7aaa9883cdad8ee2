//! Request metadata.

use std::fmt;
use std::sync::Arc;

use super::base64;
use crate::hpack::FieldList;

/// What a call's header fields say besides what the transport uses: `:authority`, `user-agent` and everything custom.
/// A cheap clone; calls of a connection with equal metadata share one.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Metadata(Arc<FieldList>);

impl Metadata {
    pub(super) fn new(fields: FieldList) -> Metadata {
        Metadata(Arc::new(fields))
    }

    pub(super) fn fields(&self) -> &FieldList {
        &self.0
    }

    /// From pairs, for tests and for requests that came another way.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Metadata {
        let mut fields = FieldList::new();
        for (name, value) in pairs {
            fields.push(crate::hpack::Field::new(name.as_bytes(), value));
        }
        Metadata::new(fields)
    }

    /// The first value. Names are lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|field| field.name == name.as_bytes())
            .map(|field| field.value)
    }

    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0
            .iter()
            .filter(move |field| field.name == name.as_bytes())
            .map(|field| field.value)
    }

    /// The first value of a `-bin` key, decoded. Calls with undecodable ones never come this far.
    pub fn get_binary(&self, name: &str) -> Option<Vec<u8>> {
        self.get(name).and_then(|value| base64::decode(value).ok())
    }

    /// `:authority`, or what `host` said; empty when the client sent neither.
    pub fn authority(&self) -> &[u8] {
        self.get(":authority").unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|field| (field.name, field.value))
    }
}

/// Names only: values may be credentials.
impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(
                self.0
                    .iter()
                    .map(|field| String::from_utf8_lossy(field.name).into_owned()),
            )
            .finish()
    }
}
