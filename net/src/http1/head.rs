//! Start lines and header fields.

use super::{Body, HEADERS_MAX, HEAD_BYTES_MAX};

/// Header fields in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    fn from_parsed(parsed: &[httparse::Header<'_>]) -> Headers {
        let field = |header: &httparse::Header<'_>| {
            let value = String::from_utf8_lossy(header.value).trim().to_owned();
            (header.name.to_owned(), value)
        };
        Headers(parsed.iter().map(field).collect())
    }

    /// The first value of a field; its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.0.iter();
        fields.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0
            .iter()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Whether a comma-separated field names this token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }
}

/// Why a request is refused: the status of the answer that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub text: &'static str,
}

impl Refusal {
    pub(super) const fn new(status: u16, text: &'static str) -> Refusal {
        Refusal { status, text }
    }
}

const MALFORMED: Refusal = Refusal::new(400, "400 Bad Request");
const TOO_LARGE: Refusal = Refusal::new(431, "431 Request Header Fields Too Large");

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// 0 or 1, of HTTP/1.
    pub minor_version: u8,
    pub headers: Headers,
    /// What follows the head.
    pub body: Body,
}

impl RequestHead {
    /// Reads a head from the beginning of `bytes`: its length and itself, or `None` while it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<(usize, RequestHead)>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
            Err(_) => return Err(MALFORMED),
        };
        let (Some(method), Some(target), Some(minor_version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(MALFORMED);
        };
        let headers = Headers::from_parsed(parsed.headers);
        if minor_version == 1 && headers.all("host").count() != 1 {
            return Err(Refusal::new(
                400,
                "400 Bad Request: missing required Host header",
            ));
        }
        let body = request_body(&headers, minor_version)?;
        let head = RequestHead {
            method: method.to_owned(),
            target: target.to_owned(),
            minor_version,
            headers,
            body,
        };
        Ok(Some((length, head)))
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        let target = self.target.as_str();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// Whether the connection may carry another request after this one.
    pub fn keeps_alive(&self) -> bool {
        match self.minor_version {
            0 => self.headers.has_token("connection", "keep-alive"),
            _ => !self.headers.has_token("connection", "close"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: u16,
    pub minor_version: u8,
    pub headers: Headers,
    pub body: Body,
}

impl ResponseHead {
    /// As [`RequestHead::parse`]. The answer to a HEAD request has no body, whatever it announces.
    pub fn parse(bytes: &[u8], to_head: bool) -> Result<Option<(usize, ResponseHead)>, Refusal> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
            Err(_) => return Err(MALFORMED),
        };
        let (Some(status), Some(minor_version)) = (parsed.code, parsed.version) else {
            return Err(MALFORMED);
        };
        let headers = Headers::from_parsed(parsed.headers);
        let bodiless = to_head || matches!(status, 100..=199 | 204 | 304);
        let body = match declared(&headers)? {
            _ if bodiless => Body::Empty,
            Some(body) => body,
            None => Body::UntilClose,
        };
        let head = ResponseHead {
            status,
            minor_version,
            headers,
            body,
        };
        Ok(Some((length, head)))
    }

    pub fn keeps_alive(&self) -> bool {
        let ends_with_connection = matches!(self.body, Body::UntilClose);
        self.minor_version == 1
            && !ends_with_connection
            && !self.headers.has_token("connection", "close")
    }
}

fn request_body(headers: &Headers, minor_version: u8) -> Result<Body, Refusal> {
    if minor_version == 0 && headers.get("transfer-encoding").is_some() {
        return Err(MALFORMED);
    }
    Ok(declared(headers)?.unwrap_or(Body::Empty))
}

/// What the header fields say of the body (RFC 9112 section 6.3).
fn declared(headers: &Headers) -> Result<Option<Body>, Refusal> {
    let mut codings = headers.all("transfer-encoding");
    let mut lengths = headers.all("content-length");
    if let Some(coding) = codings.next() {
        if lengths.next().is_some() {
            return Err(MALFORMED);
        }
        if !coding.eq_ignore_ascii_case("chunked") || codings.next().is_some() {
            return Err(Refusal::new(501, "501 Unsupported transfer encoding"));
        }
        return Ok(Some(Body::chunked()));
    }
    let Some(length) = lengths.next() else {
        return Ok(None);
    };
    if lengths.any(|other| other != length) {
        return Err(MALFORMED);
    }
    // `parse` alone would take a sign.
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = digits.then(|| length.parse().ok()).flatten();
    match bytes {
        Some(0) => Ok(Some(Body::Empty)),
        Some(bytes) => Ok(Some(Body::Length(bytes))),
        None => Err(MALFORMED),
    }
}

/// The reason phrase of a status.
pub fn status_text(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unknown",
    }
}

/// Appends a header field. A value cannot end its line.
pub(super) fn put_field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Option<(usize, RequestHead)>, Refusal> {
        RequestHead::parse(text.as_bytes())
    }

    fn body(fields: &str) -> Result<Body, u16> {
        let text = format!("POST /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        match request(&text) {
            Ok(Some((length, head))) => {
                assert_eq!(length, text.len());
                Ok(head.body)
            }
            Ok(None) => panic!("incomplete: {text}"),
            Err(refusal) => Err(refusal.status),
        }
    }

    #[test]
    fn where_a_request_ends_is_beyond_doubt() {
        assert_eq!(body(""), Ok(Body::Empty));
        assert_eq!(body("Content-Length: 0\r\n"), Ok(Body::Empty));
        assert_eq!(body("content-length: 12\r\n"), Ok(Body::Length(12)));
        assert_eq!(
            body("Content-Length: 12\r\nContent-Length: 12\r\n"),
            Ok(Body::Length(12))
        );
        assert_eq!(body("Transfer-Encoding: Chunked\r\n"), Ok(Body::chunked()));
        for (fields, status) in [
            ("Content-Length: 12\r\nContent-Length: 13\r\n", 400),
            ("Content-Length: +12\r\n", 400),
            ("Content-Length: 12, 12\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 99999999999999999999999\r\n", 400),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                501,
            ),
            ("Host: again\r\n", 400),
            ("A: b\r\n folded\r\n", 400),
            ("A : b\r\n", 400),
        ] {
            assert_eq!(body(fields), Err(status), "{fields:?}");
        }
        let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(request(old).unwrap_err().status, 400);
    }

    #[test]
    fn heads_are_bounded() {
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(request(&long).unwrap_err().status, 431);
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(
            request(&format!("GET / HTTP/1.1\r\n{many}\r\n"))
                .unwrap_err()
                .status,
            431
        );
        assert_eq!(request("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        assert_eq!(request("GET / HTTP/1.1\r\n\r\n").unwrap_err().status, 400);
        assert_eq!(request("\u{1}\u{2}\r\n").unwrap_err().status, 400);
    }

    #[test]
    fn connections_stay_open_as_both_versions_say() {
        let keeps = |text: &str| request(text).unwrap().unwrap().1.keeps_alive();
        assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!keeps(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"
        ));
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn paths_end_at_the_query() {
        let (_, head) = request("GET /a/b?c=/d HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((head.path(), head.target.as_str()), ("/a/b", "/a/b?c=/d"));
    }

    #[test]
    fn a_value_cannot_add_a_field() {
        let mut out = Vec::new();
        put_field(&mut out, "A", "b\r\nC: d");
        assert_eq!(out, b"A: bC: d\r\n");
    }
}
