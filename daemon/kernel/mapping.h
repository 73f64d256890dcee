#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* /proc/PID/maps: the PROCMAP_QUERY ioctl (Linux 6.11), one mapping at a time. */

#include <stdbool.h>
#include <stdint.h>

#include "util/error.h"

struct mapping {
        uint64_t start; /* bytes */
        uint64_t end;
        uint64_t inode;
        uint32_t protection; /* PROT_* */
        bool shared;
};

/* The mapping that contains the address. -ENOENT: nothing is mapped there; -ENOTTY: the kernel cannot be asked. */
int mapping_query(int maps_fd, uint64_t address, struct mapping *ret_mapping) wp_check;
