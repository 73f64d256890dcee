#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * How long loads and stores took: the longest, and how many were slow, by what the daemon did meanwhile
 *
 * One operation may count in several classes: as one of all; while the daemon was there all the time; the same, and pages
 * were merged within the last moments; within a second after the daemon was killed; while it was stopped. Orphans, for whom the
 * daemon answers, are a class of their own and in no other.
 */

#include <stdint.h>

#define STALL_SLOW_NS (10 * NSEC_PER_MSEC)

struct worker;

void stall_note(const struct worker *worker, uint64_t start_ns, uint64_t end_ns);
