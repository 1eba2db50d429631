/* SPDX-License-Identifier: MIT */
#include "runtime/host/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "runtime/base/text.h"

int wr_file_create(const char *path, int *file_p)
{
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    int error;

    if (file < 0)
        return errno == EACCES || errno == EPERM || errno == EROFS ? WEIR_EDENIED : WEIR_EINVAL;
    /* Emptied only when it is ours: another runtime may be writing it. */
    if (flock(file, LOCK_EX | LOCK_NB) == 0 && ftruncate(file, 0) == 0) {
        *file_p = file;
        return WEIR_OK;
    }
    error = errno == EWOULDBLOCK ? WEIR_EBUSY : WEIR_EINVAL;
    close(file);
    return error;
}

bool wr_file_append(int file, const void *bytes, size_t count)
{
    const char *from = bytes;

    while (count > 0) {
        ssize_t written = write(file, from, count);

        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        from += written;
        count -= (size_t)written;
    }
    return true;
}

void wr_file_close(int file)
{
    if (file >= 0)
        close(file);
}

bool wr_file_read(const char *path, char *text, size_t room)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t count;
    int kept;

    if (file < 0)
        return false;
    count = read(file, text, room - 1);
    kept = errno;
    close(file);
    errno = kept;
    if (count < 0)
        return false;
    text[count] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return true;
}

bool wr_file_read_number(const char *path, uint64_t *number_p)
{
    char text[40], *end;

    if (!wr_file_read(path, text, sizeof(text)))
        return false;
    *number_p = strtoull(text, &end, 10);
    if (end != text && *end == '\0')
        return true;
    errno = EINVAL;
    return false;
}

bool wr_file_tell(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
    bool is_told;
    int kept;

    if (file < 0)
        return false;
    is_told = wr_file_append(file, text, strlen(text));
    kept = errno;
    close(file);
    errno = kept;
    return is_told;
}

bool wr_file_tell_number(const char *path, uint64_t number)
{
    char digits[24];
    struct wr_text text;

    wr_text_init(&text, digits, sizeof(digits));
    wr_text_number(&text, number);
    return wr_file_tell(path, digits);
}
