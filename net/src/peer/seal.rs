//! Checksums over the heads of requests and answers between two ringd members.
//!
//! What stands in a head decides whether a member is refused, was removed, or has other data than the rest, and ends its
//! process. So between two ringd members the first line's content and all fields that begin with `X-` are sealed, the
//! checksum of the body among them. An etcd member neither sends a seal nor looks at one.

use super::CAPABILITIES;
use crate::http1::Headers;

/// The checksum of a head.
pub const SEAL: &str = "X-Ringd-Seal";
/// The checksum of the body.
pub const CHECKSUM: &str = "X-Ringd-Crc32";

/// The checksum of a body, as its header field shows it.
pub fn checksum(body: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(body))
}

/// Adds the seal to the fields of a head. What begins it is `METHOD TARGET` of a request, the status of an answer.
pub fn seal(start: &str, fields: &mut Vec<(&'static str, String)>) {
    let named = fields.iter().map(|(name, value)| (*name, value.as_str()));
    let value = value(start, named);
    fields.push((SEAL, value));
}

/// Whether a head is not what was sent. One without a seal is an etcd member's, unless it says that it is not.
pub fn is_damaged(start: &str, headers: &Headers) -> bool {
    match headers.get(SEAL) {
        Some(stated) => stated != value(start, headers.iter()),
        None => headers.get(CAPABILITIES).is_some(),
    }
}

/// Whether a body is not what was sent, where its checksum is known.
pub fn is_body_damaged(headers: &Headers, body: &[u8]) -> bool {
    let stated = headers.get(CHECKSUM);
    stated.is_some_and(|stated| stated != checksum(body))
}

fn value<'a>(start: &str, fields: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(start.as_bytes());
    for (name, value) in fields {
        let name = name.to_ascii_lowercase();
        if name.starts_with("x-") && !name.eq_ignore_ascii_case(SEAL) {
            for part in ["\n", &name, ":", value.trim()] {
                hasher.update(part.as_bytes());
            }
        }
    }
    format!("{:08x}", hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::ResponseHead;

    const HEAD: &str =
        "HTTP/1.1 412 Precondition Failed\r\nContent-Type: text/plain\r\nX-Etcd-Cluster-Id: 27\r\n";

    fn head(bytes: &[u8]) -> Option<ResponseHead> {
        let parsed = ResponseHead::parse(bytes, false);
        parsed.ok().flatten().map(|(_, head)| head)
    }

    fn is_whole(head: &ResponseHead) -> bool {
        !is_damaged(&head.status.to_string(), &head.headers)
    }

    /// With one bit changed, a head cannot be read, or is found damaged, or says the same in what is sealed.
    #[test]
    fn no_flipped_bit_changes_what_a_head_says() {
        let mut fields = vec![
            ("Content-Type", "text/plain".to_owned()),
            ("X-Etcd-Cluster-Id", "27".to_owned()),
            (CAPABILITIES, "crc32, began=1/f/2/3".to_owned()),
        ];
        seal("412", &mut fields);
        let mut text = String::from(HEAD);
        for (name, value) in &fields[2..] {
            text += &format!("{name}: {value}\r\n");
        }
        text += "Content-Length: 0\r\n\r\n";
        let whole = head(text.as_bytes()).expect("a head");
        assert!(is_whole(&whole));
        let mut unnoticed = 0;
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Some(head) = head(&bytes).filter(is_whole) else {
                continue;
            };
            unnoticed += 1;
            assert_eq!(head.status, whole.status, "bit {bit}");
            let sealed = |head: &ResponseHead| {
                let fields = head.headers.iter();
                let fields =
                    fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
                let sealed = |(name, _): &(String, String)| {
                    name.starts_with("x-") && !name.eq_ignore_ascii_case(SEAL)
                };
                fields.filter(sealed).collect::<Vec<_>>()
            };
            assert_eq!(sealed(&head), sealed(&whole), "bit {bit}");
        }
        // In the reason, the type and the length of the body, and the case of names.
        println!(
            "{unnoticed} of {} bits change nothing of importance",
            text.len() * 8
        );
    }

    #[test]
    fn etcds_heads_have_no_seal() {
        let mut headers = Headers::default();
        headers.push("X-Server-Version", "3.5.1");
        assert!(!is_damaged("200", &headers));
        // One of ringd whose seal was lost.
        headers.push(CAPABILITIES, "crc32");
        assert!(is_damaged("200", &headers));
    }

    #[test]
    fn a_body_is_compared_where_its_checksum_is_known() {
        let mut headers = Headers::default();
        assert!(!is_body_damaged(&headers, b"body"));
        headers.push(CHECKSUM, checksum(b"body"));
        assert!(!is_body_damaged(&headers, b"body"));
        assert!(is_body_damaged(&headers, b"bodx"));
    }
}
