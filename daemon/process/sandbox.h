#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The process boundary, in named stages (theory in sandbox.c)
 *
 *   1. open      as root: everything that needs privilege to open is opened (sockets, /dev/userfaultfd, pool
 * mount)
 *   2. lock      memory is locked, limits raised
 *   3. confine   capabilities dropped to SANDBOX_CAPS, no_new_privs, the system-call filter loaded: before
 * the first client is served and before any thread is started
 */

#include <sys/capability.h>

#include <stdbool.h>

#include "util/error.h"

/*
 * What is left of root after sandbox_confine(): an initialiser for an array of cap_value_t. CAP_IPC_LOCK
 * stays too when sandbox_lock_memory() could lock memory but not raise RLIMIT_MEMLOCK.
 */
#define SANDBOX_CAPS                                                                                         \
        {                                                                                                    \
                CAP_SYS_PTRACE                                                                               \
        }

/* What stays, too, after sandbox_keep_files(). */
#define SANDBOX_FILE_CAPS                                                                                    \
        {                                                                                                    \
                CAP_LEASE, CAP_CHECKPOINT_RESTORE, CAP_DAC_READ_SEARCH                                       \
        }

/* Files that clients map are to be merged. False: this process lacks what that needs, and it is given up with the rest. */
bool sandbox_keep_files(void);

/* The same of the helper's process, those of them that there are. */
#define SANDBOX_HELPER_CAPS                                                                                  \
        {                                                                                                    \
                CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH                                                          \
        }

/*
 * Raises RLIMIT_NOFILE as far as allowed and RLIMIT_MEMLOCK to infinity, and locks present and future memory
 * as it is touched (MCL_ONFAULT). -EPERM: neither may the limit be raised nor memory locked beyond it;
 * nothing is locked.
 */
int sandbox_lock_memory(void) wp_check;

/*
 * Sets the calling thread's nice value. Whoever waits for the fault service is a client's thread in the
 * middle of a store, so it runs first, and scanning can always wait (dedup/worker.c). A thread inherits the
 * value of the one that starts it, and after confinement can be made nicer, not less: so the process begins
 * with the fault service's.
 */
#define SANDBOX_NICE_FAULT   (-10)
#define SANDBOX_NICE_CONTROL 0
#define SANDBOX_NICE_HELPER  5
int sandbox_set_nice(int nice) wp_check;

/*
 * Drops capabilities, sets no_new_privs, loads the allow-list. There is no way back, and after a failure the
 * process is half confined and can only end. -EBUSY: there is more than one thread; -EPERM: SANDBOX_CAPS are
 * not all there, or CAP_SETPCAP is missing to reduce the bounding set.
 */
int sandbox_confine(void) wp_check;

/* The same for the helper's process, with a list of its own. */
int sandbox_confine_helper(void) wp_check;
