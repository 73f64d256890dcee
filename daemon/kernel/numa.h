#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * NUMA: on which node pages lie, and where those that this thread makes are to lie
 * (Documentation/admin-guide/mm/numa_memory_policy.rst, move_pages(2), set_mempolicy(2))
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

#define NUMA_NO_NODE   (-1)
#define NUMA_MAX_NODES 1024 /* what a kernel can have at most */

/* The nodes that have memory, as the kernel lists them ("0-1,3"). -ENOENT: a kernel without NUMA. */
int numa_list(char *text, size_t size) wp_check;

/*
 * The node of each page of a process (0: this one), NUMA_NO_NODE where there is no page. The addresses are in bytes. Of other
 * users' processes this needs CAP_SYS_PTRACE.
 */
int numa_of_pages(pid_t pid, const uint64_t *addresses, size_t n_pages, int *nodes) wp_check;

/* The same of neighbouring pages of a file. */
int numa_of_file(int fd, uint64_t offset, size_t n_pages, int *nodes) wp_check;

/*
 * Pages that the calling thread makes, those of files in a tmpfs included, are taken from this node from now on as long as it
 * has any (tests/kernel/numa_place.c); NUMA_NO_NODE: from wherever the process's policy says.
 */
int numa_prefer(int node) wp_check;
