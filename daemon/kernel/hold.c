/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Serving the hold context of merged memory. */

#include "kernel/hold.h"

#include "kernel/uffd.h"
#include "util/bits.h"

static const char zeros[1 << PAGE_SHIFT] __attribute__((__aligned__(1 << PAGE_SHIFT)));

int hold_answer_write(int hold_fd, uint64_t address)
{
        int r = uffd_write_protect(hold_fd, page_down(address), PAGE_BYTES, false);

        /* No longer registered (unmapped or replaced meanwhile): whoever waits looks again and goes on. */
        if (r == -ENOENT || r == -EINVAL)
                r = uffd_wake(hold_fd, page_down(address), PAGE_BYTES);
        return r;
}

int hold_answer_minor(int hold_fd, uint64_t address, bool protect)
{
        int r = uffd_copy(hold_fd, page_down(address), zeros, PAGE_BYTES, protect ? UFFDIO_COPY_MODE_WP : 0);

        /* Answered already, or the mapping is gone or changed: whoever waits looks again and goes on. */
        if (r == -EEXIST || r == -ENOENT || r == -EINVAL)
                return uffd_wake(hold_fd, page_down(address), PAGE_BYTES);
        return r < 0 ? r : 1;
}

int hold_answer(int hold_fd, const struct uffd_msg *fault, bool protect)
{
        uint64_t address = fault->arg.pagefault.address;
        int r = hold_is_write(fault) ? hold_answer_write(hold_fd, address)
                                     : hold_answer_minor(hold_fd, address, protect);

        if (r < 0)
                (void)!uffd_wake(hold_fd, page_down(address), PAGE_BYTES);
        return r;
}
