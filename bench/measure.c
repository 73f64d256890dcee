/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/measure.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"

int measure_parse_kb(const char *text, const char *name, uint64_t *ret_kb)
{
        size_t length = strlen(name);
        char *end;
        unsigned long long value;

        for (const char *line = text; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, name, length) || line[length] != ':')
                        continue;
                value = strtoull(line + length + 1, &end, 10);
                if (end == line + length + 1 || strncmp(end, " kB", 3))
                        return -EINVAL;
                *ret_kb = value;
                return 0;
        }
        return -ENOENT;
}

int measure_file_text(const char *path, char *text, size_t size)
{
        _cleanup_fd_ int fd = (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
        size_t used = 0;
        ssize_t n;

        if (fd < 0)
                return fd;
        while (used < size - 1) {
                n = error_from(read(fd, text + used, size - 1 - used));
                if (n < 0)
                        return (int)n;
                if (!n)
                        break;
                used += (size_t)n;
        }
        text[used] = 0;
        return 0;
}

static int file_kb(const char *path, const char *name, uint64_t *ret_bytes)
{
        char text[4096];
        uint64_t kb;
        int r;

        r = measure_file_text(path, text, sizeof(text));
        if (r < 0)
                return r;
        r = measure_parse_kb(text, name, &kb);
        if (r < 0)
                return r;
        *ret_bytes = kb << 10;
        return 0;
}

int measure_pss(pid_t pid, uint64_t *ret_bytes)
{
        char path[64];

        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
        return file_kb(path, "Pss", ret_bytes);
}

int measure_available(uint64_t *ret_bytes)
{
        return file_kb("/proc/meminfo", "MemAvailable", ret_bytes);
}

/* cgroups(7): version 1 has a line for the controller, version 2 one without any. */
int measure_charged(uint64_t *ret_bytes)
{
        static const struct {
                const char *controller;
                const char *mount;
                const char *file;
        } versions[] = {{":memory:", "/sys/fs/cgroup/memory", "memory.usage_in_bytes"},
                        {"0::", "/sys/fs/cgroup", "memory.current"}};
        char text[4096], path[PATH_MAX], *group;
        int r = measure_file_text("/proc/self/cgroup", text, sizeof(text));

        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
                group = strstr(text, versions[i].controller);
                if (!group)
                        continue;
                group += strlen(versions[i].controller);
                snprintf(path, sizeof(path), "%s%.*s/%s", versions[i].mount, (int)strcspn(group, "\n"), group,
                         versions[i].file);
                return measure_file_u64(path, ret_bytes);
        }
        return -ENOENT;
}

int measure_cpu(pid_t pid, uint64_t *ret_ns)
{
        struct timespec ts;
        clockid_t clock;
        int r;

        r = clock_getcpuclockid(pid, &clock); /* returns a positive errno */
        if (r)
                return -r;
        r = (int)error_from(clock_gettime(clock, &ts));
        if (r < 0)
                return r;
        *ret_ns = (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
        return 0;
}

int measure_file_u64(const char *path, uint64_t *ret_value)
{
        char text[64], *end;
        unsigned long long value;
        int r;

        r = measure_file_text(path, text, sizeof(text));
        if (r < 0)
                return r;
        value = strtoull(text, &end, 10);
        if (end == text || (*end && *end != '\n'))
                return -EINVAL;
        *ret_value = value;
        return 0;
}

static void closedirp(DIR **dir)
{
        if (*dir)
                closedir(*dir);
}

int measure_find_kthread(const char *name, pid_t *ret_pid)
{
        _cleanup_(closedirp) DIR *proc = opendir("/proc");
        char path[64], text[64];

        if (!proc)
                return -ENOENT;
        for (struct dirent *entry; (entry = readdir(proc));) {
                pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);

                if (pid <= 0)
                        continue;
                snprintf(path, sizeof(path), "/proc/%d/comm", pid);
                if (measure_file_text(path, text, sizeof(text)) < 0)
                        continue;
                text[strcspn(text, "\n")] = 0;
                if (strcmp(text, name))
                        continue;
                /* A kernel thread has no command line; a program that took the name has one. */
                snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
                if (measure_file_text(path, text, sizeof(text)) < 0 || text[0])
                        continue;
                *ret_pid = pid;
                return 0;
        }
        return -ENOENT;
}

static int compare_double(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

static int compare_u32(const void *a, const void *b)
{
        uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

        return (x > y) - (x < y);
}

double measure_median(double *values, size_t n)
{
        qsort(values, n, sizeof(*values), compare_double);
        return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

uint32_t measure_quantile(uint32_t *samples, size_t n, unsigned permille)
{
        size_t rank = (n * permille + 999) / 1000;

        qsort(samples, n, sizeof(*samples), compare_u32);
        return samples[rank ? MIN(rank, n) - 1 : 0];
}
