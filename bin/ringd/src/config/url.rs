//! The URLs of listeners and members: scheme, host and port, nothing else.
//!
//! Member identifiers are hashes of URL texts, so the text of a URL is part of its value: it is kept as it was given, with
//! the scheme in lower case. Parsing follows Go's `net/url` as far as an authority reaches, including its messages.

use std::{fmt, net::IpAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

impl Scheme {
    pub fn is_tls(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Unixs)
    }

    pub fn is_unix(self) -> bool {
        matches!(self, Scheme::Unix | Scheme::Unixs)
    }
}

/// A URL of etcd's; ordered by its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// `host:port`, or the path of a socket.
    address: String,
}

/// What is wrong with a URL, in etcd's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        let text = text.trim();
        let parts =
            split(text).map_err(|why| UrlError(format!("parse {}: {why}", quoted(text))))?;
        let scheme = match parts.scheme.as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => {
                return Err(UrlError(format!(
                    "URL scheme must be http, https, unix, or unixs: {text}"
                )))
            }
        };
        let normal = match text.split_once(':') {
            Some((_, rest)) => format!("{}:{rest}", parts.scheme),
            None => text.to_owned(),
        };
        if scheme.is_unix() {
            // A socket's path may be relative (`unix://name`), absolute (`unix:///run/name`) or look like host and port.
            let address = format!("{}{}", parts.host, parts.path);
            if address.is_empty() {
                return Err(UrlError(format!(
                    "URL address does not have the form \"host:port\": {text}"
                )));
            }
            return Ok(Url {
                text: normal,
                scheme,
                address,
            });
        }
        if split_host_port(&parts.host).is_none() {
            return Err(UrlError(format!(
                "URL address does not have the form \"host:port\": {text}"
            )));
        }
        if !parts.path.is_empty() {
            return Err(UrlError(format!("URL must not contain a path: {text}")));
        }
        Ok(Url {
            text: normal,
            scheme,
            address: parts.host,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// `host:port` as written, or the path of a UNIX socket.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host without the brackets of an IPv6 address; empty for a UNIX socket.
    pub fn host(&self) -> &str {
        if self.scheme.is_unix() {
            return "";
        }
        split_host_port(&self.address).map_or("", |(host, _)| host)
    }

    /// The port as written; empty for a UNIX socket.
    pub fn port_text(&self) -> &str {
        if self.scheme.is_unix() {
            return "";
        }
        split_host_port(&self.address).map_or("", |(_, port)| port)
    }

    /// The port as a number, 0 when it is empty, `None` when it is out of range.
    pub fn port(&self) -> Option<u16> {
        match self.port_text() {
            "" => Some(0),
            text => text.parse().ok(),
        }
    }

    /// The same URL with another host.
    pub fn with_host(&self, host: &str) -> Url {
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let address = format!("{host}:{}", self.port_text());
        let text = self.text.replacen(&self.address, &address, 1);
        Url {
            text,
            scheme: self.scheme,
            address,
        }
    }

    /// The same URL with another host and port.
    pub fn with_address(&self, address: &str) -> Url {
        let text = self.text.replacen(&self.address, address, 1);
        Url {
            text,
            scheme: self.scheme,
            address: address.to_owned(),
        }
    }

    /// Whether a listener can be bound to it: an IP address or `localhost`, or a socket's path.
    pub fn is_bindable(&self) -> bool {
        self.scheme.is_unix() || self.host() == "localhost" || self.host().parse::<IpAddr>().is_ok()
    }
}

/// Parses a comma list: blanks around items are dropped, duplicates too, and the result is sorted by text.
pub fn parse_list(text: &str) -> Result<Vec<Url>, UrlError> {
    let mut urls = text
        .split(',')
        .map(Url::parse)
        .collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    urls.dedup();
    Ok(urls)
}

/// The URLs joined by commas.
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

struct Parts {
    scheme: String,
    host: String,
    path: String,
}

fn split(text: &str) -> Result<Parts, String> {
    if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Err("net/url: invalid control character in URL".into());
    }
    let before_fragment = text.split_once('#').map_or(text, |(head, _)| head);
    let (scheme, rest) = split_scheme(before_fragment)?;
    let rest = rest.split_once('?').map_or(rest, |(head, _)| head);
    if !rest.starts_with('/') {
        if scheme.is_empty()
            && rest
                .split('/')
                .next()
                .is_some_and(|first| first.contains(':'))
        {
            return Err("first path segment in URL cannot contain colon".into());
        }
        let opaque = if scheme.is_empty() { rest } else { "" };
        return Ok(Parts {
            scheme,
            host: String::new(),
            path: opaque.to_owned(),
        });
    }
    let Some(after) = rest
        .strip_prefix("//")
        .filter(|a| !scheme.is_empty() || !a.starts_with('/'))
    else {
        return Ok(Parts {
            scheme,
            host: String::new(),
            path: rest.to_owned(),
        });
    };
    let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    check_host(host)?;
    check_escapes(path)?;
    Ok(Parts {
        scheme,
        host: host.to_owned(),
        path: path.to_owned(),
    })
}

