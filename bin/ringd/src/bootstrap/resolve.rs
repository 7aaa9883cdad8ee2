//! Whether two lists of URLs name the same places, which takes name resolution.
//!
//! Lists that differ as texts are compared once more with every host but `localhost` replaced by its first address. A name
//! that does not resolve is tried again for a while: name servers often come up together with the members.

use crate::{
    config::{url::quoted, Url},
    info,
    logging::Log,
    warn,
};
use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

/// Patience with names in all comparisons of one start.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Resolves host names; tests have their own.
pub trait Resolver {
    /// The first address of `host:port`.
    fn resolve(&self, address: &str) -> io::Result<SocketAddr>;
}

/// The system's resolver. It blocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
        address
            .to_socket_addrs()
            .map_err(|error| named(&error))?
            .next()
            .ok_or_else(|| io::Error::other("no such host"))
    }
}

/// What the C library calls by several names, in the words that operators of etcd know.
fn named(error: &io::Error) -> io::Error {
    let text = error.to_string();
    let unknown = ["Name or service not known", "No address associated"];
    match unknown.iter().any(|known| text.contains(known)) {
        true => io::Error::other("no such host"),
        false => io::Error::new(error.kind(), text),
    }
}

/// How two lists of URLs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    Counts { ours: Vec<Url>, theirs: Vec<Url> },
    Different { ours: Url, theirs: Url },
    Unresolved { url: Url, text: String },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |urls: &[Url]| {
            let quoted = urls.iter().map(|url| quoted(url.as_str()));
            quoted.collect::<Vec<_>>().join(" ")
        };
        match self {
            Mismatch::Counts { ours, theirs } => {
                write!(f, "len([{}]) != len([{}])", list(ours), list(theirs))
            }
            Mismatch::Different { ours, theirs } => write!(
                f,
                "resolved urls: {} != {}",
                quoted(ours.as_str()),
                quoted(theirs.as_str())
            ),
            Mismatch::Unresolved { url, text } => {
                write!(f, "failed to resolve {} ({text})", quoted(url.as_str()))
            }
        }
    }
}

/// Compares lists of URLs, with one budget of patience for all of them.
pub struct Comparison<'a> {
    resolver: &'a dyn Resolver,
    log: &'a Log,
    end: Instant,
    retry_interval: Duration,
}

