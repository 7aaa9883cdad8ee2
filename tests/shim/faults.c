/* A layer under a server's files, loaded with LD_PRELOAD.
 *
 * It lets every call through to the kernel and writes down, before each change that is not durable yet, what undoes it.
 * After a kill the test applies that log backwards, and the files are as after a power cut: what was flushed is there,
 * what was not is gone. A write through O_SYNC, O_DSYNC or RWF_DSYNC counts as flushed when it returns.
 *
 * Environment:
 *   RINGD_FAULT_DIR      files below this absolute path are meant; all others are left alone
 *   RINGD_FAULT_LOG      the undo logs: each process begins one at this path with .0, .1 and so on behind it, because a kill
 *                        may cut the last record of one; without it nothing is recorded
 *   RINGD_FAULT_SIDE     a directory on the same file system, for files that a rename replaced or that were removed
 *   RINGD_FAULT_LIE      set: flushes are answered with success and do not count
 *   RINGD_FAULT_CONTROL  a file that the test may write at any time, one line:
 *                        OPERATION ACTION ARGUMENT SKIP TIMES SUBSTRING
 *                        OPERATION  flush, write, read, or space (whatever makes a file larger)
 *                        ACTION     fail (ARGUMENT is the errno) or stall (ARGUMENT is milliseconds)
 *                        SKIP       so many are let through first; TIMES: 0 means for ever
 *                        SUBSTRING  of the path; - means any
 *
 * The log's records are little-endian: kind u8, seq u64, x u64, y u64, z u64, lengths of path u32, other u32 and data u64,
 * then the three. Their meaning stands at enum kind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    WRITE = 1,   /* x offset, y length, z size before; data: the old bytes */
    DONE = 2,    /* the write `seq` has returned */
    FLUSH = 3,   /* a flush of path begins */
    FLUSHED = 4, /* the flush `seq` has returned well */
    RESIZE = 5,  /* x size before, y size after; data: the bytes cut off */
    CREATE = 6,  /* path is new */
    RENAME = 7,  /* path became other; data: where the replaced file is kept, if there was one */
    REMOVE = 8,  /* data: where the removed file is kept */
    KEPT = 9,    /* x offset, y length: a durable write */
    FAILED = 10, /* the change `seq` did not happen */
};

static const char *dir, *side, *control;
static int log_fd = -1, lie;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Numbers of different processes must differ: their logs are read as one. */
static uint64_t next_seq;

__attribute__((constructor)) static void start(void) {
    next_seq = ((uint64_t)getpid() << 32) + 1;
    dir = getenv("RINGD_FAULT_DIR");
    side = getenv("RINGD_FAULT_SIDE");
    control = getenv("RINGD_FAULT_CONTROL");
    lie = getenv("RINGD_FAULT_LIE") != NULL;
    const char *log = getenv("RINGD_FAULT_LOG");
    if (!dir || !log) return;
    char path[PATH_MAX];
    for (unsigned n = 0; log_fd < 0; n++) {
        snprintf(path, sizeof path, "%s.%u", log, n);
        int flags = O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC;
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
        if (log_fd < 0 && errno != EEXIST) abort();
    }
}

static int meant(const char *path) {
    return dir && strncmp(path, dir, strlen(dir)) == 0;
}

/* The path behind a descriptor, if it is one of those meant. */
static int path_of(int fd, char *path) {
    char link[64];
    if (!dir) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return meant(path);
}

static void put_all(const void *bytes, size_t n) {
    const char *at = bytes;
    while (n > 0) {
        ssize_t wrote = syscall(SYS_write, log_fd, at, n);
        if (wrote <= 0) abort();
        at += wrote;
        n -= (size_t)wrote;
    }
}

struct record {
    uint64_t seq, x, y, z;
    const char *path, *other;
    const void *data;
    size_t data_bytes;
};

