#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Configuration: wpd.conf and its drop-ins, and the run-time settings of `wpctl set`
 *
 * One table of keys describes everything: section, name, type, bounds, default, whether `wpctl set` may change
 * it (reading the files again changes every key), and one sentence of documentation. Parsing is pure but for
 * opening files.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/*
 * X(section, key, type, default, minimum, maximum, runtime, help). Types: u64 (a number), size (bytes; K, M,
 * G and T multiply by powers of 1024) and flag (yes/no). Names are the kernel's KSM words where it has one
 * (Documentation/admin-guide/mm/ksm.rst).
 */
#define CONFIG_LIST(X)                                                                                       \
        X(scan, sleep_millisecs, u64, 200, 10, 3600000, true,                                                \
          "Time between two looks at the same memory while there is work; a page must not change for one")   \
        X(scan, sleep_max_millisecs, u64, 10000, 10, 3600000, true,                                          \
          "The same when nothing changes: the pause doubles up to this")                                     \
        X(scan, max_cpu_percent, u64, 50, 1, 100, true,                                                      \
          "Share of one CPU that scanning may use; `wpctl scan` ignores it")                                 \
        X(merge, use_zero_pages, flag, 1, 0, 1, true, "Give pages of zeros back to the kernel's zero page")  \
        X(merge, min_run_pages, u64, 1, 1, 512, true,                                                        \
          "Shorter runs of equal pages are not merged: each run may cost two VMAs")                          \
        X(merge, pool_max_bytes, size, 0, 0, UINT64_MAX, true,                                               \
          "Memory for canonical pages, all domains together; 0 means no limit of our own")                   \
        X(merge, merge_files, flag, 1, 0, 1, false,                                                          \
          "Merge read-only mappings of files, whose content wpd keeps as it is by leases")                   \
        X(merge, merge_across_nodes, flag, 0, 0, 1, true,                                                    \
          "Merge pages of different NUMA nodes, too; without it each node has copies of its own")            \
        X(merge, max_node_replicas, u64, 1, 1, 64, true,                                                     \
          "With merge_across_nodes: copies of the same content, each on another node, at most")              \
        X(merge, replica_min_sharers, u64, 32, 1, 1048575, true,                                             \
          "A copy that so many pages share gets another one on the node of the next")                        \
        X(limits, max_clients, u64, 1024, 1, 65536, false, "Clients at once")                                \
        X(limits, max_clients_per_uid, u64, 256, 1, 65536, false,                                            \
          "Clients of one user at once, root excepted")                                                      \
        X(limits, max_regions_per_client, u64, 1024, 1, 65536, true, "Regions that one client may register") \
        X(limits, max_bytes_per_uid, size, UINT64_C(1) << 42, 4096, UINT64_MAX, true,                        \
          "Memory that all clients of one user may register together")

struct config {
#define X(_section, _key, _type, _default, _min, _max, _runtime, _help) uint64_t _key;
        CONFIG_LIST(X)
#undef X
};

struct config_key {
        const char *section;
        const char *name;
        bool flag; /* yes/no instead of a number */
        bool size; /* bytes, with a suffix K, M, G or T */
        uint64_t initial;
        uint64_t minimum;
        uint64_t maximum;
        bool runtime;
        const char *help;
        size_t offset; /* into struct config */
};

extern const struct config_key config_keys[];
extern const size_t config_n_keys;

#define CONFIG_MAX_ERROR 256
#define CONFIG_MAX_FILE  65536 /* bytes of one file */

void config_init(struct config *config);

/*
 * Reads `path` and the *.conf files of `path`.d in the order of their names, over what is in *config. A
 * missing `path` is an error only when `required`. On failure *config is untouched and `error` names file,
 * line and key: -EINVAL, or what opening said.
 */
int config_load(struct config *config, const char *path, bool required,
                char error[CONFIG_MAX_ERROR]) wp_check;

/*
 * The same for the text of one file, without opening anything; `name` is what the error calls it. Everything
 * that is not understood is an error: unknown sections and keys, a key given twice, text after a value, NUL
 * bytes, lines that are too long.
 */
int config_parse(struct config *config, const char *text, size_t length, const char *name,
                 char error[CONFIG_MAX_ERROR]) wp_check;

/*
 * Sets one key ("key" or "section.key") from text. -ENOENT: no such key; -EINVAL: bad value; -EPERM: not
 * over the control socket (only when `runtime`). `error` says it in words.
 */
int config_set(struct config *config, const char *key, const char *value, bool runtime,
               char error[CONFIG_MAX_ERROR]) wp_check;

/* The value as `wpctl get` prints it. */
void config_format(const struct config *config, const struct config_key *key, char *text, size_t size);

const struct config_key *config_find(const char *name);
