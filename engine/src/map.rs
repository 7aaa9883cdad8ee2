//! The mapping of a page file, and the guard against memory faults under it.
//!
//! One read-only shared mapping is made at open, far larger than the file: the file grows under it, and it never moves. What
//! lies beyond the end of the file faults when touched, so only pages that are known to be written are ever sliced.
//! A fault under a mapping (SIGBUS: the device failed, or someone cut the file) maps a page of zeros there and raises a
//! flag, which is to be checked before anything read since the last check leaves the process.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

const PAGE: usize = 4096;
/// Address space reserved for one file, tried from the top: limits on address space (`RLIMIT_AS`) may forbid more.
const RESERVE_BYTES: [usize; 5] = [256 << 30, 64 << 30, 16 << 30, 4 << 30, 1 << 30];
/// Mappings that the fault guard knows at a time.
const GUARDED_MAPS_MAX: usize = 64;

/// What the signal handler can see: plain atomics, never freed.
struct Guarded {
    start: AtomicUsize,
    len: AtomicUsize,
    /// Address of the page of the last fault, and how many there were.
    fault: AtomicUsize,
    faults: AtomicU64,
}

static GUARDED: [Guarded; GUARDED_MAPS_MAX] = [const {
    Guarded {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        fault: AtomicUsize::new(0),
        faults: AtomicU64::new(0),
    }
}; GUARDED_MAPS_MAX];

/// A read-only mapping of a file.
pub struct Map {
    raw: memmap2::MmapRaw,
    fd: File,
    guard: Option<&'static Guarded>,
}

impl Map {
    pub fn new(file: &File) -> io::Result<Map> {
        let mut refused = io::Error::from(io::ErrorKind::OutOfMemory);
        for len in RESERVE_BYTES {
            let raw = match memmap2::MmapOptions::new()
                .len(len)
                .no_reserve_swap()
                .map_raw_read_only(file)
            {
                Ok(raw) => raw,
                Err(e) => {
                    refused = e;
                    continue;
                }
            };
            // One access is one page: readahead would turn a cold page into milliseconds.
            raw.advise(memmap2::Advice::Random)?;
            let guard = register(raw.as_ptr() as usize, len);
            let fd = file.try_clone()?;
            return Ok(Map { raw, fd, guard });
        }
        Err(refused)
    }

    /// Address space reserved: the file cannot grow past it.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Bytes of the file. The caller knows that they were written, lie within the file, and are not rewritten while the
    /// slice lives (the page space hands a page number out again only when no reader can hold its former content).
    #[inline]
    pub(crate) fn slice(&self, offset: u64, len: usize) -> &[u8] {
        let offset = offset as usize;
        assert!(offset <= self.raw.len() && len <= self.raw.len() - offset);
        // SAFETY: the range lies within the mapping, which lives as long as `self`. The bytes are not written through this
        // mapping (it is read-only), and the page space never rewrites a page that a reader can reach.
        unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(offset), len) }
    }

    fn advise(&self, offset: u64, len: usize, advice: libc::c_int) -> io::Result<()> {
        let offset = offset as usize;
        assert!(offset <= self.raw.len() && len <= self.raw.len() - offset);
        // SAFETY: the range lies within the mapping, and the advice used here never changes what a read returns.
        let result = unsafe {
            let start = self.raw.as_mut_ptr().add(offset);
            libc::madvise(start.cast(), len, advice)
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }

    /// Faults pages in, so that the owner's first touch costs nothing. A failure is no matter: the touch will tell.
    pub(crate) fn populate(&self, offset: u64, len: usize) {
        let _ = self.advise(offset, len, libc::MADV_POPULATE_READ);
    }

    /// Takes pages out of this process's memory; the kernel may keep them cached.
    pub(crate) fn evict(&self, offset: u64, len: usize) {
        let _ = self.advise(offset, len, libc::MADV_DONTNEED);
    }

    /// How many reads of this mapping have faulted so far, and the file offset of the page where the last one did.
    #[inline]
    pub(crate) fn faults(&self) -> (u64, u64) {
        let Some(guard) = self.guard else {
            return (0, 0);
        };
        let count = guard.faults.load(Ordering::Acquire);
        let address = guard.fault.load(Ordering::Acquire);
        let offset = address.saturating_sub(self.raw.as_ptr() as usize);
        (count, offset as u64)
    }

    /// Puts the file back where the guard had put zeros, for another try.
    pub(crate) fn restore(&self, offset: u64, len: usize) -> io::Result<()> {
        let at = offset as usize;
        assert!(at <= self.raw.len() && len <= self.raw.len() - at);
        // SAFETY: replaces pages inside our own mapping by the same file's pages with the same protection; the owner has
        // made them absent, so no slice of them is alive.
        let mapped = unsafe {
            libc::mmap(
                self.raw.as_mut_ptr().add(at).cast(),
                len,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                self.fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.advise(offset, len, libc::MADV_RANDOM)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(guard) = self.guard {
            guard.len.store(0, Ordering::Release);
            guard.start.store(0, Ordering::Release);
        }
    }
}

fn register(start: usize, len: usize) -> Option<&'static Guarded> {
    let guard = GUARDED.iter().find(|g| {
        let claim = g
            .start
            .compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed);
        claim.is_ok()
    })?;
    guard.faults.store(0, Ordering::Release);
    guard.len.store(len, Ordering::Release);
    Some(guard)
}

