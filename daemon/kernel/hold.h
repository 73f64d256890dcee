#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Serving merged memory (contexts hold and lazy): the client's watcher does it, and for forked children the daemon when
 * their family cannot
 *
 * It is stateless, so that anybody who holds the descriptor can take over at any moment:
 *   write-protect fault   unprotect and wake; the kernel copies the page for the writer
 *
 *   minor or missing      the program discarded the page (MADV_DONTNEED): give it a
 *                         page of zeros. Pool pages are mapped before they are registered and are never
 *                         reclaimed, so that an empty entry means nothing else (tests/kernel/minor_zero.c).
 *                         The kernel also reports a page that another thread is just copying; then there is a
 *                         page by the time it is answered, and waking is all (tests/kernel/minor_spurious.c)
 *
 * Whoever serves hold must never touch merged memory, not even to read it: he would wait for himself.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kernel/uapi.h"
#include "util/error.h"

/* The features of each of a client's contexts; see libwp/run.c for what each is for. */
#define HOLD_FEATURES                                                                                        \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |       \
         UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID |                       \
         UFFD_FEATURE_EXACT_ADDRESS)
/*
 * What merged memory is registered for. MISSING matters when the page of the pool was given back after the
 * program wrote its own copy: discarding that copy leaves an empty entry over a hole of the file, for which
 * the kernel would make a page in the file and map it, and then whatever is stored there next
 * (tests/kernel/pool_reuse.c). A fault without a flag is answered like a minor fault.
 */
#define HOLD_MODES (UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_MISSING)
#define LAZY_FEATURES                                                                                        \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |              \
         UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EVENT_FORK |              \
         UFFD_FEATURE_EVENT_REMAP)
#define TRACK_FEATURES                                                                                       \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |              \
         UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define GUARD_FEATURES                                                                                       \
        (UFFD_FEATURE_MOVE | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_FORK |                           \
         UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define STAGE_FEATURES (UFFD_FEATURE_MOVE)
/* Pages that are not populated are protected, too: to be written for the first time is to be written. */
#define WATCH_FEATURES                                                                                       \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |    \
         UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS)

/*
 * Both answer a fault at any address of the page - `protect`: a page of zeros is to be write-protected, so that who writes to it
 * faults again - and return 0 or 1 (a page of zeros was given) when the
 * faulting thread is on its way again,
 * -EAGAIN when events of the context must be read first (the fault stays unanswered: call again later), or
 * another negative errno when the process is gone (-ESRCH) or memory ran out (-ENOMEM: call again later).
 */
int hold_answer_write(int hold_fd, uint64_t address) wp_check;
int hold_answer_minor(int hold_fd, uint64_t address, bool protect) wp_check;

/*
 * Whether a fault is a write to a protected page. The WP flag may come with WRITE, and MINOR with WRITE; a fault without
 * either is a missing page: it was discarded after the page of the pool had been given back.
 */
static inline bool hold_is_write(const struct uffd_msg *fault)
{
        return fault->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
}

/*
 * Answers a UFFD_EVENT_PAGEFAULT message, whichever it is. One that cannot be answered is woken, so that it comes back:
 * behind the event that has to be read first.
 */
int hold_answer(int hold_fd, const struct uffd_msg *fault, bool protect) wp_check;