/* Appends one record; a new sequence number is drawn if it has none. */
static uint64_t note(enum kind kind, struct record r) {
    if (log_fd < 0) return 0;
    uint32_t path_bytes = r.path ? (uint32_t)strlen(r.path) : 0;
    uint32_t other_bytes = r.other ? (uint32_t)strlen(r.other) : 0;
    uint64_t data_bytes = r.data_bytes;
    char head[49];
    pthread_mutex_lock(&lock);
    if (!r.seq) r.seq = next_seq++;
    head[0] = (char)kind;
    memcpy(head + 1, &r.seq, 8);
    memcpy(head + 9, &r.x, 8);
    memcpy(head + 17, &r.y, 8);
    memcpy(head + 25, &r.z, 8);
    memcpy(head + 33, &path_bytes, 4);
    memcpy(head + 37, &other_bytes, 4);
    memcpy(head + 41, &data_bytes, 8);
    put_all(head, sizeof head);
    put_all(r.path, path_bytes);
    put_all(r.other, other_bytes);
    put_all(r.data, r.data_bytes);
    pthread_mutex_unlock(&lock);
    return r.seq;
}

/* Takes a record back if the call failed; gives the call's result. */
static int settle(uint64_t seq, int result) {
    int error = errno;
    struct record failed = {.seq = seq};
    if (result < 0 && seq) note(FAILED, failed);
    errno = error;
    return result;
}

/* What the control file wants done to this operation: 0 nothing, else an errno to fail with. Stalls happen in here. */
static int disturb(const char *operation, const char *path) {
    static pthread_mutex_t state = PTHREAD_MUTEX_INITIALIZER;
    static struct timespec seen;
    static ino_t seen_inode;
    static char wanted[16], action[16], part[256];
    static long argument, skip, times, done;
    struct stat st;
    int result = 0;
    long stall_ms = 0;
    if (!control || stat(control, &st) != 0) return 0;
    pthread_mutex_lock(&state);
    if (st.st_mtim.tv_sec != seen.tv_sec || st.st_mtim.tv_nsec != seen.tv_nsec || st.st_ino != seen_inode) {
        FILE *f = fopen(control, "re");
        wanted[0] = 0;
        if (f) {
            if (fscanf(f, "%15s %15s %ld %ld %ld %255s", wanted, action, &argument, &skip, &times, part) != 6)
                wanted[0] = 0;
            fclose(f);
        }
        seen = st.st_mtim;
        seen_inode = st.st_ino;
        done = 0;
    }
    int here = strcmp(wanted, operation) == 0 && (strcmp(part, "-") == 0 || strstr(path, part));
    if (here && skip > 0) {
        skip--;
    } else if (here && (times == 0 || done < times)) {
        done++;
        if (strcmp(action, "fail") == 0) result = (int)argument;
        else stall_ms = argument;
    }
    pthread_mutex_unlock(&state);
    if (stall_ms > 0) {
        struct timespec t = {stall_ms / 1000, stall_ms % 1000 * 1000000};
        while (nanosleep(&t, &t) != 0 && errno == EINTR) {}
    }
    return result;
}

/* Up to `n` bytes of a file as it is now, through the page cache whatever the caller's descriptor does. */
static char *bytes_of(const char *path, off_t offset, size_t n, size_t *got) {
    char *bytes = malloc(n ? n : 1);
    *got = 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    while (fd >= 0 && *got < n) {
        ssize_t r = syscall(SYS_pread64, fd, bytes + *got, n - *got, offset + (off_t)*got);
        if (r <= 0) break;
        *got += (size_t)r;
    }
    if (fd >= 0) close(fd);
    return bytes;
}

/* Before a write; gives its number, or 0 if it will be durable by itself. -1 in errno_out: go on, else fail so. */
static uint64_t before_write(int fd, const char *path, off_t offset, size_t n, int durable, int *fail) {
    struct stat st;
    uint64_t size = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    *fail = disturb("write", path);
    if (!*fail && durable) *fail = disturb("flush", path);
    if (!*fail && (uint64_t)offset + n > size) *fail = disturb("space", path);
    if (*fail || (durable && !lie) || log_fd < 0) return 0;
    size_t got;
    char *old = bytes_of(path, offset, n, &got);
    struct record r = {0, (uint64_t)offset, n, size, path, NULL, old, got};
    uint64_t seq = note(WRITE, r);
    free(old);
    return seq;
}

static void after_write(uint64_t seq, const char *path, off_t offset, ssize_t wrote) {
    if (wrote <= 0) return;
    struct record done = {.seq = seq};
    struct record kept = {.x = (uint64_t)offset, .y = (uint64_t)wrote, .path = path};
    if (seq) note(DONE, done);
    else note(KEPT, kept);
}

