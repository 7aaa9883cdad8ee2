//! The process and the machine under it: what must hold before the first thread starts, the data directory and its lock,
//! signals, the init daemon and the memory limit.
//!
//! Everything here runs before or beside the executor; nothing is on the path of a request.

#![allow(unsafe_code)]

use std::{
    fmt, fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use crate::{
    caller,
    config::Config,
    descriptors::RESERVED_DESCRIPTORS,
    logging::{os_text, Level, Log, Record},
};

/// Memory that io_uring must be allowed to lock, checked by value even for root: the driver checks it so.
pub const LOCKED_MEMORY_BYTES_MIN: u64 = 512 << 10;
/// Mode of directories that hold data.
const DIRECTORY_MODE: u32 = 0o700;
const LOCK_FILE: &str = "lock";

/// Why the machine does not let ringd run. Each text says what to change.
#[derive(Debug, PartialEq, Eq)]
pub enum PreflightError {
    LockedMemory { limit_bytes: u64 },
    NoIoUring,
    IoUringForbidden,
    IoUring(String),
    Descriptors { limit: u64 },
}

impl fmt::Display for PreflightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PreflightError::LockedMemory { limit_bytes } => write!(
                f,
                "the limit of locked memory is {} KiB, at least {} KiB are needed: set LimitMEMLOCK= in the unit, `--ulimit memlock` for a container, or `ulimit -l`",
                limit_bytes >> 10,
                LOCKED_MEMORY_BYTES_MIN >> 10
            ),
            PreflightError::NoIoUring => f.write_str("this kernel has no io_uring: Linux 5.8 or later is needed"),
            PreflightError::IoUringForbidden => f.write_str(
                "io_uring is forbidden here: set kernel.io_uring_disabled to 0, or run the container with a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
            ),
            PreflightError::IoUring(text) => write!(f, "io_uring can't be set up: {text}"),
            PreflightError::Descriptors { limit } => write!(
                f,
                "file descriptor limit of etcd process is too low; please set higher (it is {limit}, more than {RESERVED_DESCRIPTORS} are needed)"
            ),
        }
    }
}

impl std::error::Error for PreflightError {}

/// Has the disk drivers make the faults that a test asked for; a release build refuses.
pub fn arm_disk_faults() -> Result<(), String> {
    match std::env::var_os(engine::faults::VARIABLE) {
        Some(control) => engine::faults::arm(Path::new(&control)),
        None => Ok(()),
    }
}

/// Checks the limits and io_uring, and returns the limit of open files. Must pass before the first executor is made, which
/// would panic instead.
pub fn preflight() -> Result<u64, PreflightError> {
    let (locked, _) = limits(libc::RLIMIT_MEMLOCK);
    if locked < LOCKED_MEMORY_BYTES_MIN {
        return Err(PreflightError::LockedMemory {
            limit_bytes: locked,
        });
    }
    let descriptors = raise_descriptor_limit();
    if descriptors <= RESERVED_DESCRIPTORS {
        return Err(PreflightError::Descriptors { limit: descriptors });
    }
    probe_io_uring().map(|()| descriptors)
}

/// Soft and hard limit.
fn limits(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the answer, and the call keeps no pointer to it.
    match unsafe { libc::getrlimit(resource, &mut limit) } {
        0 => (limit.rlim_cur, limit.rlim_max),
        // It can fail only for an unknown resource; then there is no limit to observe.
        _ => (u64::MAX, u64::MAX),
    }
}

/// Raises the soft limit of open files to the hard one, as Go's runtime does, and returns the limit in force.
fn raise_descriptor_limit() -> u64 {
    let (soft, hard) = limits(libc::RLIMIT_NOFILE);
    if soft < hard {
        let wanted = libc::rlimit {
            rlim_cur: hard,
            rlim_max: hard,
        };
        // SAFETY: `wanted` is a valid value that outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) } == 0 {
            return hard;
        }
    }
    soft
}

fn probe_io_uring() -> Result<(), PreflightError> {
    const ENTRIES: libc::c_uint = 2;
    // struct io_uring_params is 120 bytes; zero asks for nothing special.
    let mut params = [0u64; 15];
    // SAFETY: the kernel reads and writes at most the 120 bytes of `params`, which is alive and aligned for it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, params.as_mut_ptr()) };
    if fd >= 0 {
        // SAFETY: the call above has just created this descriptor, and nothing else owns it.
        drop(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::ENOSYS) => PreflightError::NoIoUring,
        Some(libc::EPERM) | Some(libc::EACCES) => PreflightError::IoUringForbidden,
        _ => PreflightError::IoUring(os_text(&error)),
    })
}

