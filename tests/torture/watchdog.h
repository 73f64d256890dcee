#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The watchdog: whoever makes no progress for too long hangs; and what is to be seen of a process from outside. */

#include <stdint.h>
#include <sys/types.h>

/* Complains about the first that hangs. */
void watchdog_step(void);

/* Prints what all threads of a process wait for. */
void watchdog_describe_threads(pid_t pid);

/* Prints the mapping that holds the address (proc_pid_smaps), and its entry in the pagemap. */
void watchdog_describe_address(pid_t pid, uintptr_t address);