/// Letters, digits and `+-.` before the first colon are a scheme, in lower case; anything else means that there is none.
fn split_scheme(text: &str) -> Result<(String, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((text[..at].to_ascii_lowercase(), &text[at + 1..])),
            _ => break,
        }
    }
    Ok((String::new(), text))
}

fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let Some(end) = host.rfind(']') else {
            return Err("missing ']' in host".into());
        };
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let valid = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !valid {
        return Err(format!("invalid port {} after host", quoted(port)));
    }
    check_escapes(host)?;
    let allowed = |c: char| {
        !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c)
    };
    match host.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(format!(
            "invalid character {} in host name",
            quoted(&c.to_string())
        )),
        None => Ok(()),
    }
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let tail = &text.as_bytes()[at..];
        if tail.len() < 3 || !tail[1].is_ascii_hexdigit() || !tail[2].is_ascii_hexdigit() {
            let shown = String::from_utf8_lossy(&tail[..tail.len().min(3)]).into_owned();
            return Err(format!("invalid URL escape {}", quoted(&shown)));
        }
    }
    Ok(())
}

/// `host:port` with exactly one colon outside brackets; `None` otherwise.
pub fn split_host_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => inner
            .strip_suffix(']')
            .filter(|h| !h.contains(['[', ']']))
            .map(|h| (h, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}

/// The text between double quotes as Go's `%q` prints it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_with_etcds_texts() {
        for (text, error) in [
            (
                "http://foo",
                "URL address does not have the form \"host:port\": http://foo",
            ),
            (
                "http://127.0.0.1:2380/x",
                "URL must not contain a path: http://127.0.0.1:2380/x",
            ),
            (
                "http://127.0.0.1:2380/",
                "URL must not contain a path: http://127.0.0.1:2380/",
            ),
            (
                "ftp://x:1",
                "URL scheme must be http, https, unix, or unixs: ftp://x:1",
            ),
            (
                "127.0.0.1:24779",
                "parse \"127.0.0.1:24779\": first path segment in URL cannot contain colon",
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name",
            ),
            (
                "http://a:b",
                "parse \"http://a:b\": invalid port \":b\" after host",
            ),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (
                "unix:x",
                "URL address does not have the form \"host:port\": unix:x",
            ),
            ("http://[::1", "parse \"http://[::1\": missing ']' in host"),
            (
                "http://%zz:1",
                "parse \"http://%zz:1\": invalid URL escape \"%zz\"",
            ),
            (
                "localhost:1",
                "URL scheme must be http, https, unix, or unixs: localhost:1",
            ),
            (
                "//a:1",
                "URL scheme must be http, https, unix, or unixs: //a:1",
            ),
            (
                "http:a",
                "URL address does not have the form \"host:port\": http:a",
            ),
            (
                "http://a\x01:1",
                "parse \"http://a\\x01:1\": net/url: invalid control character in URL",
            ),
            (":", "parse \":\": missing protocol scheme"),
            (
                "http://a:1:2",
                "URL address does not have the form \"host:port\": http://a:1:2",
            ),
            ("*", "URL scheme must be http, https, unix, or unixs: *"),
        ] {
            assert_eq!(
                Url::parse(text)
                    .map(|u| u.to_string())
                    .unwrap_err()
                    .to_string(),
                error,
                "{text:?}"
            );
        }
    }

    #[test]
    fn keeps_the_text_and_lowers_the_scheme() {
        let url = Url::parse(" HTTP://LocalHost:1 ").unwrap();
        assert_eq!(
            (url.as_str(), url.host(), url.port(), url.is_bindable()),
            ("http://LocalHost:1", "LocalHost", Some(1), false)
        );
        let url = Url::parse("https://[::1]:2380").unwrap();
        assert_eq!(
            (url.address(), url.host(), url.port()),
            ("[::1]:2380", "::1", Some(2380))
        );
        assert!(url.is_bindable() && url.scheme().is_tls());
        assert_eq!(Url::parse("http://127.0.0.1:").unwrap().port(), Some(0));
        assert_eq!(Url::parse("http://127.0.0.1:99999").unwrap().port(), None);
        assert_eq!(
            Url::parse("http://u@127.0.0.1:1?q#f").unwrap().address(),
            "127.0.0.1:1"
        );
        assert!(!Url::parse("http://:1").unwrap().is_bindable());
        assert_eq!(
            Url::parse("unix:///run/etcd.sock").unwrap().address(),
            "/run/etcd.sock"
        );
        assert_eq!(
            Url::parse("unix://127.0.0.1:2379").unwrap().address(),
            "127.0.0.1:2379"
        );
    }

    #[test]
    fn lists_are_sorted_without_duplicates() {
        let urls = parse_list(" http://b:1 , http://a:1,http://b:1").unwrap();
        assert_eq!(join(&urls), "http://a:1,http://b:1");
        assert!(parse_list("http://a:1,,http://b:2").is_err());
    }

    #[test]
    fn replaces_the_host() {
        let url = Url::parse("http://localhost:2380").unwrap();
        assert_eq!(url.with_host("10.0.0.1").as_str(), "http://10.0.0.1:2380");
        assert_eq!(url.with_host("fe80::1").as_str(), "http://[fe80::1]:2380");
        assert_eq!(url.with_address("10.0.0.1:5").as_str(), "http://10.0.0.1:5");
    }
}
