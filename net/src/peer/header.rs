//! Header fields of Raft requests, and the checks that come before anything else.

use super::Version;
use crate::http1::Headers;

/// What a ringd member can do beyond etcd's protocol, and where it stood when its process began, announced whenever a
/// connection begins.
pub const CAPABILITIES: &str = "X-Ringd-Capabilities";
/// The piece of a snapshot that a request carries: snapshot, offset, and 1 if it is the last one.
pub const SNAPSHOT_PIECE: &str = "X-Ringd-Snapshot";
/// How much of the snapshot the receiver has.
pub const SNAPSHOT_PLACE: &str = "X-Ringd-Snapshot-Offset";

/// Why a member is refused that is not what it was.
pub const REFUSED: &str = "X-Ringd-Refused";

const CAPABLE: &str = "crc32, snapshot, results, copies";
const STANDING: &str = "began=";
const MIN_CLUSTER_VERSION: &str = "3.0.0";
/// The oldest members that are spoken to, and what one is that does not say.
const VERSION_MIN: Version = Version::new(3, 0);
const VERSION_UNSAID: &str = "2.0.0";

/// This member, as it presents itself.
#[derive(Clone, Debug)]
pub struct Local {
    pub member_id: u64,
    pub cluster_id: u64,
    /// `major.minor.patch`
    pub version: &'static str,
    /// Comma separated.
    pub peer_urls: String,
    /// None if it could not be written down that the process began.
    pub standing: Option<Standing>,
}

/// Where the durable state of a member stood when its process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Number of the process: the first of a member is 1.
    pub boot: u64,
    /// Drawn at random for this process.
    pub life: u64,
    pub term: u64,
    /// Last entry of its log.
    pub index: u64,
}

impl Standing {
    /// `began=BOOT/LIFE/TERM/INDEX`
    fn token(&self) -> String {
        let Standing {
            boot,
            life,
            term,
            index,
        } = self;
        format!("{STANDING}{boot}/{life:x}/{term}/{index}")
    }

    pub fn of(headers: &Headers) -> Option<Standing> {
        let tokens = headers.get(CAPABILITIES)?.split(',');
        let mut tokens = tokens.filter_map(|token| token.trim().strip_prefix(STANDING));
        let mut parts = tokens.next()?.split('/');
        let standing = Standing {
            boot: parts.next()?.parse().ok()?,
            life: u64::from_str_radix(parts.next()?, 16).ok()?,
            term: parts.next()?.parse().ok()?,
            index: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(standing)
    }
}

impl Local {
    fn capabilities(&self) -> String {
        match self.standing {
            Some(standing) => format!("{CAPABLE}, {}", standing.token()),
            None => CAPABLE.to_owned(),
        }
    }

    /// The fields of a Raft request; those that open streams also name the receiver.
    pub fn request(&self, to: Option<u64>) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("X-Etcd-Cluster-ID", format!("{:x}", self.cluster_id)),
            ("X-Min-Cluster-Version", MIN_CLUSTER_VERSION.to_owned()),
            ("X-PeerURLs", self.peer_urls.clone()),
            ("X-Server-From", format!("{:x}", self.member_id)),
            ("X-Server-Version", self.version.to_owned()),
            (CAPABILITIES, self.capabilities()),
        ];
        if let Some(to) = to {
            fields.push(("X-Raft-To", format!("{to:x}")));
        }
        fields
    }

    /// The field that most answers carry.
    pub fn cluster(&self) -> (&'static str, String) {
        ("X-Etcd-Cluster-Id", format!("{:x}", self.cluster_id))
    }

    /// The fields of any answer to a Raft request.
    pub fn response(&self) -> Vec<(&'static str, String)> {
        vec![self.cluster(), (CAPABILITIES, self.capabilities())]
    }

    /// The fields of any answer to a request for a stream.
    pub fn stream_response(&self) -> Vec<(&'static str, String)> {
        let mut fields = self.response();
        fields.push(("X-Server-Version", self.version.to_owned()));
        fields
    }

    /// Whether the sender of a Raft request may speak to this member: its version, the oldest that it speaks to, and its
    /// cluster, in this order. There are no upper bounds.
    pub fn check(&self, headers: &Headers) -> Result<(), Incompatible> {
        let version = |name| Version::parse(headers.get(name).unwrap_or(VERSION_UNSAID));
        let own = Version::parse(self.version).unwrap_or(VERSION_MIN);
        if version("X-Server-Version").is_none_or(|version| version < VERSION_MIN) {
            return Err(Incompatible::Version);
        }
        if version("X-Min-Cluster-Version").is_none_or(|least| least > own) {
            return Err(Incompatible::Version);
        }
        if id(headers, "X-Etcd-Cluster-ID") != Some(self.cluster_id) {
            return Err(Incompatible::Cluster);
        }
        Ok(())
    }
}