static int durable_fd(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_DSYNC) == O_DSYNC;
}

static ssize_t write_vectored(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    size_t n = 0;
    char path[PATH_MAX];
    int fail = 0;
    for (int i = 0; i < count; i++) n += parts[i].iov_len;
    if (!path_of(fd, path)) return syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
    int durable = durable_fd(fd) || (flags & (RWF_DSYNC | RWF_SYNC));
    uint64_t seq = before_write(fd, path, offset, n, durable, &fail);
    if (fail) return errno = fail, -1;
    ssize_t wrote = syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
    int error = errno;
    after_write(seq, path, offset, wrote);
    errno = error;
    return wrote;
}

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return write_vectored(fd, parts, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return write_vectored(fd, parts, count, offset, flags);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return write_vectored(fd, parts, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return write_vectored(fd, parts, count, offset, 0);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) {
    struct iovec part = {(void *)bytes, n};
    return write_vectored(fd, &part, 1, offset, 0);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
    return pwrite(fd, bytes, n, offset);
}

/* At the file's position, or at its end. */
static ssize_t write_here(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    struct stat st;
    int fail = 0;
    size_t n = 0;
    for (int i = 0; i < count; i++) n += parts[i].iov_len;
    if (!path_of(fd, path)) return syscall(SYS_writev, fd, parts, count);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if ((fcntl(fd, F_GETFL) & O_APPEND) && fstat(fd, &st) == 0) offset = st.st_size;
    uint64_t seq = before_write(fd, path, offset, n, durable_fd(fd), &fail);
    if (fail) return errno = fail, -1;
    ssize_t wrote = syscall(SYS_writev, fd, parts, count);
    int error = errno;
    after_write(seq, path, offset, wrote);
    errno = error;
    return wrote;
}

ssize_t write(int fd, const void *bytes, size_t n) {
    struct iovec part = {(void *)bytes, n};
    return write_here(fd, &part, 1);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_here(fd, parts, count);
}

ssize_t pread(int fd, void *bytes, size_t n, off_t offset) {
    char path[PATH_MAX];
    int fail = control && path_of(fd, path) ? disturb("read", path) : 0;
    if (fail) return errno = fail, -1;
    return syscall(SYS_pread64, fd, bytes, n, offset);
}
ssize_t pread64(int fd, void *bytes, size_t n, off64_t offset) {
    return pread(fd, bytes, n, offset);
}

static int flush(int fd, long number) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return (int)syscall(number, fd);
    int fail = disturb("flush", path);
    if (fail) return errno = fail, -1;
    if (lie) return 0;
    struct record r = {.path = path};
    uint64_t seq = note(FLUSH, r);
    int result = (int)syscall(number, fd);
    int error = errno;
    struct record flushed = {.seq = seq, .path = path};
    if (result == 0) note(FLUSHED, flushed);
    errno = error;
    return result;
}

int fsync(int fd) { return flush(fd, SYS_fsync); }
int fdatasync(int fd) { return flush(fd, SYS_fdatasync); }
int sync_file_range(int fd, off64_t offset, off64_t n, unsigned flags) {
    return (int)syscall(SYS_sync_file_range, fd, offset, n, flags);
}

static int resize(int fd, off_t length) {
    char path[PATH_MAX];
    struct stat st;
    if (!path_of(fd, path) || fstat(fd, &st) != 0) return (int)syscall(SYS_ftruncate, fd, length);
    int fail = length > st.st_size ? disturb("space", path) : 0;
    if (fail) return errno = fail, -1;
    size_t got = 0;
    char *cut = NULL;
    if (length < st.st_size) cut = bytes_of(path, length, (size_t)(st.st_size - length), &got);
    struct record r = {0, (uint64_t)st.st_size, (uint64_t)length, 0, path, NULL, cut, got};
    uint64_t seq = note(RESIZE, r);
    free(cut);
    return settle(seq, (int)syscall(SYS_ftruncate, fd, length));
}

int ftruncate(int fd, off_t length) { return resize(fd, length); }
int ftruncate64(int fd, off64_t length) { return resize(fd, length); }

