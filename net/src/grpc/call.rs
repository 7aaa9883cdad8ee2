//! From a request head to a call.

use std::sync::Arc;

use super::compression::Encoding;
use super::status::{Code, Status};
use super::{base64, timeout, Metadata, Method, Methods};
use crate::connection::{Head, ReadHead, RequestHead};
use crate::hpack::{Field, FieldList};

/// What a head asks for.
#[derive(Debug, Clone)]
pub(super) enum CallHead {
    Start(Start),
    Refused(Arc<Refusal>),
    /// Trailers of a request mean nothing to gRPC.
    Trailers,
}

#[derive(Debug, Clone)]
pub(super) struct Start {
    pub method: &'static Method,
    pub timeout_ns: Option<u64>,
    pub metadata: Metadata,
    pub encoding: Encoding,
}

/// A call that reaches no method: the answer is known already.
#[derive(Debug)]
pub(super) struct Refusal {
    pub http_status: u16,
    pub status: Status,
    /// Tell which encodings are understood.
    pub accept_encoding: bool,
}

impl Refusal {
    fn new(http_status: u16, status: Status) -> Refusal {
        Refusal {
            http_status,
            status,
            accept_encoding: false,
        }
    }
}

/// Reads heads for a server.
#[derive(Debug)]
pub(super) struct CallReader {
    methods: &'static Methods,
    /// Metadata of the last call: most calls of a connection bring the same.
    last: Metadata,
    scratch: FieldList,
}

impl CallReader {
    pub fn new(methods: &'static Methods) -> CallReader {
        CallReader {
            methods,
            last: Metadata::default(),
            scratch: FieldList::new(),
        }
    }

    fn start(&mut self, head: &RequestHead<'_>) -> Result<Start, Refusal> {
        let fields = Fields::collect(head, &mut self.scratch)?;
        if head.method != b"POST" {
            let text = format!(
                "Received a HEADERS frame with :method \"{}\" which should be POST",
                String::from_utf8_lossy(head.method).escape_default()
            );
            return Err(Refusal::new(405, Status::internal(text)));
        }
        let Some(method) = self.methods.find(head.path) else {
            return Err(Refusal::new(200, self.methods.unknown(head.path)));
        };
        let encoding = match fields.encoding {
            None | Some(b"identity") => Encoding::Identity,
            Some(b"gzip") => Encoding::Gzip,
            Some(other) => {
                let text = format!(
                    "grpc: Decompressor is not installed for grpc-encoding \"{}\"",
                    String::from_utf8_lossy(other).escape_default()
                );
                let status = Status::new(Code::UNIMPLEMENTED, text);
                return Err(Refusal {
                    accept_encoding: true,
                    ..Refusal::new(200, status)
                });
            }
        };
        if *self.last.fields() != self.scratch {
            self.last = Metadata::new(self.scratch.clone());
        }
        Ok(Start {
            method,
            timeout_ns: fields.timeout_ns,
            metadata: self.last.clone(),
            encoding,
        })
    }
}

impl ReadHead for CallReader {
    type Output = CallHead;

    fn read(&mut self, head: &Head<'_>) -> CallHead {
        match head {
            Head::Request(request) => match self.start(request) {
                Ok(start) => CallHead::Start(start),
                Err(refusal) => CallHead::Refused(Arc::new(refusal)),
            },
            Head::Response(_) | Head::Trailers(_) => CallHead::Trailers,
        }
    }
}

/// What the transport itself reads of the fields.
#[derive(Debug, Default)]
struct Fields<'a> {
    timeout_ns: Option<u64>,
    encoding: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    /// Sorts the fields; metadata goes to `kept`.
    fn collect(head: &RequestHead<'a>, kept: &mut FieldList) -> Result<Fields<'a>, Refusal> {
        let mut fields = Fields::default();
        let mut content_type: &[u8] = b"";
        let mut faulty = None;
        kept.clear();
        kept.push(Field::new(b":authority", head.authority));
        for field in head.fields.iter() {
            match field.name {
                b"content-type" => content_type = field.value,
                b"grpc-timeout" => match timeout::parse(field.value) {
                    Ok(timeout_ns) => fields.timeout_ns = Some(timeout_ns),
                    Err(text) => faulty = Some(format!("malformed grpc-timeout: {text}")),
                },
                b"grpc-encoding" => fields.encoding = Some(field.value),
                b"te" | b"host" | b"content-length" | b"grpc-accept-encoding" => {}
                [b':', ..] => {}
                name => {
                    if name.ends_with(b"-bin") {
                        faulty = check_binary(&field).err().or(faulty);
                    }
                    kept.push(field);
                }
            }
        }
        if !is_grpc(content_type) {
            let text = format!(
                "invalid gRPC request content-type \"{}\"",
                String::from_utf8_lossy(content_type).escape_default()
            );
            return Err(Refusal::new(415, Status::new(Code::INVALID_ARGUMENT, text)));
        }
        match faulty {
            Some(text) => Err(Refusal::new(400, Status::internal(text))),
            None => Ok(fields),
        }
    }
}

fn check_binary(field: &Field<'_>) -> Result<(), String> {
    match base64::decode(field.value) {
        Ok(_) => Ok(()),
        Err(at) => Err(format!(
            "malformed binary metadata \"{}\" in header \"{}\": illegal base64 data at input byte {at}",
            String::from_utf8_lossy(field.value).escape_default(),
            String::from_utf8_lossy(field.name),
        )),
    }
}

/// `application/grpc`, alone or with a subtype or parameters.
fn is_grpc(content_type: &[u8]) -> bool {
    const BASE: &[u8] = b"application/grpc";
    let Some((base, rest)) = content_type.split_at_checked(BASE.len()) else {
        return false;
    };
    base.eq_ignore_ascii_case(BASE) && matches!(rest.first(), None | Some(b'+' | b';'))
}
