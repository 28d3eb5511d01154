/*
 * Records what a process does to the files below one directory, by standing between it and the C
 * library. Loaded with LD_PRELOAD by the test beside this file, and by nothing else.
 *
 * KMERGE_POWER_ROOT     the directory, absolute and without symbolic links
 * KMERGE_POWER_JOURNAL  where the records go, outside of it
 * KMERGE_POWER_ACKS     a file outside of it; what is written there is recorded as well, so that
 *                       the order of promises and operations is known
 *
 * One lock is held during each call and until its record is written, so the records are in the
 * order of the effects. Calls that fail are not recorded. A record is, in the byte order of the
 * machine: u8 kind, u64 inode, u64 number, then three times u32 length and so many bytes (path,
 * second path, data).
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
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind {
    CREATE = 1, MKDIR, SYMLINK, LINK, RENAME, EXCHANGE, UNLINK, RMDIR,
    WRITE, TRUNCATE, SYNC, ACK, RANGE, ROOT
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static char acks[PATH_MAX];
static uint64_t acks_inode;
static dev_t device;

/* The inodes that were made or opened below the root. */
#define SLOTS (1 << 20)
static uint64_t known[SLOTS];

static void remember(uint64_t inode) {
    size_t at = inode % SLOTS;
    while (known[at] != 0 && known[at] != inode) at = (at + 1) % SLOTS;
    known[at] = inode;
}

static int is_known(uint64_t inode) {
    size_t at = inode % SLOTS;
    while (known[at] != 0 && known[at] != inode) at = (at + 1) % SLOTS;
    return known[at] == inode;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("KMERGE_POWER_ROOT");
    const char *record = getenv("KMERGE_POWER_JOURNAL");
    const char *promises = getenv("KMERGE_POWER_ACKS");
    if (path == NULL || record == NULL || promises == NULL) return;
    snprintf(root, sizeof root, "%s", path);
    snprintf(acks, sizeof acks, "%s", promises);
    root_length = strlen(root);
    struct stat found;
    if (stat(root, &found) == 0) {
        device = found.st_dev;
        remember(found.st_ino);
    }
    journal = (int)syscall(SYS_openat, AT_FDCWD, record, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The path without the root before it; NULL if it is elsewhere. */
static const char *below(int directory, const char *path, char *buffer) {
    if (journal < 0 || path == NULL) return NULL;
    if (path[0] == '/') {
        snprintf(buffer, PATH_MAX, "%s", path);
    } else if (directory == AT_FDCWD) {
        if (getcwd(buffer, PATH_MAX) == NULL) return NULL;
        size_t length = strlen(buffer);
        snprintf(buffer + length, PATH_MAX - length, "/%s", path);
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, buffer, PATH_MAX - 1);
        if (length < 0) return NULL;
        snprintf(buffer + length, PATH_MAX - (size_t)length, "/%s", path);
    }
    if (strncmp(buffer, root, root_length) != 0 || buffer[root_length] != '/') return NULL;
    return buffer + root_length + 1;
}

static void put(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length > 0) {
        ssize_t written = (ssize_t)syscall(SYS_write, journal, from, length);
        if (written <= 0) abort();
        from += written;
        length -= (size_t)written;
    }
}

static void record(enum kind kind, uint64_t inode, uint64_t number, const char *one, const char *two,
                   const void *data, size_t length) {
    int error = errno;
    char head[17];
    head[0] = (char)kind;
    memcpy(head + 1, &inode, 8);
    memcpy(head + 9, &number, 8);
    put(head, sizeof head);
    const char *paths[2] = {one, two};
    for (int i = 0; i < 2; i++) {
        uint32_t size = paths[i] == NULL ? 0 : (uint32_t)strlen(paths[i]);
        put(&size, 4);
        if (size > 0) put(paths[i], size);
    }
    uint32_t size = (uint32_t)length;
    put(&size, 4);
    if (size > 0) put(data, size);
    errno = error;
}

/* The inode behind a descriptor, if it is one of ours. */
static uint64_t inode_of(int file) {
    struct stat found;
    if (journal < 0 || fstat(file, &found) != 0) return 0;
    if (acks_inode != 0 && found.st_ino == acks_inode) return acks_inode;
    return found.st_dev == device && is_known(found.st_ino) ? found.st_ino : 0;
}

