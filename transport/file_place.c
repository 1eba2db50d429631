/* SPDX-License-Identifier: MIT */

/*
 * What a path names, and whether Weir may use it.
 *
 *   path is              opened                      may be used when
 *   a directory          a file without a name       always; the kernel frees it, also after a
 * crash nothing yet          made, mode 0600, locked     always; removed at close, unless keep=yes
 *   a regular file       locked                      empty or ours, nobody else's to read
 *   a block device       for this process alone      blank, or ours, or overwrite=yes
 *
 * Order matters: lock, then look, then size, then try; the header comes last, so that a place on
 * which open() failed is as it was.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "transport/file.h"
#include "transport/tell.h"

#define MIB           (1024ull * 1024)
#define CLUSTER_BYTES ((uint64_t)WEIR_CLUSTER_SLOTS * WEIR_SLOT_BYTES)
#define BLANK_BYTES   MIB /* at either end of a device: where everybody's labels are */

/* The most that is taken unasked: no file system we know refuses a file of this size. */
#define DEFAULT_BYTES_MAX (8ull << 40)

/* Somebody who holds the file may remove it between our open() and our lock. */
#define LOCK_TRIES 8

struct place {
    struct wr_file *file;
    const struct weir_backend_env *env;
    const struct wr_file_options *options;
    const char *path;
    int fd;
    bool is_named; /* has a header, unlike the file in a directory       */
    bool is_device;
    bool was_made;  /* by this open(): failure removes it                 */
    bool was_empty; /* failure makes it empty again                       */
};

static int refuse(const struct place *place, int error, const char *why)
{
    wr_tell(place->env, WEIR_FAILURE, error, 0, "file: %s %s", place->path, why);
    return error;
}

/* --- A directory ----------------------------------------------------------------------------- */

static int make_and_remove(const char *directory)
{
    char *name;
    int fd;

    if (asprintf(&name, "%s/.weir-XXXXXX", directory) < 0) {
        errno = ENOMEM;
        return -1;
    }
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0)
        unlink(name);
    free(name);
    return fd;
}

