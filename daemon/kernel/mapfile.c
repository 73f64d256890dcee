/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The file behind a mapping of another process. */

#include "kernel/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/cleanup.h"

/* "36 35 98:0 /root /mount/point options optional... - TYPE source options"; a blank in a name is written \040. */
int mapfile_parse_mount(const char *line, uint32_t dev_major, uint32_t dev_minor,
                        char ret_type[MAPFILE_TYPE_BYTES])
{
        uint32_t is_major, is_minor;
        const char *type;
        size_t length;

        if (sscanf(line, "%*u %*u %" SCNu32 ":%" SCNu32 " ", &is_major, &is_minor) != 2)
                return -EBADMSG;
        if (is_major != dev_major || is_minor != dev_minor)
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

int mapfile_type(pid_t pid, uint32_t dev_major, uint32_t dev_minor, char ret_type[MAPFILE_TYPE_BYTES])
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
                r = mapfile_parse_mount(line, dev_major, dev_minor, ret_type);
        fclose(file);
        return r > 0 ? 0 : r < 0 ? r : -ENOENT;
}

int mapfile_open(pid_t pid, uint64_t start, uint64_t end)
{
        char path[80];

        snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, start, end);
        return (int)error_from(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}
