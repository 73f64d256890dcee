#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The service manager (libsystemd): sockets handed in, readiness, status, watchdog. Harmless without one. */

#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

/* A user's pool that an earlier daemon had kept in the service manager's descriptor store. */
struct notify_pool {
        uid_t uid;
        int fd;
};

#define NOTIFY_MAX_POOLS 1024

struct notify_pools {
        unsigned n;
        struct notify_pool pools[NOTIFY_MAX_POOLS];
};

/*
 * What was passed by the service manager, by name: sockets, -EBADF where there was none, and pools, which are not
 * looked at here. CLOEXEC is set on all of them, and they become the caller's.
 */
int notify_passed_fds(int *ret_client_fd, int *ret_control_fd, struct notify_pools *ret_pools) wp_check;

/*
 * Has the descriptor of a user's pool kept for the next daemon (sd_pid_notify_with_fds(3), FDSTORE=1), or kept no longer. Where
 * nobody keeps it, merged memory remains right, and shared among those of that time.
 */
void notify_store_pool(uid_t uid, int fd);
void notify_forget_pool(uid_t uid);

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);
void notify_status(const char *format, ...) __attribute__((__format__(printf, 1, 2)));

/* Microseconds between two signs of life that the manager wants, 0 when it wants none; and the sign. */
uint64_t notify_watchdog_interval(void);
void notify_watchdog(void);
