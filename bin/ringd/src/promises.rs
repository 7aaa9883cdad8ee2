//! What a member may have promised: a small file beside its log, for the day on which the log is damaged.
//!
//! A vote and an acknowledgement are promises that live in the log. A member whose log or pages were damaged can fetch its
//! data again from the others, but must not promise anything in a term in which it may have promised already. The file
//! says how far these terms reach. It is written *ahead*: nothing of a term above [`Promises::term_max`] leaves this member
//! before a larger number is durable, so that the number is a bound whatever happens to the log. It also says that the
//! member is fetching its data again, so that a crash in the middle does not bring back a voter with a hole.
//!
//! The format is in `engine/FORMAT.md`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// Terms that a raised bound is ahead of the present one, and how close that may come to the bound.
pub const TERMS_AHEAD: u64 = 16;
const TERMS_LEFT_MIN: u64 = 8;

const MAGIC: &[u8; 8] = b"ringdPRM";
const VERSION: u32 = 1;
/// Two copies, in sectors and pages of their own: one may rot.
const COPY_BYTES: usize = 4096;
const COPIES: usize = 2;
/// Bytes of a copy under its checksum, and the checksum.
const RECORD_BYTES: usize = 64;
const CRC_BYTES: usize = 4;

const FLAG_VOTER: u32 = 1;
const FLAG_REFETCHING: u32 = 2;
const FLAG_EMPTIED: u32 = 4;

/// What a member may have promised, and in which cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    pub cluster_id: u64,
    pub member_id: u64,
    /// It gave no vote, and acknowledged nothing, in a later term.
    pub term_max: u64,
    /// Voters of its cluster, as far as it had heard, and whether it is one.
    pub voters: u32,
    pub is_voter: bool,
    /// How often it was started.
    pub boots: u64,
    /// It lost data and is fetching it again.
    pub refetch: Option<Refetch>,
}

/// How far a member is with fetching its data again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refetch {
    /// What it lost was promised in this term at the latest.
    pub until: u64,
    /// What was damaged is out of the way.
    pub emptied: bool,
}

impl Promises {
    /// With room ahead of `term`.
    pub fn ahead_of(mut self, term: u64) -> Promises {
        if term.saturating_add(TERMS_LEFT_MIN) > self.term_max {
            self.term_max = self.term_max.max(term.saturating_add(TERMS_AHEAD));
        }
        self
    }

