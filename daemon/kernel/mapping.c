/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* /proc/PID/maps: the PROCMAP_QUERY ioctl. */

#include "kernel/mapping.h"

#include <sys/mman.h>

#include "kernel/uapi.h"

int mapping_query(int maps_fd, uint64_t address, struct mapping *ret_mapping)
{
        struct procmap_query query = {.size = sizeof(query), .query_addr = address};
        int r = (int)error_from(ioctl(maps_fd, PROCMAP_QUERY, &query));

        if (r < 0)
                return r;
        *ret_mapping = (struct mapping){
                .start = query.vma_start,
                .end = query.vma_end,
                .inode = query.inode,
                .protection = (query.vma_flags & PROCMAP_QUERY_VMA_READABLE ? PROT_READ : 0) |
                              (query.vma_flags & PROCMAP_QUERY_VMA_WRITABLE ? PROT_WRITE : 0) |
                              (query.vma_flags & PROCMAP_QUERY_VMA_EXECUTABLE ? PROT_EXEC : 0),
                .shared = query.vma_flags & PROCMAP_QUERY_VMA_SHARED,
        };
        return 0;
}
