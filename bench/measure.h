#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What memory and CPU really cost, as the kernel accounts them, and the statistics over it. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

/* The value of a line "NAME:   123 kB" of /proc text. -ENOENT: no such line; -EINVAL: not a number. */
int measure_parse_kb(const char *text, const char *name, uint64_t *ret_kb) wp_check;

/* Proportional set size of a process, in bytes: each page divided by the number of its users. */
int measure_pss(pid_t pid, uint64_t *ret_bytes) wp_check;

/* Memory available for starting programs without swapping, in bytes. */
int measure_available(uint64_t *ret_bytes) wp_check;

/* What the memory control group that we are in is charged with, in bytes. -ENOENT: there is none. */
int measure_charged(uint64_t *ret_bytes) wp_check;

/* CPU time that all threads of a process have used, in nanoseconds; also works for kernel threads. */
int measure_cpu(pid_t pid, uint64_t *ret_ns) wp_check;

/* A number from a small file, such as those of /sys/kernel/mm/ksm. */
int measure_file_u64(const char *path, uint64_t *ret_value) wp_check;

/* Reads a small text file; the result is terminated. */
int measure_file_text(const char *path, char *text, size_t size) wp_check;

/* The kernel thread with this name, by looking through /proc. -ENOENT: none. */
int measure_find_kthread(const char *name, pid_t *ret_pid) wp_check;

/* Both sort their input. The quantile is the least sample below or at which `permille` of all samples lie; n
 * > 0. */
double measure_median(double *values, size_t n);
uint32_t measure_quantile(uint32_t *samples, size_t n, unsigned permille);
