#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the benchmark measures, and its output: a table for people, JSON for programs. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define RESULT_MAX_REPETITIONS 16

enum engine {
        ENGINE_NONE, /* nobody merges: the baseline */
        ENGINE_WPD,
        ENGINE_KSM,       /* with the kernel's default settings */
        ENGINE_KSM_TUNED, /* with more pages in a go */
        N_ENGINES,
};

/* X(name, label, scale in the table, digits, in the table) */
#define RESULT_METRICS(X)                                                                                    \
        X(cpu_seconds, "CPU to converge, s", 1, 3, true) /* engine and clients together */                   \
        X(engine_cpu_seconds, "", 1, 3, false)           /* wpd, or ksmd */                                  \
        X(client_cpu_seconds, "", 1, 3, false)           /* wpd's threads in the clients */                  \
        X(wall_seconds, "wall time to converge, s", 1, 2, true)                                              \
        X(cpu_seconds_per_gib, "CPU per GiB saved, s", 1, 3, true)                                           \
        X(saved_bytes, "saved (PSS), MiB", 1.0 / (1 << 20), 1, true)                                         \
        X(saved_ratio, "saved of what is possible, %", 100, 1, true) /* pages */                             \
        X(metadata_bytes_per_page, "metadata a page, B", 1, 1, true)                                         \
        X(idle_cpu_seconds, "CPU of an idle minute, s", 1, 3, true)                                          \
        X(write_p50_us, "first write, 1 ms apart, p50 us", 1, 1, true)                                       \
        X(write_p99_us, "first write, 1 ms apart, p99 us", 1, 1, true)                                       \
        X(burst_p50_us, "first write, back to back, p50 us", 1, 1, true)                                     \
        X(burst_p99_us, "first write, back to back, p99 us", 1, 1, true)                                     \
        X(notified_p50_us, "the same with an event, 1 ms apart, p50 us", 1, 1, true)                         \
        X(notified_p99_us, "the same with an event, 1 ms apart, p99 us", 1, 1, true)                         \
        X(rewrite_cpu_ratio, "CPU while 1 % a second is written, %", 100, 2, true) /* less the baseline's */ \
        X(rewrite_saved_bytes, "saved after it (PSS), MiB", 1.0 / (1 << 20), 1, true)

enum metric {
#define X(_name, _label, _scale, _digits, _table) METRIC_##_name,
        RESULT_METRICS(X)
#undef X
                N_METRICS,
};

/* The repetitions of one engine with one data set; a value that was not measured is NAN. */
struct result {
        unsigned n_repetitions;
        unsigned n_converged;
        double value[RESULT_MAX_REPETITIONS][N_METRICS];
};

struct result_set {
        const char *name;
        char title[96];
        uint64_t possible_pages; /* what can be saved */
        struct result result[N_ENGINES];
};

/* The name of an engine in JSON and in options. */
const char *result_engine_name(enum engine engine);

/* The median over the repetitions that measured it, or NAN. */
double result_median(const struct result *result, enum metric metric);

/* Aligned, at most 100 columns; only rows that some engine measured. */
void result_print(FILE *out, const struct result_set *set);

/* A new reference; NULL: out of memory. */
json_t *result_json(const struct result_set *set);
