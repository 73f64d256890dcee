#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Serving the hold context of merged memory: the daemon does it, and the client's watcher when there is no
 * daemon
 *
 * It is stateless, so that anybody who holds the descriptor can take over at any moment:
 *   write-protect fault   unprotect and wake; the kernel copies the page for the writer
 *
 *   minor fault           the program discarded the page (MADV_DONTNEED): give it a
 *                         page of zeros. Pool pages are mapped before they are registered and are never
 *                         reclaimed, so that an empty entry means nothing else (tests/kernel/minor_zero.c).
 *                         The kernel also reports a page that another thread is just copying; then there is a
 *                         page by the time it is answered, and waking is all (tests/kernel/minor_spurious.c)
 *
 * Whoever serves hold must never touch merged memory, not even to read it: he would wait for himself.
 */

#include <stdint.h>

#include "util/error.h"

/* The features of each of a client's four contexts; see the file libwp/agent.c for what each is for. */
#define HOLD_FEATURES                                                                                        \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |       \
         UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_THREAD_ID |                       \
         UFFD_FEATURE_EXACT_ADDRESS)
#define TRACK_FEATURES                                                                                       \
        (UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |              \
         UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define GUARD_FEATURES                                                                                       \
        (UFFD_FEATURE_MOVE | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_FORK |                           \
         UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define STAGE_FEATURES (UFFD_FEATURE_MOVE)

/*
 * Both answer a fault at any address of the page and return 0 or 1 (a page of zeros was given) when the
 * faulting thread is on its way again,
 * -EAGAIN when events of the context must be read first (the fault stays unanswered: call again later), or
 * another negative errno when the process is gone (-ESRCH) or memory ran out (-ENOMEM: call again later).
 */
int hold_answer_write(int hold_fd, uint64_t address) wp_check;
int hold_answer_minor(int hold_fd, uint64_t address) wp_check;
