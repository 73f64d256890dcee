#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The file behind a mapping of another process: /proc/PID/map_files and /proc/PID/mountinfo (proc_pid_map_files(5),
 * proc_pid_mountinfo(5))
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

#define MAPFILE_TYPE_BYTES 32

/*
 * The type of the file system with this device number, as the process's mounts say, cut to fit. -ENOENT: none of them is. To be
 * asked before anything is opened: with some file systems that waits for whoever made them.
 */
int mapfile_type(pid_t pid, uint32_t dev_major, uint32_t dev_minor,
                 char ret_type[MAPFILE_TYPE_BYTES]) wp_check;

/* The same from a line of mountinfo: 1 it is that file system's, 0 it is another's, -EBADMSG. */
int mapfile_parse_mount(const char *line, uint32_t dev_major, uint32_t dev_minor,
                        char ret_type[MAPFILE_TYPE_BYTES]) wp_check;

/*
 * Opens the file behind the mapping [start, end) for reading. -ENOENT: there is no mapping with these borders. Needs
 * CAP_CHECKPOINT_RESTORE, and CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for other users' processes and files.
 */
int mapfile_open(pid_t pid, uint64_t start, uint64_t end) wp_check;
