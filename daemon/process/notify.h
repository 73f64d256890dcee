#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The service manager (libsystemd): sockets handed in, readiness, status, watchdog. Harmless without one. */

#include <stdint.h>

#include "util/error.h"

/* Sockets passed by the service manager, by name; -EBADF where none was. CLOEXEC is set on them. */
int notify_listen_fds(int *ret_client_fd, int *ret_control_fd) wp_check;

void notify_ready(void);
void notify_reloading(void);
void notify_stopping(void);
void notify_status(const char *format, ...) __attribute__((__format__(printf, 1, 2)));

/* Microseconds between two signs of life that the manager wants, 0 when it wants none; and the sign. */
uint64_t notify_watchdog_interval(void);
void notify_watchdog(void);
