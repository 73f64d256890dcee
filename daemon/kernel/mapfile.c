/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The file behind a mapping of another process. */

#include "kernel/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "util/cleanup.h"

/* "36 35 98:0 /root /mount/point options optional... - TYPE source options"; a blank in a name is written \040. */
int mapfile_parse_mount(const char *line, uint64_t mount_id, char ret_type[MAPFILE_TYPE_BYTES])
{
        const char *type;
        int end = -1;
        uint64_t id;
        size_t length;

        if (sscanf(line, "%" SCNu64 " %*u %*u:%*u %n", &id, &end) != 1 || end < 0)
                return -EBADMSG;
        if (id != mount_id)
                return 0;
        type = strstr(line, " - ");
        if (!type)
                return -EBADMSG;
        type += 3;
        length = strcspn(type, " \n");
        if (!length)
                return -EBADMSG;
        snprintf(ret_type, MAPFILE_TYPE_BYTES, "%.*s", (int)length, type);
        return 1;
}

static int find_type(pid_t pid, uint64_t mount_id, char ret_type[MAPFILE_TYPE_BYTES])
{
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        char path[40];
        FILE *file;
        int r = 0;

        snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
        file = fopen(path, "re");
        if (!file)
                return -errno;
        while (r == 0 && getline(&line, &size, file) > 0)
                r = mapfile_parse_mount(line, mount_id, ret_type);
        fclose(file);
        return r > 0 ? 0 : r < 0 ? r : -ENOENT;
}

int mapfile_find(pid_t pid, uint64_t start, uint64_t end, char ret_type[MAPFILE_TYPE_BYTES], int *ret_fd)
{
        _cleanup_fd_ int fd = -EBADF;
        struct statx stx;
        char path[80];
        int r;

        snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, start, end);
        fd = (int)error_from(open(path, O_PATH | O_CLOEXEC));
        if (fd < 0)
                return fd_take(&fd);
        /* Nobody is asked for what is not known here. */
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &stx) < 0)
                return -errno;
        r = stx.stx_mask & STATX_MNT_ID ? find_type(pid, stx.stx_mnt_id, ret_type) : -EOPNOTSUPP;
        if (r >= 0 && stx.stx_attributes & STATX_ATTR_DAX)
                strcpy(ret_type, MAPFILE_DAX);
        if (r >= 0)
                *ret_fd = fd_take(&fd);
        return r;
}

int mapfile_open(int found_fd)
{
        char path[40];

        snprintf(path, sizeof(path), "/proc/self/fd/%d", found_fd);
        return (int)error_from(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}
