/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Write-back: a copy of a file in memory, of which only what was changed is written back
 *
 * The copy is ordinary memory: the program changes it by stores, and nothing else keeps a list of what is dirty. wp_protect()
 * with WP_WATCH tells of the first write of each page, once; the page is protected again right before it is written
 * back, so that a write that comes meanwhile makes it dirty anew.
 *
 * Usage: writeback [SOCKET]
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wp.h>

#define PAGE    ((size_t)4096)
#define N_PAGES 1024

struct cache {
        int file;
        char *memory;
        struct wp_client *client;
        struct wp_region *region;
        size_t n_written; /* pages, ever */
};

static int cache_open(struct cache *cache, int file, const char *socket)
{
        *cache = (struct cache){.file = file};
        cache->memory =
                mmap(NULL, N_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (cache->memory == MAP_FAILED || pread(file, cache->memory, N_PAGES * PAGE, 0) < 0)
                return -errno;
        int r = wp_connect(socket, &cache->client);
        if (r >= 0)
                r = wp_register(cache->client, cache->memory, N_PAGES * PAGE, 0, &cache->region);
        return r < 0 ? r : wp_protect(cache->region, 0, N_PAGES * PAGE, WP_WATCH);
}

static int write_range(struct cache *cache, size_t offset, size_t length)
{
        int r = wp_protect(cache->region, offset, length, WP_WATCH); /* first: see above */

        if (r < 0)
                return r;
        cache->n_written += length / PAGE;
        return pwrite(cache->file, cache->memory + offset, length, (off_t)offset) == (ssize_t)length ? 0
                                                                                                     : -EIO;
}

/* Whatever is dirty now. Events name single pages, or ranges of them when there were many. */
static int cache_flush(struct cache *cache)
{
        struct wp_event event;
        int r;

        while ((r = wp_next_event(cache->client, &event)) > 0) {
                size_t offset = (event.address - (size_t)cache->memory) & ~(PAGE - 1);

                if (event.type ==
                    WP_EVENT_DISCONNECTED) /* nothing is protected any more: everything may be dirty */
                        return -ENOTCONN;
                if (event.type == WP_EVENT_WRITE && event.flags & WP_EVENT_F_FOLDED)
                        r = write_range(cache, offset, event.length);
                else if (event.type == WP_EVENT_WRITE)
                        r = write_range(cache, offset, PAGE);
                if (r < 0)
                        return r;
        }
        return r;
}

static bool file_is_memory(const struct cache *cache)
{
        static char content[N_PAGES * PAGE];

        return pread(cache->file, content, sizeof(content), 0) == (ssize_t)sizeof(content) &&
               !memcmp(content, cache->memory, sizeof(content));
}

static int show(struct cache *cache)
{
        int r = 0;

        for (int round = 0; round < 3 && r >= 0; round++) {
                for (size_t i = 0; i < 10; i++) /* ten pages, one of them twice */
                        cache->memory[(i * 37 + (size_t)round) % N_PAGES * PAGE + i] = (char)('a' + i);
                cache->memory[(size_t)round * PAGE + 7]++;
                r = cache_flush(cache);
                printf("round %d: %zu pages of %d written back so far; the file %s\n", round,
                       cache->n_written, N_PAGES, file_is_memory(cache) ? "is what memory is" : "differs");
        }
        return r < 0 ? r : cache->n_written == 30 && file_is_memory(cache) ? 0 : -EILSEQ;
}

int main(int argc, char **argv)
{
        int file = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
        struct cache cache = {.client = NULL};
        int r = file < 0 || ftruncate(file, N_PAGES * PAGE) < 0
                        ? -errno
                        : cache_open(&cache, file, argc > 1 ? argv[1] : NULL);

        if (r >= 0)
                r = show(&cache);
        if (r < 0)
                fprintf(stderr, "writeback: %s: %s\n", strerror(-r), wp_strerror_detail(cache.client));
        wp_disconnect(cache.client);
        return r < 0;
}