static int allocate(int fd, int mode, off_t offset, off_t n) {
    char path[PATH_MAX];
    struct stat st;
    uint64_t seq = 0;
    if (path_of(fd, path) && fstat(fd, &st) == 0) {
        int fail = offset + n > st.st_size ? disturb("space", path) : 0;
        if (fail) return errno = fail, -1;
        struct record r = {0, (uint64_t)st.st_size, (uint64_t)(offset + n), 0, path, NULL, NULL, 0};
        if (offset + n > st.st_size && !(mode & FALLOC_FL_KEEP_SIZE)) seq = note(RESIZE, r);
    }
    return settle(seq, (int)syscall(SYS_fallocate, fd, mode, offset, n));
}

int fallocate(int fd, int mode, off_t offset, off_t n) { return allocate(fd, mode, offset, n); }
int fallocate64(int fd, int mode, off64_t offset, off64_t n) { return allocate(fd, mode, offset, n); }
int posix_fallocate(int fd, off_t offset, off_t n) { return allocate(fd, 0, offset, n) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t offset, off64_t n) { return posix_fallocate(fd, offset, n); }

/* An absolute path for one that stands relative to a directory descriptor. */
static int absolute(int at, const char *path, char *out) {
    if (path[0] == '/') return snprintf(out, PATH_MAX, "%s", path) < PATH_MAX;
    char base[PATH_MAX];
    if (at == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, base, sizeof base - 1);
        if (n <= 0) return 0;
        base[n] = 0;
    }
    return snprintf(out, PATH_MAX, "%s/%s", base, path) < PATH_MAX;
}

static int open_at(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    struct stat st;
    int ours = absolute(at, path, full) && meant(full);
    int existed = stat(full, &st) == 0;
    uint64_t seq = 0;
    if (ours && existed && (flags & O_TRUNC) && S_ISREG(st.st_mode) && st.st_size > 0) {
        size_t got;
        char *cut = bytes_of(full, 0, (size_t)st.st_size, &got);
        struct record r = {0, (uint64_t)st.st_size, 0, 0, full, NULL, cut, got};
        note(RESIZE, r);
        free(cut);
    }
    if (ours && !existed && (flags & O_CREAT)) {
        int fail = disturb("space", full);
        if (fail) return errno = fail, -1;
        struct record r = {.path = full};
        seq = note(CREATE, r);
    }
    return settle(seq, (int)syscall(SYS_openat, at, path, flags, mode));
}

#define MODE_OF(flags)                                                      \
    mode_t mode = 0;                                                        \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                                  \
        va_list list;                                                       \
        va_start(list, flags);                                              \
        mode = (mode_t)va_arg(list, int);                                   \
        va_end(list);                                                       \
    }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_at(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_at(at, path, flags, mode); }

/* A second name for a file that is about to lose its own. */
static int keep(const char *path, char *kept) {
    static unsigned count;
    if (!side || log_fd < 0 || access(path, F_OK) != 0) return 0;
    unsigned n = __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
    snprintf(kept, PATH_MAX, "%s/%d-%u", side, (int)getpid(), n);
    return link(path, kept) == 0;
}

static int rename_at(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char full_from[PATH_MAX], full_to[PATH_MAX], kept[PATH_MAX];
    uint64_t seq = 0;
    if (absolute(from_at, from, full_from) && absolute(to_at, to, full_to) && meant(full_from)) {
        size_t n = keep(full_to, kept) ? strlen(kept) : 0;
        struct record r = {.path = full_from, .other = full_to, .data = kept, .data_bytes = n};
        seq = note(RENAME, r);
    }
    return settle(seq, (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags));
}

int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int fa, const char *from, int ta, const char *to) { return rename_at(fa, from, ta, to, 0); }
int renameat2(int fa, const char *from, int ta, const char *to, unsigned flags) {
    return rename_at(fa, from, ta, to, flags);
}

static int remove_at(int at, const char *path, int flags) {
    char full[PATH_MAX], kept[PATH_MAX];
    uint64_t seq = 0;
    if (!(flags & AT_REMOVEDIR) && absolute(at, path, full) && meant(full) && keep(full, kept)) {
        struct record r = {.path = full, .data = kept, .data_bytes = strlen(kept)};
        seq = note(REMOVE, r);
    }
    return settle(seq, (int)syscall(SYS_unlinkat, at, path, flags));
}

int unlink(const char *path) { return remove_at(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return remove_at(at, path, flags); }
