/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wpd-bench-load: two processes with the same 256 MiB each, for bench/system.sh to measure other programs beside
 *
 *   wpd-bench-load [--socket=PATH] [--rewrite=PERCENT]
 *
 * With a socket the memory is registered, and a line on standard output says when nearly all of it is merged; without, the line comes
 * at once. Then so many percent of the pages are written anew each second, in both processes alike, and discarded before, so that
 * they can be merged again. Ends with its parent.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"
#include "wp.h"

#define PROCESSES  2
#define PAGES      ((size_t)65536)
#define SLICES     50 /* of a second */
#define READY_PART 95 /* percent */

struct load {
        const char *socket;
        unsigned rewrite_percent;
        char *pages;
        struct wp_client *client;
        struct wp_region *region;
};

/* Content that no other page has, and that is the same in both processes. */
static void fill_page(const struct load *load, size_t page, uint64_t version)
{
        uint64_t *words = (uint64_t *)(void *)(load->pages + page * PAGE_BYTES);

        for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
                words[i] = (page + 1) * UINT64_C(0x9e3779b97f4a7c15) + version + i;
}

static int begin(struct load *load)
{
        int r = 0;

        load->pages =
                mmap(NULL, PAGES * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (load->pages == MAP_FAILED)
                return -errno;
        for (size_t page = 0; page < PAGES; page++)
                fill_page(load, page, 0);
        if (load->socket)
                r = wp_connect(load->socket, &load->client);
        if (r >= 0 && load->socket)
                r = wp_register(load->client, load->pages, PAGES * PAGE_BYTES, WP_MERGE, &load->region);
        return r;
}

static int await_merged(const struct load *load)
{
        struct wp_region_stat stat;
        int r;

        do {
                nanosleep(&(struct timespec){.tv_nsec = 100 * (long)NSEC_PER_MSEC}, NULL);
                r = wp_region_stat(load->region, &stat);
        } while (r >= 0 && stat.pages_merged * 100 < PAGES * READY_PART);
        return r;
}

/* A page that was merged is merged again only if it is a fresh one: its place is excluded, mapped anew and included. */
static void rewrite(const struct load *load, size_t first, size_t n, uint64_t version)
{
        char *start = load->pages + first * PAGE_BYTES;

        if (load->region && wp_exclude(load->region, first * PAGE_BYTES, n * PAGE_BYTES) < 0)
                return;
        if (mmap(start, n * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) != start)
                _exit(EXIT_FAILURE);
        for (size_t page = first; page < first + n; page++)
                fill_page(load, page, version);
        if (load->region)
                (void)!wp_include(load->region, first * PAGE_BYTES, n * PAGE_BYTES);
}

static void work(const struct load *load)
{
        size_t slice = PAGES * load->rewrite_percent / 100 / SLICES, at = 0;

        for (uint64_t version = 1;; version += at == 0) {
                nanosleep(&(struct timespec){.tv_nsec = (long)(NSEC_PER_SEC / SLICES)}, NULL);
                if (!slice)
                        continue;
                rewrite(load, at, MIN(slice, PAGES - at), version);
                at = at + slice >= PAGES ? 0 : at + slice;
        }
}

__attribute__((__noreturn__)) static void run(struct load *load, pid_t parent, int ready_fd)
{
        int r;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
                _exit(EXIT_FAILURE);
        r = begin(load);
        if (r >= 0 && load->region)
                r = await_merged(load);
        if (r < 0) {
                fprintf(stderr, "wpd-bench-load: %s: %s\n", strerror(-r), wp_strerror_detail(load->client));
                _exit(EXIT_FAILURE);
        }
        if (write(ready_fd, "", 1) == 1)
                work(load);
        _exit(EXIT_FAILURE);
}

static int parse(struct load *load, int argc, char **argv)
{
        for (int i = 1; i < argc; i++)
                if (!strncmp(argv[i], "--socket=", 9))
                        load->socket = argv[i] + 9;
                else if (!strncmp(argv[i], "--rewrite=", 10))
                        load->rewrite_percent = (unsigned)atoi(argv[i] + 10);
                else
                        return -EINVAL;
        return load->rewrite_percent <= 100 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
        struct load load = {.socket = NULL};
        pid_t parent = getpid();
        int ready[2];
        char byte;

        if (parse(&load, argc, argv) < 0) {
                fprintf(stderr, "usage: wpd-bench-load [--socket=PATH] [--rewrite=PERCENT]\n");
                return 2;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (pipe(ready) < 0)
                return EXIT_FAILURE;
        for (unsigned i = 0; i < PROCESSES; i++)
                if (fork() == 0)
                        run(&load, parent, ready[1]);
        close(ready[1]);
        for (unsigned i = 0; i < PROCESSES; i++)
                if (read(ready[0], &byte, 1) != 1)
                        return EXIT_FAILURE;
        puts("ready");
        fflush(stdout);
        while (wait(NULL) > 0)
                ;
        return EXIT_FAILURE;
}
