#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Entries of /proc/PID/pagemap (pagemap.rst), as an ordinary user may read them. */

#include <stdint.h>
#include <sys/types.h>

#define ENTRY_PRESENT   (UINT64_C(1) << 63)
#define ENTRY_FILE      (UINT64_C(1) << 61) /* of a file, or shared memory; else anonymous */
#define ENTRY_EXCLUSIVE (UINT64_C(1) << 56) /* nobody else maps it */

/* Of `n_pages` from an address on; neither allocates nor uses stdio's streams. 0 or a negative errno. */
int entries_read(pid_t pid, uintptr_t address, uint64_t *ret_entries, size_t n_pages);
