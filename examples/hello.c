/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Hello, wpd: two buffers with equal content become one, and a write makes them two again
 *
 * Usage: hello [SOCKET]. It needs a running wpd and, unless it runs as root, membership of the group wpd.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <wp.h>

#define BUFFER_BYTES ((size_t)1 << 20)
#define WAIT_MILLIS  50
#define WAIT_ROUNDS  600

/*
 * Memory from mmap(), for two reasons: what is registered must be whole pages of private anonymous memory, and it
 * must not be unmapped or moved while it is, which free() and realloc() may do with memory from malloc().
 */
static char *map_buffer(void)
{
        char *buffer = mmap(NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (buffer == MAP_FAILED)
                return NULL;
        for (size_t i = 0; i < BUFFER_BYTES; i++)
                buffer[i] = (char)(i / 4096 + i % 251); /* no page of zeros, and no two pages alike */
        return buffer;
}

/*
 * Merging takes its time: wpd reads a page only after nobody has written to it for a while. A program has no need
 * to wait; this one does, because it wants to show something.
 */
static int wait_until_merged(struct wp_region *region)
{
        struct wp_region_stat stat;
        int r;

        for (int i = 0; i < WAIT_ROUNDS; i++) {
                r = wp_region_stat(region, &stat);
                if (r < 0)
                        return r;
                if (stat.pages_merged == stat.pages)
                        return 0;
                nanosleep(&(struct timespec){.tv_nsec = WAIT_MILLIS * 1000000L}, NULL);
        }
        return -ETIMEDOUT;
}

/* The descriptor goes into any event loop; here it is polled. One that is readable may still have no event. */
static int wait_for_event(struct wp_client *client, struct wp_event *ret_event)
{
        struct pollfd pollfd = {.fd = wp_event_fd(client), .events = POLLIN};
        int r;

        while ((r = wp_next_event(client, ret_event)) == 0)
                if (poll(&pollfd, 1, WAIT_ROUNDS * WAIT_MILLIS) == 0)
                        return -ETIMEDOUT;
        return r < 0 ? r : 0;
}

static int write_and_watch(struct wp_client *client, char *ours, const char *twin)
{
        struct wp_event event;
        char before = twin[12345];
        int r;

        ours[12345] = '!'; /* an ordinary store: it waits some microseconds for its own copy of the page */
        r = wait_for_event(client, &event);
        if (r < 0)
                return r;
        if (event.type != WP_EVENT_WRITE)
                return -EPROTO; /* another type: the daemon went away, for instance */
        printf("event: thread %d wrote at byte %td of the first buffer; its page is private again\n",
               event.tid, (const char *)(uintptr_t)event.address - ours);
        printf("the second buffer %s\n", twin[12345] == before ? "still reads as before" : "changed: a bug");
        return twin[12345] == before ? 0 : -EILSEQ;
}

static int show(struct wp_client *client, char *first, char *second)
{
        struct wp_region *regions[2];
        int r;

        r = wp_register(client, first, BUFFER_BYTES, WP_MERGE | WP_NOTIFY, &regions[0]);
        if (r >= 0)
                r = wp_register(client, second, BUFFER_BYTES, WP_MERGE, &regions[1]);
        if (r >= 0)
                r = wait_until_merged(regions[0]);
        if (r >= 0)
                r = wait_until_merged(regions[1]);
        if (r < 0)
                return r;
        printf("two buffers of %zu KiB share their pages\n", BUFFER_BYTES >> 10);
        return write_and_watch(client, first, second);
}

int main(int argc, char **argv)
{
        char *first = map_buffer(), *second = map_buffer();
        struct wp_client *client;
        int r;

        if (!first || !second) {
                fprintf(stderr, "hello: out of memory\n");
                return 1;
        }
        r = wp_connect(argc > 1 ? argv[1] : NULL, &client);
        if (r < 0) { /* a real program goes on: it has its memory, only not merged */
                fprintf(stderr, "hello: %s: %s\n", strerror(-r), wp_strerror_detail(NULL));
                return 1;
        }
        r = show(client, first, second);
        if (r < 0)
                fprintf(stderr, "hello: %s: %s\n", strerror(-r), wp_strerror_detail(client));
        wp_disconnect(
                client); /* gives everything back for which memory suffices; only now may it be unmapped */
        munmap(first, BUFFER_BYTES);
        munmap(second, BUFFER_BYTES);
        return r < 0;
}