/// Why a data directory can't be used.
#[derive(Debug)]
pub enum DirectoryError {
    Create { path: PathBuf, error: io::Error },
    NotWritable { path: PathBuf, error: io::Error },
    Locked { path: PathBuf, pid: Option<u32> },
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DirectoryError::Create { path, error } => {
                write!(
                    f,
                    "cannot access data directory: mkdir {}: {}",
                    path.display(),
                    os_text(error)
                )
            }
            DirectoryError::NotWritable { path, error } => {
                write!(
                    f,
                    "cannot write to data directory {}: {}",
                    path.display(),
                    os_text(error)
                )
            }
            DirectoryError::Locked { path, pid } => {
                write!(f, "data directory is in use by ")?;
                match pid {
                    Some(pid) => write!(f, "process {pid}")?,
                    None => write!(f, "another process")?,
                }
                write!(
                    f,
                    " (lock file {}); stop it, or choose another --data-dir",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for DirectoryError {}

/// The data directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    _lock: fs::File,
    /// Whether the member's directory was there before.
    pub initialized: bool,
    /// Lines to log: permissions that are wider than they should be, files that do not belong there.
    pub notes: Vec<Record>,
}

/// Creates the directories with mode 0700, checks that they can be written and locks them against other processes.
pub fn open_data_directory(config: &Config) -> Result<DataDirectory, DirectoryError> {
    let member = config.member_dir();
    let mut notes = foreign_files(&config.data_dir);
    let initialized = member.is_dir();
    if initialized {
        let note = Record::new(
            Level::Info,
            caller!(),
            "server has been already initialized",
        );
        let data_dir = config.data_dir.to_string_lossy().into_owned();
        notes.push(note.with("data-dir", data_dir).with("dir-type", "member"));
    }
    for path in [&config.data_dir, &member, &config.wal_path()] {
        notes.extend(create_directory(path)?);
        check_writable(path)?;
    }
    let lock = lock_exclusively(&member.join(LOCK_FILE))?;
    Ok(DataDirectory {
        _lock: lock,
        initialized,
        notes,
    })
}

/// Creates a directory with its parents. One that exists with another mode is reported, not changed.
fn create_directory(path: &Path) -> Result<Option<Record>, DirectoryError> {
    let failed = |error| DirectoryError::Create {
        path: first_missing(path).to_owned(),
        error,
    };
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let mode = meta.permissions().mode() & 0o777;
            if mode == DIRECTORY_MODE {
                return Ok(None);
            }
            let text = format!(
                "directory {:?} exist, but the permission is {:?}. The recommended permission is \"-rwx------\" to prevent possible unprivileged access to the data",
                path.to_string_lossy(),
                mode_text(mode)
            );
            Ok(Some(
                Record::new(Level::Warn, caller!(), "check file permission").with("error", text),
            ))
        }
        Ok(_) => Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(path)
                .map_err(failed)?;
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The directory that has to be created first on the way to `path`; `path` itself if only that is missing.
fn first_missing(path: &Path) -> &Path {
    let missing = path.ancestors().take_while(|ancestor| {
        fs::metadata(ancestor).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    });
    let named = missing.filter(|ancestor| !ancestor.as_os_str().is_empty());
    named.last().unwrap_or(path)
}

/// `drwxr-xr-x`
fn mode_text(mode: u32) -> String {
    let bits = "rwxrwxrwx".chars().enumerate();
    let flags: String = bits
        .map(|(at, c)| if mode >> (8 - at) & 1 == 1 { c } else { '-' })
        .collect();
    format!("d{flags}")
}

fn check_writable(path: &Path) -> Result<(), DirectoryError> {
    let probe = path.join(".touch");
    let touched = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe));
    unless_full(touched).map_err(|error| DirectoryError::NotWritable {
        path: path.to_owned(),
        error,
    })
}

/// A member with data serves on a full file system too: it needs no space for that.
fn unless_full(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if engine::page::is_disk_full(&error) => Ok(()),
        result => result,
    }
}

/// etcd warns of names that it does not know and goes on.
fn foreign_files(data_dir: &Path) -> Vec<Record> {
    let Ok(entries) = fs::read_dir(data_dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.retain(|name| !matches!(name.as_str(), "member" | "fixtures" | "wal-io" | ".touch"));
    names.sort();
    let record = |name: String| {
        Record::new(
            Level::Warn,
            caller!(),
            "found invalid file under data directory",
        )
        .with("filename", name)
        .with("data-dir", data_dir.to_string_lossy().into_owned())
    };
    names.into_iter().map(record).collect()
}

/// Locks a file that holds the owner's process number. The kernel releases the lock when the process ends, however it does.
fn lock_exclusively(path: &Path) -> Result<fs::File, DirectoryError> {
    use io::Write as _;
    let not_writable = |error| DirectoryError::NotWritable {
        path: path.to_owned(),
        error,
    };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(not_writable)?;
    // SAFETY: the descriptor is open for the whole call.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EWOULDBLOCK) {
            return Err(not_writable(error));
        }
        let pid = fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        return Err(DirectoryError::Locked {
            path: path.to_owned(),
            pid,
        });
    }
    let named = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    unless_full(named).map_err(not_writable)?;
    Ok(file)
}

