/* SPDX-License-Identifier: GPL-2.0-or-later */

/* NUMA: where pages lie. */

#include "kernel/numa.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uapi.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define PAGES_AT_ONCE 256
#define LONG_BITS     (8 * sizeof(unsigned long))

int numa_list(char *text, size_t size)
{
        _cleanup_fd_ int fd =
                (int)error_from(open("/sys/devices/system/node/has_memory", O_RDONLY | O_CLOEXEC));
        ssize_t n;

        if (fd < 0)
                return fd_take(&fd);
        n = error_from(read(fd, text, size - 1));
        if (n < 0)
                return (int)n;
        text[n] = '\0';
        text[strcspn(text, "\n")] = '\0';
        return 0;
}

/* Of at most PAGES_AT_ONCE pages. */
static int ask(pid_t pid, const uint64_t *addresses, size_t n_pages, int *nodes)
{
        void *pages[PAGES_AT_ONCE];
        long r;

        for (size_t i = 0; i < n_pages; i++)
                pages[i] = (void *)(uintptr_t)addresses[i];
        /* Without nodes to move them to, it only tells where they are. */
        r = error_from(syscall(SYS_move_pages, pid, n_pages, pages, NULL, nodes, 0));
        for (size_t i = 0; r >= 0 && i < n_pages; i++)
                nodes[i] = MAX(nodes[i], NUMA_NO_NODE);
        return (int)MIN(r, 0);
}

int numa_of_pages(pid_t pid, const uint64_t *addresses, size_t n_pages, int *nodes)
{
        int r = 0;

        for (size_t i = 0; i < n_pages && r >= 0; i += PAGES_AT_ONCE)
                r = ask(pid, addresses + i, MIN(n_pages - i, PAGES_AT_ONCE), nodes + i);
        return r;
}

int numa_of_file(int fd, uint64_t offset, size_t n_pages, int *nodes)
{
        size_t length = n_pages * PAGE_BYTES;
        uint64_t addresses[PAGES_AT_ONCE];
        const volatile char *pages;
        int r = 0;

        pages = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, (off_t)offset);
        if (pages == MAP_FAILED)
                return -errno;
        for (size_t i = 0, n; i < n_pages && r >= 0; i += n) {
                n = MIN(n_pages - i, PAGES_AT_ONCE);
                for (size_t k = 0; k < n; k++) {
                        addresses[k] = (uintptr_t)pages + (i + k) * PAGE_BYTES;
                        /* MAP_POPULATE does nothing in memory that is locked on fault. */
                        (void)pages[(i + k) * PAGE_BYTES];
                }
                r = ask(0, addresses, n, nodes + i);
        }
        munmap((void *)pages, length);
        return r;
}

int numa_prefer(int node)
{
        unsigned long mask[NUMA_MAX_NODES / LONG_BITS] = {0};

        if (node == NUMA_NO_NODE)
                return (int)error_from(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0));
        if (node < 0 || node >= NUMA_MAX_NODES)
                return -EINVAL;
        mask[(unsigned)node / LONG_BITS] |= 1UL << ((unsigned)node % LONG_BITS);
        /* The kernel takes one bit less than it is told there are. */
        return (int)error_from(syscall(SYS_set_mempolicy, MPOL_PREFERRED, mask, NUMA_MAX_NODES + 1));
}