    /// Why a member that lost data must not fetch it again: nobody could lead without it.
    pub fn refusal(&self) -> Option<String> {
        let others = self.voters - u32::from(self.is_voter);
        if self.voters == 1 && self.is_voter {
            return Some(String::new());
        }
        (others <= self.voters / 2).then(|| {
            format!(
                "the other voters of the {} in this cluster cannot elect a leader without this member",
                self.voters
            )
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut flags = 0;
        if self.is_voter {
            flags |= FLAG_VOTER;
        }
        if let Some(refetch) = self.refetch {
            flags |= FLAG_REFETCHING;
            if refetch.emptied {
                flags |= FLAG_EMPTIED;
            }
        }
        let until = self.refetch.map_or(0, |refetch| refetch.until);
        let mut copy = Vec::with_capacity(COPY_BYTES);
        copy.extend_from_slice(MAGIC);
        copy.extend_from_slice(&VERSION.to_le_bytes());
        copy.extend_from_slice(&flags.to_le_bytes());
        copy.extend_from_slice(&self.cluster_id.to_le_bytes());
        copy.extend_from_slice(&self.member_id.to_le_bytes());
        copy.extend_from_slice(&self.term_max.to_le_bytes());
        copy.extend_from_slice(&until.to_le_bytes());
        copy.extend_from_slice(&self.voters.to_le_bytes());
        copy.extend_from_slice(&[0; 4]);
        copy.extend_from_slice(&self.boots.to_le_bytes());
        debug_assert_eq!(copy.len(), RECORD_BYTES);
        let crc = crc32fast::hash(&copy);
        copy.extend_from_slice(&crc.to_le_bytes());
        copy.resize(COPY_BYTES, 0);
        copy.repeat(COPIES)
    }

    /// The first copy that passes its checks.
    pub fn decode(bytes: &[u8]) -> Result<Promises, &'static str> {
        let mut why = "it is too short";
        for copy in bytes.chunks(COPY_BYTES).take(COPIES) {
            match decode_copy(copy) {
                Ok(promises) => return Ok(promises),
                Err(problem) => why = problem,
            }
        }
        Err(why)
    }
}

fn decode_copy(copy: &[u8]) -> Result<Promises, &'static str> {
    if copy.len() < RECORD_BYTES + CRC_BYTES {
        return Err("it is too short");
    }
    let (record, rest) = copy.split_at(RECORD_BYTES);
    let crc = &rest[..CRC_BYTES];
    if crc != crc32fast::hash(record).to_le_bytes() {
        return Err("its checksum does not match");
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&record[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let half = |at: usize| {
        let mut half = [0; 4];
        half.copy_from_slice(&record[at..at + 4]);
        u32::from_le_bytes(half)
    };
    if &record[..8] != MAGIC {
        return Err("it is another kind of file");
    }
    if half(8) != VERSION {
        return Err("it was written by another version");
    }
    let flags = half(12);
    let (voters, is_voter) = (half(48), flags & FLAG_VOTER != 0);
    if is_voter && voters == 0 {
        return Err("it contradicts itself");
    }
    Ok(Promises {
        cluster_id: word(16),
        member_id: word(24),
        term_max: word(32),
        voters,
        is_voter,
        boots: word(56),
        refetch: (flags & FLAG_REFETCHING != 0).then(|| Refetch {
            until: word(40),
            emptied: flags & FLAG_EMPTIED != 0,
        }),
    })
}

/// Where the promises are kept.
pub trait PromiseFile: Send + Sync {
    /// For messages.
    fn name(&self) -> String;
    /// `None` if there is no such file.
    fn read(&self) -> io::Result<Option<Vec<u8>>>;
    /// Puts this content in the place of the old one; durable when it returns, and one of the two whatever happens before.
    fn replace(&self, content: &[u8]) -> io::Result<()>;
}

/// The file in the member's directory.
pub struct RealPromises {
    path: PathBuf,
}

impl RealPromises {
    pub fn new(path: &Path) -> RealPromises {
        RealPromises {
            path: path.to_owned(),
        }
    }
}

impl PromiseFile for RealPromises {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(&self.path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The copies are written over one after the other, so that one of them is whole at any time, and a full file system is
    /// no hindrance.
    fn replace(&self, content: &[u8]) -> io::Result<()> {
        match OpenOptions::new().write(true).open(&self.path) {
            Ok(file) if file.metadata()?.len() == content.len() as u64 => {
                for (copy, offset) in content.chunks(COPY_BYTES).zip((0..).step_by(COPY_BYTES)) {
                    file.write_all_at(copy, offset)?;
                    file.sync_data()?;
                }
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut new = self.path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let mut file = File::create(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        sync_parent(&self.path)
    }
}

/// Makes the names in a file's directory durable.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// Promises in memory, for tests and simulation. Every change is durable at once.
#[derive(Default)]
pub struct MemoryPromises(Mutex<Option<Vec<u8>>>);

impl PromiseFile for MemoryPromises {
    fn name(&self) -> String {
        "promises".to_owned()
    }

    fn read(&self) -> io::Result<Option<Vec<u8>>> {
        // A panic elsewhere leaves the content whole: every change of it is one assignment.
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(content.clone())
    }

    fn replace(&self, content: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(content.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Promises {
        Promises {
            cluster_id: 7,
            member_id: 8,
            term_max: 9,
            voters: 3,
            is_voter: true,
            boots: 6,
            refetch: Some(Refetch {
                until: 5,
                emptied: true,
            }),
        }
    }

    #[test]
    fn what_was_written_is_read_back_from_either_copy() {
        let content = some().encode();
        assert_eq!(Promises::decode(&content), Ok(some()));
        for at in 0..RECORD_BYTES + CRC_BYTES {
            for copy in 0..COPIES {
                let mut damaged = content.clone();
                damaged[copy * COPY_BYTES + at] ^= 4;
                assert_eq!(Promises::decode(&damaged), Ok(some()), "byte {at}");
            }
            let mut damaged = content.clone();
            damaged[at] ^= 4;
            damaged[COPY_BYTES + at] ^= 4;
            assert!(Promises::decode(&damaged).is_err(), "byte {at}");
        }
        for len in 0..RECORD_BYTES + CRC_BYTES {
            assert!(Promises::decode(&content[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_bound_is_raised_before_it_is_reached() {
        let at = |term_max| Promises { term_max, ..some() };
        assert_eq!(at(9).ahead_of(1).term_max, 9);
        assert_eq!(at(9).ahead_of(2).term_max, 2 + TERMS_AHEAD);
        assert_eq!(at(9).ahead_of(100).term_max, 100 + TERMS_AHEAD);
        assert_eq!(at(9).ahead_of(u64::MAX).term_max, u64::MAX);
    }

    #[test]
    fn only_a_cluster_that_can_elect_without_the_member_gives_it_its_data_again() {
        let of = |voters, is_voter| Promises {
            voters,
            is_voter,
            ..some()
        };
        for (voters, is_voter, refused) in [
            (1, true, true),
            (2, true, true),
            (3, true, false),
            (4, true, false),
            (5, true, false),
            (1, false, false),
            (3, false, false),
            (0, false, true),
        ] {
            let refusal = of(voters, is_voter).refusal();
            assert_eq!(refusal.is_some(), refused, "{voters} voters: {refusal:?}");
        }
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = RealPromises::new(&dir.path().join("promises"));
        assert_eq!(file.read().expect("no file"), None);
        let other = Promises {
            term_max: 77,
            ..some()
        };
        for content in [some().encode(), other.encode(), vec![1], some().encode()] {
            file.replace(&content).expect("written");
            assert_eq!(file.read().expect("a file"), Some(content));
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a list").count(), 1);
    }
}
