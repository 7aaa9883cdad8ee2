//! Faults of the disk made to order, inside the log and page drivers of the real binary.
//!
//! A debugging control: builds without debug assertions have none of it, and [`arm`] refuses there. A control file says
//! what happens where. It is read again whenever it changed, so that a test steers a server that runs; replace it by
//! renaming, so that no half of it is read. Without the file the disk is sound.
//!
//! ```text
//! # point       action         after so many, so often
//! log.flush     stall                          wait until the file changes
//! log.write     delay=20ms     skip=2 times=5  wait that long, or until the file changes
//! page.read     fail=EIO       times=1         EIO, ENOSPC, or a number of errno
//! ```
//!
//! `log.write` fails before anything is written, `log.flush` after. The first rule of a point that still counts applies.

/// Where a fault can be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A batch of the log, before it is written.
    LogWrite,
    /// The same, once it is written: whether it is durable is not known then.
    LogFlush,
    /// Making or removing a segment of the log.
    LogFile,
    /// Reading the log.
    LogRead,
    /// Pages written by a checkpoint.
    PageWrite,
    /// Making them durable.
    PageFlush,
    /// Reading pages.
    PageRead,
    /// The meta page that completes a checkpoint.
    MetaWrite,
}

/// The variable that names the control file.
pub const VARIABLE: &str = "RINGD_DISK_FAULTS";

#[cfg(debug_assertions)]
pub use control::arm;
#[cfg(debug_assertions)]
pub(crate) use control::meet;

/// Refuses: this build has no such control.
#[cfg(not(debug_assertions))]
pub fn arm(_control: &std::path::Path) -> Result<(), String> {
    Err(format!(
        "{VARIABLE} is set, but this is a release build, which injects no faults: unset it, or use a build with debug \
         assertions"
    ))
}

/// The disk is what it is.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn meet(_point: Point) -> std::io::Result<()> {
    Ok(())
}

#[cfg(debug_assertions)]
mod control {
    use super::{Point, VARIABLE};
    use std::{
        fs, io,
        os::unix::fs::MetadataExt as _,
        path::{Path, PathBuf},
        sync::{Mutex, MutexGuard, OnceLock, PoisonError},
        thread,
        time::{Duration, Instant},
    };

    /// How often a wait looks whether the control changed.
    const LOOK_EACH: Duration = Duration::from_millis(2);
    /// A control file is a few lines.
    const CONTROL_BYTES_MAX: u64 = 64 << 10;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Action {
        Fail(i32),
        /// Without a duration: until the control changes.
        Wait(Option<Duration>),
    }

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Rule {
        point: Point,
        action: Action,
        skip: u64,
        times: u64,
    }

    /// The file as it was read: device, inode, length and time of the last change.
    type Stamp = (u64, u64, u64, i64, i64);

    #[derive(Default)]
    struct State {
        stamp: Option<Stamp>,
        /// Counts the changes.
        version: u64,
        rules: Vec<Rule>,
    }

    struct Control {
        path: PathBuf,
        state: Mutex<State>,
    }

    static CONTROL: OnceLock<Control> = OnceLock::new();

    /// From now on the drivers of this process obey the control file, which need not be there yet. A file that is there
    /// and makes no sense is an error; so is, later, the operation that meets it.
    pub fn arm(control: &Path) -> Result<(), String> {
        let control = Control::new(control);
        drop(control.lock_fresh().map_err(|error| error.to_string())?);
        CONTROL
            .set(control)
            .map_err(|_| format!("{VARIABLE} was obeyed already"))
    }

    /// The operation at this point is about to happen.
    pub(crate) fn meet(point: Point) -> io::Result<()> {
        match CONTROL.get() {
            Some(control) => control.meet(point),
            None => Ok(()),
        }
    }

    impl Control {
        fn new(path: &Path) -> Control {
            Control {
                path: path.to_owned(),
                state: Mutex::default(),
            }
        }

