//! Versions as they stand in header fields: semantic versions, of which major and minor decide.

/// Major and minor of a semantic version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u64,
    pub minor: u64,
}

impl Version {
    pub const fn new(major: u64, minor: u64) -> Version {
        Version { major, minor }
    }

    /// Reads `major.minor.patch`, with `-pre` and `+build` behind it if need be.
    pub fn parse(text: &str) -> Option<Version> {
        let (text, _) = text.split_once('+').unwrap_or((text, ""));
        let (numbers, _) = text.split_once('-').unwrap_or((text, ""));
        let mut parts = numbers.split('.');
        let mut number = || {
            let part = parts.next()?;
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u64>().ok()).flatten()
        };
        let (major, minor, _patch) = (number()?, number()?, number()?);
        parts.next().is_none().then_some(Version { major, minor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semantic_versions_and_others() {
        for text in ["3.5.1", "3.5.99-ours+build7", "3.5.0+a-b", "3.5.0-rc.1"] {
            assert_eq!(Version::parse(text), Some(Version::new(3, 5)), "{text}");
        }
        for text in [
            "", "banana", "3.5", "3.5.1.2", "3..1", "v3.5.1", "3.+5.1", "3.5.x",
        ] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