static int open_directory(struct place *place)
{
    if (place->options->keep)
        return refuse(place, WEIR_EINVAL,
                      "is a directory: keep=yes needs the name of a file in it");
    /* O_EXCL: nobody can give the file a name later. */
    place->fd = open(place->path, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
    if (place->fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
        place->fd = make_and_remove(place->path);
    if (place->fd < 0)
        return wr_tell_errno(place->env, errno, "file: cannot make a file in %s", place->path);
    place->was_made = true;
    return WEIR_OK;
}

/* --- A regular file -------------------------------------------------------------------------- */

/* Open or make the file; WEIR_EAGAIN: it came and went. A symbolic link is not followed: whoever
 * may write the directory could lead us to any file. */
static int open_name(struct place *place)
{
    const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW;

    place->fd = open(place->path, flags | O_CREAT | O_EXCL, 0600);
    place->was_made = place->fd >= 0;
    if (place->fd < 0 && errno == EEXIST) {
        place->fd = open(place->path, flags);
        if (place->fd < 0 && errno == ENOENT)
            return WEIR_EAGAIN; /* removed in between */
    }
    if (place->fd >= 0)
        return WEIR_OK;
    if (errno == ELOOP)
        return refuse(place, WEIR_EDENIED, "is a symbolic link to a file: name the file itself");
    return wr_tell_errno(place->env, errno, "file: cannot open %s", place->path);
}

/* WEIR_EAGAIN: the name has come to mean another file since we opened this one. */
static int lock_file(const struct place *place)
{
    struct stat ours, named;

    if (flock(place->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return refuse(place, WEIR_EBUSY,
                          "is in use by another back end: name another file, or a directory, "
                          "which any number can share");
        return wr_tell_errno(place->env, errno, "file: cannot lock %s", place->path);
    }
    if (fstat(place->fd, &ours) != 0 || lstat(place->path, &named) != 0 ||
        ours.st_dev != named.st_dev || ours.st_ino != named.st_ino)
        return WEIR_EAGAIN;
    return WEIR_OK;
}

/* After EBUSY and EAGAIN the name is somebody else's, even if we made it. */
static void let_go(struct place *place, int error)
{
    if (place->was_made && error != WEIR_EBUSY && error != WEIR_EAGAIN)
        unlink(place->path);
    close(place->fd);
    place->fd = -1;
    place->was_made = false;
}

static int open_and_lock(struct place *place)
{
    int error = WEIR_EAGAIN;

    for (int i = 0; i < LOCK_TRIES && error == WEIR_EAGAIN; i++) {
        error = open_name(place);
        if (error)
            continue;
        error = lock_file(place);
        if (error)
            let_go(place, error);
    }
    if (error == WEIR_EAGAIN)
        return refuse(place, WEIR_EBUSY, "is removed again and again by somebody else");
    return error;
}

static int judge_header(const struct place *place)
{
    enum wr_file_header header;
    int os_error = wr_file_header_read(place->fd, &header);

    if (os_error)
        return wr_tell_errno(place->env, os_error, "file: cannot read %s", place->path);
    switch (header) {
    case WR_FILE_HEADER_OURS: return WEIR_OK;
    case WR_FILE_HEADER_OTHER:
        return refuse(place, WEIR_EDENIED,
                      "was made by a Weir of another version, page size or byte order: remove it "
                      "(a device: add overwrite=yes) if that one needs it no more");
    case WR_FILE_HEADER_NONE: break;
    }
    return refuse(place, WEIR_EDENIED,
                  "holds data that is not Weir's, which is left alone: name another place, or "
                  "remove the file (a device: add overwrite=yes) if nobody needs it");
}

static int judge_file(struct place *place)
{
    struct stat status;
    int error = WEIR_OK;

    if (fstat(place->fd, &status) != 0)
        return wr_tell_errno(place->env, errno, "file: cannot look at %s", place->path);
    if (!S_ISREG(status.st_mode))
        return refuse(place, WEIR_EINVAL, "is no regular file");
    if (status.st_size != 0)
        error = judge_header(place);
    if (error)
        return error;
    /* It will hold this process's memory. */
    if (status.st_uid != geteuid() || (status.st_mode & (S_IRWXG | S_IRWXO)))
        return refuse(place, WEIR_EDENIED,
                      "can be read by others than this user: chown and chmod 600 it");
    place->was_empty = status.st_size == 0;
    return WEIR_OK;
}

static int open_file(struct place *place)
{
    int error;

    place->is_named = true;
    error = open_and_lock(place);
    if (error || place->was_made)
        return error;
    return judge_file(place);
}

/* --- A block device -------------------------------------------------------------------------- */

static bool is_zero(const char *bytes, size_t count)
{
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* 0 or an errno. */
static int look_for_data(int fd, uint64_t start, uint64_t bytes, bool *is_blank_p)
{
    char *found = malloc(bytes);
    ssize_t count;
    int os_error = 0;

    if (!found)
        return ENOMEM;
    count = pread(fd, found, bytes, (off_t)start);
    if (count < 0)
        os_error = errno;
    else
        *is_blank_p = (uint64_t)count == bytes && is_zero(found, bytes);
    free(found);
    return os_error;
}

static int judge_device(const struct place *place, uint64_t bytes)
{
    const uint64_t end = bytes < BLANK_BYTES ? bytes : BLANK_BYTES;
    bool first = false, last = false;
    int os_error;

    if (place->options->overwrite)
        return WEIR_OK;
    os_error = look_for_data(place->fd, 0, end, &first);
    if (!os_error)
        os_error = look_for_data(place->fd, bytes - end, end, &last);
    if (os_error)
        return wr_tell_errno(place->env, os_error, "file: cannot read %s", place->path);
    return first && last ? WEIR_OK : judge_header(place);
}

static int open_device(struct place *place)
{
    uint64_t bytes;
    int sector;

    place->is_named = true;
    place->is_device = true;
    /* O_EXCL on a device: fails when it is mounted, part of a RAID, or another back end's. */
    place->fd = open(place->path, O_RDWR | O_CLOEXEC | O_EXCL);
    if (place->fd < 0 && errno == EBUSY)
        return refuse(place, WEIR_EBUSY,
                      "is mounted or in use: unmount it, or name another device");
    if (place->fd < 0)
        return wr_tell_errno(place->env, errno, "file: cannot open %s", place->path);
    if (ioctl(place->fd, BLKSSZGET, &sector) != 0 || ioctl(place->fd, BLKGETSIZE64, &bytes) != 0)
        return wr_tell_errno(place->env, errno, "file: cannot ask %s for its size", place->path);
    if (sector > (int)WEIR_SLOT_BYTES)
        return refuse(place, WEIR_ENOSUPPORT, "has sectors larger than a page");
    if (bytes < WR_FILE_DATA_OFFSET + WEIR_SLOT_BYTES)
        return refuse(place, WEIR_EINVAL, "is too small: 2 MiB and one page are the least");
    return judge_device(place, bytes);
}

/* --- Size ------------------------------------------------------------------------------------ */

static uint64_t data_offset(const struct place *place)
{
    return place->is_named ? WR_FILE_DATA_OFFSET : 0;
}

static int device_size(const struct place *place, uint64_t *bytes_p)
{
    uint64_t bytes;

    if (ioctl(place->fd, BLKGETSIZE64, &bytes) != 0)
        return wr_tell_errno(place->env, errno, "file: cannot ask %s for its size", place->path);
    bytes -= data_offset(place);
    if (place->options->size > bytes) {
        wr_tell(place->env, WEIR_FAILURE, WEIR_EINVAL, 0,
                "file: size=%llu is more than %s has, which is %llu behind its first 2 MiB",
                (unsigned long long)place->options->size, place->path, (unsigned long long)bytes);
        return WEIR_EINVAL;
    }
    *bytes_p = place->options->size ? place->options->size : bytes;
    return WEIR_OK;
}

/* What the file can come to occupy: free blocks and those it has already. */
static int file_room(const struct place *place, uint64_t *room_p)
{
    struct stat status;
    struct statfs system;

    if (fstat(place->fd, &status) != 0 || fstatfs(place->fd, &system) != 0)
        return wr_tell_errno(place->env, errno, "file: cannot ask how much is free in %s",
                             place->path);
    if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC)
        wr_tell(place->env, WEIR_NOTE, WEIR_OK, 0,
                "file: %s is a file system in memory: pages sent there still occupy memory",
                place->path);
    *room_p = system.f_bavail * (uint64_t)(system.f_frsize ? system.f_frsize : system.f_bsize) +
              (uint64_t)status.st_blocks * 512;
    return WEIR_OK;
}

static int file_size(const struct place *place, uint64_t *bytes_p)
{
    uint64_t room = 0, bytes;
    int error = file_room(place, &room);

    if (error)
        return error;
    if (place->options->size) {
        bytes = place->options->size;
        if (bytes > room)
            wr_tell(place->env, WEIR_NOTE, WEIR_OK, 0,
                    "file: size is %llu MiB but %s has %llu MiB free; when that is used up, "
                    "writes fail as if the back end were full",
                    bytes / MIB, place->path, room / MIB);
    } else {
        bytes = room / 10 * 9 / CLUSTER_BYTES * CLUSTER_BYTES;
        if (bytes > DEFAULT_BYTES_MAX)
            bytes = DEFAULT_BYTES_MAX;
        if (bytes == 0) {
            wr_tell(place->env, WEIR_FAILURE, WEIR_EFULL, 0,
                    "file: %s has only %llu KiB free: free some, or say size= if more will come",
                    place->path, (unsigned long long)room / 1024);
            return WEIR_EFULL;
        }
    }
    *bytes_p = bytes;
    return WEIR_OK;
}

/* Sparse: blocks come with the first write. Never shorter than it was. */
static int extend(const struct place *place, uint64_t bytes)
{
    struct stat status;
    struct rlimit limit;
    uint64_t end;

    if (__builtin_add_overflow(data_offset(place), bytes, &end) || end > INT64_MAX)
        return refuse(place, WEIR_EINVAL, "cannot be that large: ask for a smaller size");
    /* Beyond this limit the kernel does not just refuse, it kills by SIGXFSZ. */
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && end > limit.rlim_cur)
        return refuse(place, WEIR_EINVAL,
                      "would exceed the limit on file sizes: raise it (ulimit -f), or ask for a "
                      "smaller size");
    if (fstat(place->fd, &status) == 0 && (uint64_t)status.st_size >= end)
        return WEIR_OK;
    if (ftruncate(place->fd, (off_t)end) != 0)
        return wr_tell_errno(place->env, errno,
                             "file: cannot make %s %llu bytes long; ask for a smaller size",
                             place->path, (unsigned long long)end);
    return WEIR_OK;
}

static int set_size(struct place *place)
{
    uint64_t bytes = 0;
    int error = place->is_device ? device_size(place, &bytes) : file_size(place, &bytes);

    if (!error && !place->is_device)
        error = extend(place, bytes);
    if (error)
        return error;
    place->file->fd = place->fd;
    place->file->is_device = place->is_device;
    place->file->data_offset = data_offset(place);
    place->file->slots = bytes / WEIR_SLOT_BYTES; /* a page that is not whole is left alone */
    return WEIR_OK;
}

/* --- O_DIRECT -------------------------------------------------------------------------------- */

/* Write and read the first slot. 0 or an errno. */
static int try_page(const struct place *place)
{
    char *page = aligned_alloc(WEIR_SLOT_BYTES, WEIR_SLOT_BYTES);
    const off_t offset = (off_t)place->file->data_offset;
    ssize_t count;
    int os_error = 0;

    if (!page)
        return ENOMEM;
    memset(page, 0, WEIR_SLOT_BYTES);
    count = pwrite(place->fd, page, WEIR_SLOT_BYTES, offset);
    if (count == WEIR_SLOT_BYTES)
        count = pread(place->fd, page, WEIR_SLOT_BYTES, offset);
    if (count != WEIR_SLOT_BYTES)
        os_error = count < 0 ? errno : EIO;
    free(page);
    return os_error;
}

static int try_direct(const struct place *place)
{
    const int flags = fcntl(place->fd, F_GETFL);
    int os_error;

    if (fcntl(place->fd, F_SETFL, flags | O_DIRECT) != 0)
        return errno;
    os_error = try_page(place);
    if (os_error)
        fcntl(place->fd, F_SETFL, flags);
    return os_error;
}

static int use_cache(const struct place *place)
{
    int os_error;

    /* The kernel would read far ahead of each fault, into memory that is not in the budget. */
    posix_fadvise(place->fd, 0, 0, POSIX_FADV_RANDOM);
    os_error = try_page(place);
    if (os_error)
        return wr_tell_errno(place->env, os_error, "file: cannot write to %s", place->path);
    return WEIR_OK;
}

static int set_direct(struct place *place)
{
    int os_error;

    if (place->options->direct == WR_FILE_OFF)
        return use_cache(place);
    os_error = try_direct(place);
    if (!os_error) {
        place->file->is_direct = true;
        return WEIR_OK;
    }
    if (os_error != EINVAL && os_error != EOPNOTSUPP)
        return wr_tell_errno(place->env, os_error, "file: cannot write to %s", place->path);
    if (place->options->direct == WR_FILE_ON) {
        wr_tell(place->env, WEIR_FAILURE, WEIR_ENOSUPPORT, os_error,
                "file: %s has no direct I/O: say direct=auto, or name another file system",
                place->path);
        return WEIR_ENOSUPPORT;
    }
    wr_tell(place->env, WEIR_NOTE, WEIR_OK, os_error,
            "file: %s has no direct I/O: pages pass through the page cache and are dropped from "
            "it, which costs a copy",
            place->path);
    return use_cache(place);
}

/* --- The whole ------------------------------------------------------------------------------- */

/* A link to a directory or a device is followed; one to a file ends in open_name(). */
static int open_by_kind(struct place *place)
{
    struct stat status;

    if (stat(place->path, &status) != 0) {
        if (errno == ENOENT)
            return open_file(place);
        return wr_tell_errno(place->env, errno, "file: cannot look at %s", place->path);
    }
    if (S_ISDIR(status.st_mode))
        return open_directory(place);
    if (S_ISREG(status.st_mode))
        return open_file(place);
    if (S_ISBLK(status.st_mode))
        return open_device(place);
    return refuse(place, WEIR_EINVAL, "is neither directory, regular file nor block device");
}

static int finish(struct place *place)
{
    struct wr_file *file = place->file;
    int os_error;

    if (!place->is_named)
        return WEIR_OK;
    if (!place->is_device && !place->options->keep) {
        /* Absolute, because the program may change its directory before close(). */
        file->remove_path = realpath(place->path, NULL);
        if (!file->remove_path)
            return wr_tell_errno(place->env, errno, "file: cannot find %s again", place->path);
    }
    os_error = wr_file_header_write(place->fd, file->slots);
    if (!os_error)
        return WEIR_OK;
    free(file->remove_path);
    file->remove_path = NULL;
    return wr_tell_errno(place->env, os_error, "file: cannot write the header of %s", place->path);
}

static void undo(const struct place *place)
{
    if (place->fd < 0)
        return;
    if (place->is_named && place->was_made)
        unlink(place->path);
    else if (place->was_empty && ftruncate(place->fd, 0) != 0)
        wr_tell(place->env, WEIR_NOTE, WEIR_OK, errno, "file: %s is not empty any more",
                place->path);
    close(place->fd);
}

int wr_file_place_open(struct wr_file *file, const char *path)
{
    struct place place = {
        .file = file, .env = file->env, .options = &file->options, .path = path, .fd = -1};
    int error = open_by_kind(&place);

    if (!error)
        error = set_size(&place);
    if (!error)
        error = set_direct(&place);
    if (!error)
        error = wr_file_ring_choose(file);
    if (!error)
        error = finish(&place);
    if (error)
        undo(&place);
    return error;
}

void wr_file_place_close(struct wr_file *file)
{
    struct stat ours, named;

    /* While we hold the lock nobody else uses the file; but the name may be another's by now. */
    if (file->remove_path && fstat(file->fd, &ours) == 0 && lstat(file->remove_path, &named) == 0 &&
        ours.st_dev == named.st_dev && ours.st_ino == named.st_ino)
        unlink(file->remove_path);
    free(file->remove_path);
    /* A fork child may have the descriptor, too: closing ours alone would leave its lock. */
    flock(file->fd, LOCK_UN);
    close(file->fd);
}