        fn meet(&self, point: Point) -> io::Result<()> {
            let (action, version) = {
                let mut state = self.lock_fresh()?;
                let version = state.version;
                match state.next_action(point) {
                    Some(action) => (action, version),
                    None => return Ok(()),
                }
            };
            let until = match action {
                Action::Fail(errno) => return Err(io::Error::from_raw_os_error(errno)),
                Action::Wait(duration) => duration.map(|duration| Instant::now() + duration),
            };
            loop {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                if left == Some(Duration::ZERO) || self.lock_fresh()?.version != version {
                    return Ok(());
                }
                thread::sleep(left.map_or(LOOK_EACH, |left| left.min(LOOK_EACH)));
            }
        }

        /// The state, read again if the file is another one.
        fn lock_fresh(&self) -> io::Result<MutexGuard<'_, State>> {
            // Whole after a panic elsewhere: nothing below panics between two assignments.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let stamp = match fs::metadata(&self.path) {
                Ok(found) => Some((
                    found.dev(),
                    found.ino(),
                    found.len(),
                    found.mtime(),
                    found.mtime_nsec(),
                )),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(self.wrong(&error.to_string())),
            };
            if stamp != state.stamp {
                state.rules = match stamp {
                    Some((_, _, bytes, ..)) if bytes > CONTROL_BYTES_MAX => {
                        return Err(self.wrong("is too long"))
                    }
                    Some(_) => self.read()?,
                    None => Vec::new(),
                };
                state.stamp = stamp;
                state.version += 1;
            }
            Ok(state)
        }

        fn read(&self) -> io::Result<Vec<Rule>> {
            let text = match fs::read_to_string(&self.path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                Err(error) => return Err(self.wrong(&error.to_string())),
            };
            let mut rules = Vec::new();
            for (number, line) in text.lines().enumerate() {
                let line = line.split('#').next().unwrap_or_default().trim();
                if !line.is_empty() {
                    let rule = parse(line)
                        .map_err(|why| self.wrong(&format!("line {}: {why}", number + 1)))?;
                    rules.push(rule);
                }
            }
            Ok(rules)
        }

        fn wrong(&self, why: &str) -> io::Error {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{VARIABLE}={}: {why}", self.path.display()),
            )
        }
    }

    impl State {
        fn next_action(&mut self, point: Point) -> Option<Action> {
            for rule in self.rules.iter_mut().filter(|rule| rule.point == point) {
                if rule.skip > 0 {
                    rule.skip -= 1;
                    return None;
                }
                if rule.times > 0 {
                    rule.times -= 1;
                    return Some(rule.action);
                }
            }
            None
        }
    }

    fn parse(line: &str) -> Result<Rule, String> {
        let mut words = line.split_whitespace();
        let point = words.next().unwrap_or_default();
        let point = match point {
            "log.write" => Point::LogWrite,
            "log.flush" => Point::LogFlush,
            "log.file" => Point::LogFile,
            "log.read" => Point::LogRead,
            "page.write" => Point::PageWrite,
            "page.flush" => Point::PageFlush,
            "page.read" => Point::PageRead,
            "meta.write" => Point::MetaWrite,
            _ => return Err(format!("no point {point}")),
        };
        let mut action = None;
        let (mut skip, mut times) = (0, u64::MAX);
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse().map_err(|_| format!("no number: {word}"));
            match name {
                "skip" => skip = number()?,
                "times" => times = number()?,
                "stall" if value.is_empty() => action = Some(Action::Wait(None)),
                "delay" => action = Some(Action::Wait(Some(duration(value)?))),
                "fail" => action = Some(Action::Fail(errno(value)?)),
                _ => return Err(format!("no word {word}")),
            }
        }
        Ok(Rule {
            point,
            action: action.ok_or("needs stall, delay= or fail=")?,
            skip,
            times,
        })
    }

    fn errno(name: &str) -> Result<i32, String> {
        match name {
            "EIO" => Ok(libc::EIO),
            "ENOSPC" => Ok(libc::ENOSPC),
            _ => name.parse().map_err(|_| format!("no errno {name}")),
        }
    }

    fn duration(text: &str) -> Result<Duration, String> {
        let wrong = || format!("no duration {text}: use 20ms or 3s");
        let (digits, unit_ms) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(digits), _) => (digits, 1),
            (None, Some(digits)) => (digits, 1000),
            (None, None) => return Err(wrong()),
        };
        let count: u32 = digits.parse().map_err(|_| wrong())?;
        Ok(Duration::from_millis(u64::from(count) * unit_ms))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        struct Place {
            dir: tempfile::TempDir,
            control: Control,
        }

        impl Place {
            fn new() -> Place {
                let dir = tempfile::tempdir().expect("a directory");
                let control = Control::new(&dir.path().join("control"));
                Place { dir, control }
            }

            fn say(&self, text: &str) {
                say(self.dir.path(), text);
            }
        }

        fn say(dir: &Path, text: &str) {
            let new = dir.join("new");
            fs::write(&new, text).expect("written");
            fs::rename(new, dir.join("control")).expect("renamed");
        }

        fn errno_of(result: io::Result<()>) -> Option<i32> {
            result.err().and_then(|error| error.raw_os_error())
        }

        #[test]
        fn without_a_file_nothing_happens() {
            let place = Place::new();
            assert!(place.control.meet(Point::LogWrite).is_ok());
        }

        #[test]
        fn rules_skip_and_end_and_change_with_the_file() {
            let place = Place::new();
            place
                .say("# two of them\nlog.flush fail=EIO skip=1 times=2\nlog.flush fail=28 times=1");
            let met: Vec<_> = (0..5)
                .map(|_| errno_of(place.control.meet(Point::LogFlush)))
                .collect();
            assert_eq!(met, [None, Some(5), Some(5), Some(28), None]);
            assert!(place.control.meet(Point::LogWrite).is_ok(), "another point");
            place.say("log.write fail=ENOSPC");
            assert_eq!(errno_of(place.control.meet(Point::LogWrite)), Some(28));
            assert!(place.control.meet(Point::LogFlush).is_ok());
            fs::remove_file(place.dir.path().join("control")).expect("removed");
            assert!(place.control.meet(Point::LogWrite).is_ok());
        }

        #[test]
        fn a_stall_ends_when_the_file_changes() {
            let place = Place::new();
            place.say("page.flush stall");
            thread::scope(|scope| {
                let stalled = scope.spawn(|| place.control.meet(Point::PageFlush));
                // Whatever the order of the two, it must not end before the change, and must end after it.
                thread::sleep(LOOK_EACH * 10);
                assert!(!stalled.is_finished());
                place.say("");
                assert!(stalled.join().expect("no panic").is_ok());
            });
        }

        #[test]
        fn a_delay_takes_its_time() {
            let place = Place::new();
            place.say("page.read delay=30ms times=1");
            let begun = Instant::now();
            assert!(place.control.meet(Point::PageRead).is_ok());
            assert!(begun.elapsed() >= Duration::from_millis(30));
        }

        #[test]
        fn nonsense_is_named() {
            let place = Place::new();
            for (text, word) in [
                ("log.nothing stall", "log.nothing"),
                ("log.write", "needs"),
                ("log.write fail=EWHAT", "EWHAT"),
                ("log.write delay=3", "delay"),
                ("\nlog.write stall skip=x", "line 2"),
            ] {
                place.say(text);
                let error = place.control.meet(Point::LogWrite).expect_err(text);
                let error = error.to_string();
                assert!(error.contains(word) || word == "delay", "{text}: {error}");
                assert!(error.contains(VARIABLE), "{error}");
            }
        }
    }
}