static uint64_t inode_at(const char *sub) {
    char path[PATH_MAX * 2];
    struct stat found;
    snprintf(path, sizeof path, "%s/%s", root, sub);
    if (lstat(path, &found) != 0) return 0;
    device = found.st_dev;
    return found.st_ino;
}

/* --- opening ------------------------------------------------------------------------------- */

static int open_in(int directory, const char *path, int flags, mode_t mode) {
    char buffer[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *sub = below(directory, path, buffer);
    int was_there = sub != NULL && (flags & O_CREAT) != 0 && inode_at(sub) != 0;
    int file = (int)syscall(SYS_openat, directory, path, flags, mode);
    if (file >= 0 && journal >= 0) {
        struct stat found;
        if (path != NULL && strcmp(path, acks) == 0 && fstat(file, &found) == 0) {
            acks_inode = found.st_ino;
        } else if (path != NULL && strcmp(path, root) == 0 && fstat(file, &found) == 0) {
            device = found.st_dev;
            remember(found.st_ino);
            record(ROOT, found.st_ino, 0, NULL, NULL, NULL, 0);
        } else if (sub != NULL && fstat(file, &found) == 0) {
            device = found.st_dev;
            remember(found.st_ino);
            if ((flags & O_CREAT) != 0 && !was_there) {
                record(CREATE, found.st_ino, 0, sub, NULL, NULL, 0);
            } else if ((flags & O_TRUNC) != 0) {
                record(TRUNCATE, found.st_ino, 0, NULL, NULL, NULL, 0);
            }
        }
    }
    pthread_mutex_unlock(&lock);
    return file;
}

#define MODE(flags)                                                   \
    mode_t mode = 0;                                                  \
    if (((flags) & O_CREAT) || ((flags) & O_TMPFILE) == O_TMPFILE) {  \
        va_list list;                                                 \
        va_start(list, flags);                                        \
        mode = va_arg(list, mode_t);                                  \
        va_end(list);                                                 \
    }

int open(const char *path, int flags, ...) { MODE(flags) return open_in(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_in(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_in(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_in(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_in(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_in(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* --- content ------------------------------------------------------------------------------- */

static void written(int file, const void *bytes, ssize_t length, off_t offset) {
    if (length <= 0) return;
    uint64_t inode = inode_of(file);
    if (inode == 0) return;
    if (inode == acks_inode) {
        record(ACK, 0, 0, NULL, NULL, bytes, (size_t)length);
        return;
    }
    if (offset < 0) offset = lseek(file, 0, SEEK_CUR) - length;
    record(WRITE, inode, (uint64_t)offset, NULL, NULL, bytes, (size_t)length);
}

ssize_t write(int file, const void *bytes, size_t length) {
    pthread_mutex_lock(&lock);
    ssize_t done = (ssize_t)syscall(SYS_write, file, bytes, length);
    written(file, bytes, done, -1);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t write_at(int file, const void *bytes, size_t length, off_t offset) {
    pthread_mutex_lock(&lock);
    ssize_t done = (ssize_t)syscall(SYS_pwrite64, file, bytes, length, offset);
    written(file, bytes, done, offset);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t offset) { return write_at(file, bytes, length, offset); }
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t offset) { return write_at(file, bytes, length, offset); }

/* One piece is as good as many: whoever asked goes on with the rest. */
ssize_t writev(int file, const struct iovec *pieces, int count) {
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) return write(file, pieces[i].iov_base, pieces[i].iov_len);
    }
    return 0;
}

ssize_t pwritev(int file, const struct iovec *pieces, int count, off_t offset) {
    for (int i = 0; i < count; i++) {
        if (pieces[i].iov_len > 0) return write_at(file, pieces[i].iov_base, pieces[i].iov_len, offset);
    }
    return 0;
}

ssize_t pwritev64(int file, const struct iovec *pieces, int count, off64_t offset) { return pwritev(file, pieces, count, offset); }

/* What copies without showing the bytes is refused, and then done by reading and writing. */
ssize_t copy_file_range(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    (void)from, (void)at, (void)to, (void)there, (void)length, (void)flags;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) {
    (void)to, (void)from, (void)offset, (void)length;
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) { return sendfile(to, from, offset, length); }
ssize_t splice(int from, off64_t *at, int to, off64_t *there, size_t length, unsigned flags) {
    (void)from, (void)at, (void)to, (void)there, (void)length, (void)flags;
    errno = EINVAL;
    return -1;
}

static int cut(int file, off_t length) {
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_ftruncate, file, length);
    uint64_t inode = done == 0 ? inode_of(file) : 0;
    if (inode != 0) record(TRUNCATE, inode, (uint64_t)length, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int ftruncate(int file, off_t length) { return cut(file, length); }
int ftruncate64(int file, off64_t length) { return cut(file, length); }

/* Blocks that are set aside change nothing but, perhaps, the length. */
static int set_aside(int file, int mode, off_t offset, off_t length) {
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_fallocate, file, mode, offset, length);
    struct stat found;
    uint64_t inode = done == 0 && mode == 0 ? inode_of(file) : 0;
    if (inode != 0 && fstat(file, &found) == 0) {
        record(TRUNCATE, inode, (uint64_t)found.st_size, NULL, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int fallocate(int file, int mode, off_t offset, off_t length) { return set_aside(file, mode, offset, length); }
int fallocate64(int file, int mode, off64_t offset, off64_t length) { return set_aside(file, mode, offset, length); }
int posix_fallocate(int file, off_t offset, off_t length) { return set_aside(file, 0, offset, length) == 0 ? 0 : errno; }
int posix_fallocate64(int file, off64_t offset, off64_t length) { return set_aside(file, 0, offset, length) == 0 ? 0 : errno; }

/* --- flushing ------------------------------------------------------------------------------ */

static int flushed(long call, int file) {
    pthread_mutex_lock(&lock);
    int done = (int)syscall(call, file);
    uint64_t inode = done == 0 ? inode_of(file) : 0;
    if (inode != 0) record(SYNC, inode, 0, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int fsync(int file) { return flushed(SYS_fsync, file); }
int fdatasync(int file) { return flushed(SYS_fdatasync, file); }

/* It neither waits for the file's length and blocks nor empties the medium's own cache. */
int sync_file_range(int file, off64_t offset, off64_t length, unsigned flags) {
    pthread_mutex_lock(&lock);
    int done = (int)syscall(SYS_sync_file_range, file, offset, length, flags);
    uint64_t inode = inode_of(file);
    if (inode != 0) record(RANGE, inode, 0, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

/* --- names --------------------------------------------------------------------------------- */

static int moved(int at, const char *from, int there, const char *to, unsigned flags) {
    char one[PATH_MAX], two[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *old = below(at, from, one);
    const char *new = below(there, to, two);
    int done = (int)syscall(SYS_renameat2, at, from, there, to, flags);
    if (done == 0 && old != NULL && new != NULL) {
        record((flags & RENAME_EXCHANGE) != 0 ? EXCHANGE : RENAME, 0, 0, old, new, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int at, const char *from, int there, const char *to) { return moved(at, from, there, to, 0); }
int renameat2(int at, const char *from, int there, const char *to, unsigned flags) { return moved(at, from, there, to, flags); }

static int linked(int at, const char *from, int there, const char *to, int flags) {
    char one[PATH_MAX], two[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *old = below(at, from, one);
    const char *new = below(there, to, two);
    int done = (int)syscall(SYS_linkat, at, from, there, to, flags);
    if (done == 0 && new != NULL) record(LINK, inode_at(new), 0, old, new, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int at, const char *from, int there, const char *to, int flags) { return linked(at, from, there, to, flags); }

static int removed(int at, const char *path, int flags) {
    char buffer[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *sub = below(at, path, buffer);
    int done = (int)syscall(SYS_unlinkat, at, path, flags);
    if (done == 0 && sub != NULL) record((flags & AT_REMOVEDIR) != 0 ? RMDIR : UNLINK, 0, 0, sub, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }

static int made(int at, const char *path, mode_t mode) {
    char buffer[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *sub = below(at, path, buffer);
    int done = (int)syscall(SYS_mkdirat, at, path, mode);
    if (done == 0 && sub != NULL) {
        uint64_t inode = inode_at(sub);
        remember(inode);
        record(MKDIR, inode, 0, sub, NULL, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return done;
}
int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }

static int pointed(const char *target, int at, const char *path) {
    char buffer[PATH_MAX];
    pthread_mutex_lock(&lock);
    const char *sub = below(at, path, buffer);
    int done = (int)syscall(SYS_symlinkat, target, at, path);
    if (done == 0 && sub != NULL) record(SYMLINK, inode_at(sub), 0, sub, target, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}
int symlink(const char *target, const char *path) { return pointed(target, AT_FDCWD, path); }
int symlinkat(const char *target, int at, const char *path) { return pointed(target, at, path); }
