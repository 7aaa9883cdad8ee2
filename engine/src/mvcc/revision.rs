//! Revisions: the position of one change in the history of the store.

/// `main` numbers the write transactions, `sub` the changes inside one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Revision {
    pub main: i64,
    pub sub: i64,
}

/// Length of a revision as a key of the `rows` tree.
pub const REVISION_KEY_BYTES: usize = 16;

impl Revision {
    pub const fn new(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }

    /// Big-endian, so that byte order is revision order. Both numbers are never negative.
    pub fn to_key(self) -> [u8; REVISION_KEY_BYTES] {
        let mut key = [0; REVISION_KEY_BYTES];
        key[..8].copy_from_slice(&self.main.to_be_bytes());
        key[8..].copy_from_slice(&self.sub.to_be_bytes());
        key
    }

    pub fn from_key(key: &[u8]) -> Option<Revision> {
        let (main, sub) = key.split_at_checked(8)?;
        Some(Revision {
            main: i64::from_be_bytes(main.try_into().ok()?),
            sub: i64::from_be_bytes(sub.try_into().ok()?),
        })
    }
}