/// A fault under a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Faults seen under all mappings since the process began.
    pub count: u64,
}

/// Whether any mapping has faulted since the process began. One load: cheap enough to ask before every answer.
pub fn fault_seen() -> Option<Fault> {
    let count = FAULTS.load(Ordering::Acquire);
    (count > 0).then_some(Fault { count })
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
static FORMER: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// Installs the SIGBUS handler, once per process; later calls do nothing.
pub fn install_fault_guard() -> io::Result<()> {
    static ONCE: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut done = ONCE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if *done {
        return Ok(());
    }
    // SAFETY: `action` is fully initialised, `former` receives the old action; the handler below only uses atomics, `mmap`
    // and `sigaction`, which are safe in a signal handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_sigbus;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        let mut former: Box<libc::sigaction> = Box::new(std::mem::zeroed());
        if libc::sigaction(libc::SIGBUS, &action, &mut *former) != 0 {
            return Err(io::Error::last_os_error());
        }
        FORMER.store(Box::into_raw(former), Ordering::Release);
    }
    *done = true;
    Ok(())
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid `siginfo_t` to an SA_SIGINFO handler.
    let address = unsafe { (*info).si_addr() } as usize;
    for guard in &GUARDED {
        let start = guard.start.load(Ordering::Acquire);
        let len = guard.len.load(Ordering::Acquire);
        if start == 0 || address.wrapping_sub(start) >= len {
            continue;
        }
        let page = address & !(PAGE - 1);
        // SAFETY: replaces one page inside our own mapping, which just proved unreadable, by zeros.
        let mapped = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                PAGE,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            break;
        }
        guard.fault.store(page, Ordering::Release);
        guard.faults.fetch_add(1, Ordering::AcqRel);
        FAULTS.fetch_add(1, Ordering::AcqRel);
        return;
    }
    // Not ours: give way to the former action. The access faults again when this handler returns.
    let former = FORMER.load(Ordering::Acquire);
    // SAFETY: `former` is null or points to a leaked, immutable action; a zeroed action is SIG_DFL.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        let action = if former.is_null() {
            &raw const default
        } else {
            former.cast_const()
        };
        libc::sigaction(signal, action, std::ptr::null_mut());
    }
}

/// Allocates blocks behind the end of a file and makes it longer.
pub(crate) fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that we own.
    let result = unsafe {
        libc::fallocate(
            file.as_raw_fd(),
            0,
            offset as libc::off_t,
            len as libc::off_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // No such operation on this file system: a sparse file, whose writes may then fail instead.
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(offset + len),
        _ => Err(error),
    }
}

/// Has the kernel begin to write these cached pages to the device, so that a later flush finds little left to do.
pub(crate) fn begin_writeback(file: &File, offset: u64, len: usize) {
    // SAFETY: a plain system call on a descriptor that we own. Where it is refused the flush does all of the work.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset as libc::off64_t,
            len as libc::off64_t,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

/// Asks the kernel to drop cached pages, where direct reads are not possible.
pub(crate) fn forget_cached(file: &File, offset: u64, len: usize) {
    // SAFETY: a plain system call on a descriptor that we own; advice only.
    unsafe {
        libc::posix_fadvise(
            file.as_raw_fd(),
            offset as libc::off_t,
            len as libc::off_t,
            libc::POSIX_FADV_DONTNEED,
        );
    }
}