/// A signal that ends the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Interrupt,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Terminate => libc::SIGTERM,
            Signal::Interrupt => libc::SIGINT,
        }
    }

    /// The name that etcd logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Signal::Terminate => "terminated",
            Signal::Interrupt => "interrupt",
        }
    }
}

/// A descriptor from which arriving signals are read.
#[derive(Debug)]
pub struct Signals(OwnedFd);

/// Bytes of one `signalfd_siginfo`; a read shorter than that fails.
pub const SIGNAL_RECORD_BYTES: usize = std::mem::size_of::<libc::signalfd_siginfo>();

impl Signals {
    /// Blocks SIGTERM and SIGINT for this thread and all that it starts later, and opens the descriptor. Call it before
    /// any thread is started: in a thread that does not block them the signals end the process.
    pub fn block() -> io::Result<Signals> {
        let set = signal_set(&[Signal::Terminate, Signal::Interrupt]);
        // SAFETY: `set` is initialised and outlives the call; a null pointer for the old mask is allowed.
        let failed = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: -1 asks for a new descriptor; `set` is initialised.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above has just created this descriptor, and nothing else owns it.
        Ok(Signals(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the next signal; blocks the thread. An executor reads [`SIGNAL_RECORD_BYTES`] from the descriptor
    /// instead and hands them to [`Signals::decode`].
    pub fn wait(&self) -> io::Result<Signal> {
        let mut buffer = [0u8; SIGNAL_RECORD_BYTES];
        loop {
            // SAFETY: the buffer is as long as stated and writable.
            let read =
                unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if read >= 0 {
                if let Some(signal) = Signals::decode(&buffer[..read as usize]) {
                    return Ok(signal);
                }
                continue;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// The signal in what was read from the descriptor: its number is the record's first field.
    pub fn decode(record: &[u8]) -> Option<Signal> {
        let number = u32::from_ne_bytes(record.get(..4)?.try_into().ok()?);
        match number as libc::c_int {
            libc::SIGTERM => Some(Signal::Terminate),
            libc::SIGINT => Some(Signal::Interrupt),
            _ => None,
        }
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn signal_set(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: a sigset_t is plain data, for which zero is a value; the calls below initialise and fill it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writes, and the signal numbers are valid.
    unsafe {
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, signal.number());
        }
    }
    set
}

/// Ends the process by the signal that asked for it, so that whoever waits for it sees that signal. As process 1, which
/// signals do not end, it exits with 0.
pub fn reraise(signal: Signal) -> ! {
    if std::process::id() != 1 {
        let set = signal_set(&[signal]);
        // SAFETY: the default action is a valid handler for both signals; `set` is initialised.
        unsafe {
            libc::signal(signal.number(), libc::SIG_DFL);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
            libc::kill(libc::getpid(), signal.number());
        }
        // The signal may be delivered to another thread first; give it a moment before falling back to the code.
        std::thread::sleep(std::time::Duration::from_millis(100));
        std::process::exit(128 + signal.number());
    }
    std::process::exit(0);
}

/// Tells the init daemon that the member serves. Without `NOTIFY_SOCKET` nothing is sent.
pub fn notify_ready(log: &Log) {
    crate::info!(log, "notifying init daemon");
    match sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        Ok(()) => crate::info!(log, "successfully notified init daemon"),
        Err(error) => {
            crate::error!(log, "failed to notify systemd for readiness", "error" => os_text(&error))
        }
    }
}

/// The bytes of memory this process may use: the tightest limit of its control groups, at most what the machine has.
pub fn memory_limit_bytes() -> u64 {
    let physical = physical_memory_bytes();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_limit_bytes(Path::new("/sys/fs/cgroup"), &groups)
        .map_or(physical, |limit| limit.min(physical))
}

fn physical_memory_bytes() -> u64 {
    // SAFETY: sysconf reads no memory of ours.
    let (pages, page_bytes) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    // An unknown size must not become a limit of zero.
    match (u64::try_from(pages), u64::try_from(page_bytes)) {
        (Ok(pages), Ok(page_bytes)) if pages > 0 => pages.saturating_mul(page_bytes),
        _ => u64::MAX,
    }
}

/// The least limit from the process's group up to the root, in version 2 (`0::/path`) or version 1 (`n:memory:/path`).
fn cgroup_limit_bytes(root: &Path, groups: &str) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            names if names.split(',').any(|n| n == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // In a container the path is the host's, and the group itself is mounted at the root.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(base.join(group).join(file)).unwrap_or_default();
            if let Ok(limit) = text.trim().parse::<u64>() {
                least = Some(least.map_or(limit, |l| l.min(limit)));
            }
        }
    }
    least
}

/// Lets everything else go first: for threads whose work nobody waits for at once.
pub fn lower_thread_priority() {
    // SAFETY: plain calls on the calling thread; where they are refused it keeps its priority.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS, thread, 19);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{load_on, System};

    fn config(dir: &Path) -> Config {
        let args = vec!["ringd".into(), format!("--data-dir={}", dir.display())];
        load_on(&System, args, &[]).unwrap().config
    }

    #[test]
    fn a_data_directory_is_private_and_locked() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("a/b");
        let config = config(&dir);
        let held = open_data_directory(&config).unwrap();
        assert!(
            !held.initialized && held.notes.is_empty(),
            "{:?}",
            held.notes
        );
        for path in [dir.clone(), dir.join("member"), dir.join("member/wal")] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
        let error = open_data_directory(&config).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(
            error.starts_with(&format!(
                "data directory is in use by process {pid} (lock file "
            )),
            "{error}"
        );
        drop(held);
        assert!(open_data_directory(&config).unwrap().initialized);
    }

    #[test]
    fn the_directory_that_cannot_be_made_is_named() {
        let config = config(Path::new("/proc/ringd/data"));
        let error = open_data_directory(&config).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot access data directory: mkdir /proc/ringd: no such file or directory"
        );
    }

    #[test]
    fn permissions_and_foreign_files_are_reported() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("d");
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("stray"), "").unwrap();
        let opened = open_data_directory(&config(&dir)).unwrap();
        let lines: Vec<String> = opened.notes.iter().map(Record::to_line).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("\"filename\":\"stray\""));
        assert!(
            lines[1].contains("but the permission is \\\"drwxr-xr-x\\\"."),
            "{}",
            lines[1]
        );
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        fs::write(&path, "").unwrap();
        let error = open_data_directory(&config(&path)).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "cannot access data directory: mkdir {}: not a directory",
                path.display()
            )
        );
    }

    #[test]
    fn this_machine_passes_or_says_why() {
        match preflight() {
            Ok(limit) => assert!(limit > RESERVED_DESCRIPTORS),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let text = PreflightError::LockedMemory {
            limit_bytes: 64 << 10,
        }
        .to_string();
        assert!(
            text.starts_with("the limit of locked memory is 64 KiB, at least 512 KiB are needed"),
            "{text}"
        );
    }

    #[test]
    fn signals_are_decoded() {
        let mut record = [0u8; SIGNAL_RECORD_BYTES];
        record[..4].copy_from_slice(&(libc::SIGTERM as u32).to_ne_bytes());
        assert_eq!(Signals::decode(&record), Some(Signal::Terminate));
        assert_eq!(Signals::decode(&record[..3]), None);
        record[0] = 99;
        assert_eq!(Signals::decode(&record), None);
    }

    #[test]
    fn a_blocked_signal_is_read_from_the_descriptor() {
        // On a thread of its own: raise() directs the signal to the calling thread, which blocks it.
        let signal = std::thread::spawn(|| {
            let signals = Signals::block().unwrap();
            // SAFETY: raise takes a number and touches no memory of ours.
            assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
            signals.wait().unwrap()
        });
        assert_eq!(signal.join().unwrap(), Signal::Terminate);
    }

    #[test]
    fn the_init_daemon_is_notified() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        std::env::set_var("NOTIFY_SOCKET", &path);
        notify_ready(&Log::discard());
        std::env::remove_var("NOTIFY_SOCKET");
        let mut buffer = [0u8; 64];
        let received = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..received], b"READY=1\n");
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let temp = tempfile::tempdir().unwrap();
        let group = temp.path().join("system.slice/ringd.service");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(temp.path().join("system.slice/memory.max"), "1000\n").unwrap();
        assert_eq!(
            cgroup_limit_bytes(temp.path(), "0::/system.slice/ringd.service\n"),
            Some(1000)
        );
        assert_eq!(cgroup_limit_bytes(temp.path(), "0::/elsewhere\n"), None);
        let old = temp.path().join("memory/docker/1");
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("memory.limit_in_bytes"), "2000\n").unwrap();
        assert_eq!(
            cgroup_limit_bytes(temp.path(), "3:cpu:/x\n4:memory:/docker/1\n"),
            Some(2000)
        );
        assert!(memory_limit_bytes() > 0);
    }
}