impl<'a> Comparison<'a> {
    pub fn new(resolver: &'a dyn Resolver, log: &'a Log) -> Comparison<'a> {
        Comparison {
            resolver,
            log,
            end: Instant::now() + PATIENCE,
            retry_interval: RETRY_INTERVAL,
        }
    }

    /// Whether two lists name the same places: as texts, or else after resolving.
    pub fn check(&self, ours: &[Url], theirs: &[Url]) -> Result<(), Mismatch> {
        let sorted = |urls: &[Url]| {
            let mut urls = urls.to_vec();
            urls.sort();
            urls
        };
        let (ours, theirs) = (sorted(ours), sorted(theirs));
        if ours.len() != theirs.len() {
            return Err(Mismatch::Counts { ours, theirs });
        }
        if ours == theirs {
            return Ok(());
        }
        let (ours, theirs) = (self.resolved(&ours)?, self.resolved(&theirs)?);
        match ours.into_iter().zip(theirs).find(|(a, b)| a != b) {
            Some((ours, theirs)) => Err(Mismatch::Different { ours, theirs }),
            None => Ok(()),
        }
    }

    fn resolved(&self, urls: &[Url]) -> Result<Vec<Url>, Mismatch> {
        let resolved: Result<Vec<Url>, Mismatch> =
            urls.iter().map(|url| self.resolved_url(url)).collect();
        resolved.map(|mut urls| {
            urls.sort();
            urls
        })
    }

    fn resolved_url(&self, url: &Url) -> Result<Url, Mismatch> {
        if url.scheme().is_unix() || url.host() == "localhost" {
            return Ok(url.clone());
        }
        loop {
            let error = match self.resolver.resolve(url.address()) {
                Ok(address) => {
                    let address = address.to_string();
                    if address != url.address() {
                        info!(self.log, "resolved URL Host", "url" => url.as_str(),
                            "host" => url.address(), "resolved-addr" => address.as_str());
                    }
                    return Ok(url.with_address(&address));
                }
                Err(error) => format!("lookup {}: {error}", url.host()),
            };
            warn!(self.log, "failed to resolve URL Host", "url" => url.as_str(),
                "host" => url.address(), "retry-interval" => self.retry_interval,
                "error" => error.as_str());
            let left = self.end.saturating_duration_since(Instant::now());
            if left < self.retry_interval {
                let (url, text) = (url.clone(), error);
                return Err(Mismatch::Unresolved { url, text });
            }
            std::thread::sleep(self.retry_interval);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::url;
    use std::cell::Cell;

    /// Two names of one place, and a third one that is known from the third question on.
    #[derive(Default)]
    pub struct Table {
        late: Cell<u32>,
    }

    impl Resolver for Table {
        fn resolve(&self, address: &str) -> io::Result<SocketAddr> {
            match address {
                "a.example:1" | "alias.example:1" => Ok(SocketAddr::from(([10, 0, 0, 1], 1))),
                "late.example:1" if self.late.get() == 2 => {
                    Ok(SocketAddr::from(([10, 0, 0, 1], 1)))
                }
                "late.example:1" => {
                    self.late.set(self.late.get() + 1);
                    Err(io::Error::other("server misbehaving"))
                }
                other => other.parse().map_err(|_| io::Error::other("no such host")),
            }
        }
    }

    /// A comparison that tries each name once.
    pub fn impatient<'a>(table: &'a Table, log: &'a Log) -> Comparison<'a> {
        Comparison {
            end: Instant::now(),
            ..Comparison::new(table, log)
        }
    }

    fn compare(ours: &str, theirs: &str) -> Result<(), String> {
        let urls = |text| url::parse_list(text).unwrap();
        let (table, log) = (Table::default(), Log::discard());
        impatient(&table, &log)
            .check(&urls(ours), &urls(theirs))
            .map_err(|mismatch| mismatch.to_string())
    }

    #[test]
    fn names_that_resolve_alike_match() {
        assert_eq!(
            compare("http://a.example:1", "http://alias.example:1"),
            Ok(())
        );
        assert_eq!(compare("http://a.example:1", "http://10.0.0.1:1"), Ok(()));
        // Equal texts are not resolved; order does not matter.
        assert_eq!(
            compare(
                "http://none:1,http://also.none:2",
                "http://also.none:2,http://none:1"
            ),
            Ok(())
        );
        // Sorted again after resolving.
        assert_eq!(
            compare(
                "http://a.example:1,http://10.0.0.2:1",
                "http://10.0.0.2:1,http://10.0.0.1:1"
            ),
            Ok(())
        );
        assert_eq!(compare("unix://a:1", "unix://a:1"), Ok(()));
    }

    #[test]
    fn differences_have_etcds_texts() {
        for (ours, theirs, text) in [
            (
                "http://10.0.0.1:1",
                "http://10.0.0.1:1,http://c:1",
                r#"len(["http://10.0.0.1:1"]) != len(["http://10.0.0.1:1" "http://c:1"])"#,
            ),
            (
                "http://b:1",
                "http://10.0.0.1:1",
                r#"failed to resolve "http://b:1" (lookup b: no such host)"#,
            ),
            (
                "http://a.example:1",
                "https://a.example:1",
                r#"resolved urls: "http://10.0.0.1:1" != "https://10.0.0.1:1""#,
            ),
            (
                "http://127.0.0.1:1",
                "http://localhost:1",
                r#"resolved urls: "http://127.0.0.1:1" != "http://localhost:1""#,
            ),
        ] {
            assert_eq!(compare(ours, theirs), Err(text.to_owned()));
        }
    }

    #[test]
    fn a_name_that_is_unknown_is_tried_again_until_patience_ends() {
        let urls = |text| url::parse_list(text).unwrap();
        let (table, log) = (Table::default(), Log::discard());
        let mut comparison = Comparison::new(&table, &log);
        comparison.retry_interval = Duration::from_millis(1);
        let late = urls("http://late.example:1");
        assert_eq!(comparison.check(&late, &urls("http://10.0.0.1:1")), Ok(()));
        assert_eq!(table.late.get(), 2);
        comparison.end = Instant::now() + Duration::from_millis(5);
        let none = urls("http://none.example:1");
        assert!(matches!(
            comparison.check(&none, &late),
            Err(Mismatch::Unresolved { .. })
        ));
    }
}
