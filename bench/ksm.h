#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The kernel's own samepage merging, as the thing to compare with: /sys/kernel/mm/ksm
 *
 * These settings are the whole machine's. They are saved before the first change and put back when the
 * program ends, by a signal too (but for SIGKILL).
 */

#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

/* What is set for one run; the rest of /sys/kernel/mm/ksm is at the kernel's defaults. */
struct ksm_settings {
        unsigned pages_to_scan;
        unsigned sleep_millisecs;
        unsigned use_zero_pages;
};

extern const struct ksm_settings ksm_defaults; /* the kernel's */

struct ksm_counters {
        uint64_t pages_shared;
        uint64_t pages_sharing;
        uint64_t zero_pages;
        uint64_t full_scans;
        uint64_t metadata_bytes;
};

/*
 * Saves the settings and finds ksmd. On failure *ret_why says why this machine's KSM cannot be measured: it
 * is not there (-ENOENT), we may not set it up (-EACCES), or others are using it (-EBUSY).
 */
int ksm_open(const char **ret_why) wp_check;

int ksm_start(const struct ksm_settings *settings) wp_check;

/* Undoes all merging and stops. */
int ksm_stop(void) wp_check;

/* Puts the saved settings back. Safe in a signal handler; harmless when nothing was saved. */
void ksm_restore(void);

int ksm_counters(struct ksm_counters *ret_counters) wp_check;

/* CPU time of ksmd, in nanoseconds. */
int ksm_cpu(uint64_t *ret_ns) wp_check;
