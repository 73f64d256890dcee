#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The file behind a mapping of another process: /proc/PID/map_files and /proc/PID/mountinfo (proc_pid_map_files(5),
 * proc_pid_mountinfo(5))
 *
 * Opening a file, and most questions about it, are answered by whoever made its file system, and it may be the very process that is
 * looked at that never does. So the file is found first, without being opened, and its file system is known by the mount that it
 * was reached by.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

#define MAPFILE_TYPE_BYTES 32

/* In place of the type, if loads and stores go to the storage itself (statx(2), STATX_ATTR_DAX): a name that no file system has. */
#define MAPFILE_DAX "(dax)"

/*
 * The file behind the mapping [start, end), as a descriptor that only names it (O_PATH), and the type of its file system, cut
 * to fit. -ENOENT: there is no mapping with these borders, or the file is of no mount of the process. Needs
 * CAP_CHECKPOINT_RESTORE, and CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for other users' processes and files.
 */
int mapfile_find(pid_t pid, uint64_t start, uint64_t end, char ret_type[MAPFILE_TYPE_BYTES],
                 int *ret_fd) wp_check;

/* Opens what was found for reading. */
int mapfile_open(int found_fd) wp_check;

/* The type from a line of mountinfo: 1 it is that mount's, 0 it is another's, -EBADMSG. */
int mapfile_parse_mount(const char *line, uint64_t mount_id, char ret_type[MAPFILE_TYPE_BYTES]) wp_check;
