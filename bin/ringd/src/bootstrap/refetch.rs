//! A member whose log or pages are damaged: whether it may start without them, and how it gets there.
//!
//! In a cluster whose other voters can elect a leader without it, such a member puts its files aside and begins anew, with
//! nothing but its identity and the bound of what it may have promised ([`crate::promises`]). The leader sends it
//! everything, and until it has an entry of a later term than the bound it has no vote (`raft::Node::is_refetching` says
//! why that is safe). Anywhere else it refuses to start, as a member that is alone always does.
//!
//! The steps, each durable before the next: the promises say that the files are to go; the files are out of the way; the
//! promises say so. A start that finds the first step without the last goes on with the second.

use super::{assemble::Disk, Failure};
use crate::promises::{PromiseFile, Promises, Refetch};
use engine::{page, store, wal};

/// Why page file and log cannot be opened.
pub(super) enum Trouble {
    /// Something durable is not there any more.
    Damage(Damage),
    /// Anything else: nothing is known to be lost.
    Other(Failure),
}

pub(super) struct Damage {
    /// What and where.
    pub what: String,
    /// With what to do about it.
    pub advice: String,
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Damage(damage) => damage.advice.into(),
            Trouble::Other(failure) => failure,
        }
    }
}

impl From<page::OpenError> for Trouble {
    fn from(error: page::OpenError) -> Trouble {
        match error.is_damage() {
            true => Trouble::Damage(Damage {
                what: error.what(),
                advice: error.to_string(),
            }),
            false => Trouble::Other(error.into()),
        }
    }
}

impl From<store::meta::OpenError> for Trouble {
    fn from(error: store::meta::OpenError) -> Trouble {
        match &error {
            store::meta::OpenError::Page(_) => Trouble::Damage(Damage {
                what: error.to_string(),
                advice: error.to_string(),
            }),
            _ => Trouble::Other(error.into()),
        }
    }
}

impl From<wal::RecoverError> for Trouble {
    fn from(error: wal::RecoverError) -> Trouble {
        match error.lost_acknowledged() {
            true => Trouble::Damage(Damage {
                what: error.what(),
                advice: error.to_string(),
            }),
            false => Trouble::Other(error.into()),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Other(failure)
    }
}

/// What the file of promises says.
pub(super) enum Kept {
    /// There is none: a new member, or one of an earlier version.
    Nothing,
    Known(Promises),
    /// Both copies are damaged.
    Unreadable(String),
}

impl Kept {
    pub fn read(file: &dyn PromiseFile) -> Result<Kept, Failure> {
        let name = file.name();
        match file.read() {
            Ok(None) => Ok(Kept::Nothing),
            Ok(Some(content)) => Ok(match Promises::decode(&content) {
                Ok(promises) => Kept::Known(promises),
                Err(why) => Kept::Unreadable(format!("{name} is damaged: {why}")),
            }),
            Err(error) => Err(format!("{name}: reading failed: {error}").into()),
        }
    }

    pub fn known(&self) -> Option<Promises> {
        match self {
            Kept::Known(promises) => Some(*promises),
            _ => None,
        }
    }

    pub fn refetch(&self) -> Option<Refetch> {
        self.known().and_then(|promises| promises.refetch)
    }
}

pub(super) fn save(file: &dyn PromiseFile, promises: &Promises) -> Result<(), Failure> {
    let written = file.replace(&promises.encode());
    written.map_err(|error| unwritable(file, error))
}

pub(super) fn unwritable(file: &dyn PromiseFile, error: std::io::Error) -> Failure {
    format!("{}: writing failed: {error}", file.name()).into()
}

/// Decides what becomes of a member whose data is damaged. Afterwards its files are out of the way, or the answer is why not.
pub(super) fn begin(
    disk: &dyn Disk,
    kept: Kept,
    damage: Damage,
    notes: &mut Vec<String>,
) -> Result<Promises, Failure> {
    let mut promises = match kept {
        Kept::Known(promises) => promises,
        Kept::Nothing => return Err(damage.advice.into()),
        Kept::Unreadable(why) => return Err(format!("{}; and {why}", damage.advice).into()),
    };
    match promises.refusal() {
        None => {}
        Some(why) if why.is_empty() => return Err(damage.advice.into()),
        Some(why) => {
            return Err(format!(
                "{}. It does not fetch its data again from the others: {why}",
                damage.advice
            )
            .into())
        }
    }
    let refetch = Refetch {
        until: promises.term_max,
        emptied: false,
    };
    promises.refetch = Some(refetch);
    notes.push(format!(
        "{}. This member goes on without what it had: it fetches everything from the others again, and neither votes nor \
         serves clients before it has what it can have acknowledged. That takes a leader that the others elect without \
         it, in a term after {}",
        damage.what, refetch.until
    ));
    save(&*disk.promises(), &promises)?;
    empty(disk, promises, notes)
}

/// Puts the files of a member that is to fetch its data again out of the way.
pub(super) fn empty(
    disk: &dyn Disk,
    mut promises: Promises,
    notes: &mut Vec<String>,
) -> Result<Promises, Failure> {
    let aside = disk.set_aside().map_err(|error| {
        format!(
            "the damaged files of this member cannot be put aside: {error}; nothing was deleted"
        )
    })?;
    notes.push(format!(
        "the damaged files are kept as {}: remove them when nobody needs them any more",
        aside.join(" and ")
    ));
    if let Some(refetch) = &mut promises.refetch {
        refetch.emptied = true;
    }
    save(&*disk.promises(), &promises)?;
    Ok(promises)
}
