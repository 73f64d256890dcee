/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/ksm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/measure.h"
#include "util/bits.h"
#include "util/cleanup.h"

#define KSM_DIR "/sys/kernel/mm/ksm/"

#define RUN_STOP    "0"
#define RUN_MERGE   "1"
#define RUN_UNMERGE "2"

/*
 * What the kernel spends: one rmap_item per scanned page and one stable_node per shared page, both 64 bytes
 * on 64-bit machines (mm/ksm.c). Its own general_profit counts the former.
 */
#define RMAP_ITEM_BYTES   64
#define STABLE_NODE_BYTES 64

const struct ksm_settings ksm_defaults = {.pages_to_scan = 100, .sleep_millisecs = 20, .use_zero_pages = 0};

/*
 * In the order of restoring: the advisor forbids setting pages_to_scan while it is on, and merging starts
 * only when everything else is as it was.
 */
static struct {
        const char *path;
        char text[64];
        bool saved;
} files[] = {
        {.path = KSM_DIR "pages_to_scan"},  {.path = KSM_DIR "sleep_millisecs"},
        {.path = KSM_DIR "use_zero_pages"}, {.path = KSM_DIR "smart_scan"},
        {.path = KSM_DIR "advisor_mode"},   {.path = KSM_DIR "run"},
};

static pid_t ksmd;

static int put(const char *path, const char *text)
{
        _cleanup_fd_ int fd = (int)error_from(open(path, O_WRONLY | O_CLOEXEC));
        ssize_t n;

        if (fd < 0)
                return fd;
        n = error_from(write(fd, text, strlen(text)));
        return n < 0 ? (int)n : 0;
}

static int put_number(const char *path, unsigned value)
{
        char text[16];

        snprintf(text, sizeof(text), "%u", value);
        return put(path, text);
}

/* For settings that older kernels lack. */
static int put_if_there(const char *path, const char *text)
{
        int r = put(path, text);

        return r == -ENOENT ? 0 : r;
}

void ksm_restore(void)
{
        /* With the advisor off, everything can be set. */
        (void)put_if_there(KSM_DIR "advisor_mode", "none");
        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                if (files[i].saved)
                        (void)put(files[i].path, files[i].text);
}

static void restore_at_exit(void)
{
        (void)put(KSM_DIR "run", RUN_UNMERGE);
        ksm_restore();
}

static void restore_on_signal(int number)
{
        restore_at_exit();
        /* The handler was taken off by SA_RESETHAND: end as the signal says. */
        raise(number);
}

/* A choice reads as "none [scan-time]": what is written back is the word in brackets. */
static void keep_chosen(char *text)
{
        char *start = strchr(text, '['), *end = start ? strchr(start, ']') : NULL;

        text[strcspn(text, "\n")] = 0;
        if (!end)
                return;
        *end = 0;
        memmove(text, start + 1, strlen(start + 1) + 1);
}

static void handle_signals(void)
{
        static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGABRT, SIGSEGV, SIGBUS};
        struct sigaction action = {.sa_handler = restore_on_signal, .sa_flags = (int)SA_RESETHAND};

        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                sigaction(signals[i], &action, NULL);
}

int ksm_open(const char **ret_why)
{
        uint64_t sharing;
        int r;

        r = measure_file_u64(KSM_DIR "pages_sharing", &sharing);
        if (r < 0) {
                *ret_why = "this kernel has no KSM";
                return -ENOENT;
        }
        if (sharing) {
                *ret_why = "KSM is merging memory of other programs";
                return -EBUSY;
        }
        if (measure_find_kthread("ksmd", &ksmd) < 0) {
                *ret_why = "the kernel thread ksmd cannot be seen from here";
                return -ENOENT;
        }
        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                r = measure_file_text(files[i].path, files[i].text, sizeof(files[i].text));
                if (r < 0)
                        continue;
                keep_chosen(files[i].text);
                files[i].saved = true;
        }
        r = put(KSM_DIR "run", RUN_STOP);
        if (r < 0) {
                *ret_why = "the settings of KSM cannot be changed from here";
                return -EACCES;
        }
        if (atexit(restore_at_exit)) {
                ksm_restore();
                *ret_why = "out of memory";
                return -ENOMEM;
        }
        handle_signals();
        return 0;
}

int ksm_start(const struct ksm_settings *settings)
{
        int r;

        if ((r = put_if_there(KSM_DIR "advisor_mode", "none")) < 0 ||
            (r = put_if_there(KSM_DIR "smart_scan", "1")) < 0 ||
            (r = put_number(KSM_DIR "pages_to_scan", settings->pages_to_scan)) < 0 ||
            (r = put_number(KSM_DIR "sleep_millisecs", settings->sleep_millisecs)) < 0 ||
            (r = put_number(KSM_DIR "use_zero_pages", settings->use_zero_pages)) < 0)
                return r;
        return put(KSM_DIR "run", RUN_MERGE);
}

int ksm_stop(void)
{
        int r;

        r = put(KSM_DIR "run", RUN_UNMERGE);
        return r < 0 ? r : put(KSM_DIR "run", RUN_STOP);
}

int ksm_counters(struct ksm_counters *ret_counters)
{
        struct ksm_counters counters = {.zero_pages = 0};
        uint64_t unshared, others, rmap_items;
        int r;

        if ((r = measure_file_u64(KSM_DIR "pages_shared", &counters.pages_shared)) < 0 ||
            (r = measure_file_u64(KSM_DIR "pages_sharing", &counters.pages_sharing)) < 0 ||
            (r = measure_file_u64(KSM_DIR "pages_unshared", &unshared)) < 0 ||
            (r = measure_file_u64(KSM_DIR "pages_volatile", &others)) < 0 ||
            (r = measure_file_u64(KSM_DIR "full_scans", &counters.full_scans)) < 0)
                return r;
        r = measure_file_u64(KSM_DIR "ksm_zero_pages", &counters.zero_pages); /* newer kernels only */
        if (r < 0 && r != -ENOENT)
                return r;
        /* pages_volatile is how many more rmap_items there are than the other three name. */
        rmap_items = counters.pages_shared + counters.pages_sharing + unshared + others;
        counters.metadata_bytes = rmap_items * RMAP_ITEM_BYTES + counters.pages_shared * STABLE_NODE_BYTES;
        *ret_counters = counters;
        return 0;
}

int ksm_cpu(uint64_t *ret_ns)
{
        return measure_cpu(ksmd, ret_ns);
}