/// Why two members do not speak to each other. Members compare the texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompatible {
    Version,
    Cluster,
}

impl Incompatible {
    pub fn text(self) -> &'static str {
        match self {
            Incompatible::Version => "incompatible version",
            Incompatible::Cluster => "cluster ID mismatch",
        }
    }
}

/// What the other end says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    pub from: Option<u64>,
    pub to: Option<u64>,
    pub peer_urls: Vec<String>,
    /// Frames with checksums.
    pub checksums: bool,
    /// Snapshots of ringd's own kind.
    pub snapshots: bool,
    /// It compares what the log came to.
    pub results: bool,
    /// It gives copies of its pages.
    pub copies: bool,
}

impl Remote {
    pub fn of(headers: &Headers) -> Remote {
        let urls = headers.get("X-PeerURLs").unwrap_or_default();
        Remote {
            from: id(headers, "X-Server-From"),
            to: id(headers, "X-Raft-To"),
            peer_urls: urls
                .split(',')
                .filter(|url| !url.is_empty())
                .map(str::to_owned)
                .collect(),
            checksums: headers.has_token(CAPABILITIES, "crc32"),
            snapshots: headers.has_token(CAPABILITIES, "snapshot"),
            results: headers.has_token(CAPABILITIES, "results"),
            copies: headers.has_token(CAPABILITIES, "copies"),
        }
    }
}

fn id(headers: &Headers, name: &str) -> Option<u64> {
    let text = headers.get(name)?;
    // A sign would be taken otherwise.
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local {
            member_id: 0x52eb02c0dd01e48,
            cluster_id: 0xbb366eafd7443a8b,
            version: "3.5.33",
            peer_urls: "http://127.0.0.1:1,http://127.0.0.2:1".into(),
            standing: Some(Standing {
                boot: 12,
                life: 0xabc,
                term: 4,
                index: 77,
            }),
        }
    }

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in fields {
            headers.push(*name, *value);
        }
        headers
    }

    fn check(
        version: Option<&str>,
        least: Option<&str>,
        cluster: &str,
    ) -> Result<(), &'static str> {
        let mut headers = headers(&[("x-etcd-cluster-id", cluster)]);
        if let Some(version) = version {
            headers.push("x-server-version", version);
        }
        if let Some(least) = least {
            headers.push("x-min-cluster-version", least);
        }
        local().check(&headers).map_err(Incompatible::text)
    }

    #[test]
    fn versions_come_before_the_cluster_and_have_no_upper_bound() {
        let own = "bb366eafd7443a8b";
        for version in ["3.0.0", "3.5.1", "3.6.14", "4.0.0", "3.5.99-ours+build7"] {
            assert_eq!(
                check(Some(version), Some("3.0.0"), own),
                Ok(()),
                "{version}"
            );
        }
        assert_eq!(check(Some("3.5.1"), Some("3.5.0"), own), Ok(()));
        assert_eq!(check(Some("3.5.1"), None, own), Ok(()));
        for version in [None, Some("2.3.0"), Some("banana"), Some("")] {
            let refused = check(version, Some("3.0.0"), "1234");
            assert_eq!(refused, Err("incompatible version"), "{version:?}");
        }
        for least in ["3.6.0", "4.0.0", "x"] {
            let refused = check(Some("3.6.0"), Some(least), own);
            assert_eq!(refused, Err("incompatible version"), "{least}");
        }
        for cluster in ["1234", "", "+bb366eafd7443a8b"] {
            let refused = check(Some("3.5.1"), Some("3.0.0"), cluster);
            assert_eq!(refused, Err("cluster ID mismatch"), "{cluster}");
        }
    }

    #[test]
    fn a_request_says_who_asks_whom() {
        let mut sent = Headers::default();
        for (name, value) in local().request(Some(7)) {
            sent.push(name, value);
        }
        assert_eq!(local().check(&sent), Ok(()));
        let remote = Remote::of(&sent);
        assert_eq!(remote.from, Some(0x52eb02c0dd01e48));
        assert_eq!(remote.to, Some(7));
        assert_eq!(
            remote.peer_urls,
            ["http://127.0.0.1:1", "http://127.0.0.2:1"]
        );
        assert!(remote.checksums && remote.snapshots && remote.results && remote.copies);
        assert_eq!(Standing::of(&sent), local().standing);
        for bad in [
            "crc32",
            "began=1/2/3",
            "began=1/2/3/4/5",
            "began=1/x/2/3",
            "began=1/1/-2/3",
        ] {
            assert_eq!(
                Standing::of(&headers(&[(CAPABILITIES, bad)])),
                None,
                "{bad}"
            );
        }
        assert_eq!(Remote::of(&Headers::default()), Remote::default());
    }
}
