/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Replica: a copy of a data structure for somebody who only reads it, which collapses before the original changes
 *
 * Another process - or a device - has a copy close to it and reads that, without asking anybody. The original is held
 * (WP_HOLD): its first writer waits until the replica is marked as invalid and nobody reads it any more; then he is let go, and readers
 * use the original, through memory that both processes share, until a new replica is made.
 *
 * Usage: replica [SOCKET]
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wp.h>

#define WORDS  ((size_t)8192)
#define ROUNDS 200

/* Every word of a table is its version: one that is torn between two versions is seen at once. */
struct table {
        long words[WORDS];
};

/* What the two processes share. */
struct shared {
        struct table original;
        struct table replica;
        _Alignas(4096) _Atomic bool valid; /* the replica is */
        _Atomic unsigned n_reading;        /* it */
        _Atomic bool stop;
        _Atomic unsigned long n_replica; /* reads */
        _Atomic unsigned long n_torn;
};

static struct shared *shared;

/* The other process. It counts itself in before it looks whether it may read: so who invalidates knows when it is out. */
static void read_all_the_time(void)
{
        while (!atomic_load(&shared->stop)) {
                atomic_fetch_add(&shared->n_reading, 1);
                if (atomic_load(&shared->valid)) {
                        const volatile long *words = shared->replica.words;

                        for (size_t i = 1; i < WORDS; i++)
                                if (words[i] != words[0])
                                        atomic_fetch_add(&shared->n_torn, 1);
                        atomic_fetch_add(&shared->n_replica, 1);
                }
                atomic_fetch_sub(&shared->n_reading, 1);
        }
}

static int make_replica(struct wp_region *region)
{
        int r = wp_protect(region, 0, sizeof(struct table), WP_HOLD);

        if (r < 0)
                return r;
        memcpy(&shared->replica, &shared->original, sizeof(struct table)); /* it cannot change meanwhile */
        atomic_store(&shared->valid, true);
        return 0;
}

/* Somebody is about to write. */
static int collapse(struct wp_client *client, struct wp_region *region)
{
        struct pollfd polled = {.fd = wp_event_fd(client), .events = POLLIN};
        struct wp_event event;
        int r;

        while ((r = wp_next_event(client, &event)) == 0)
                (void)!poll(&polled, 1, -1);
        if (r < 0 || event.type != WP_EVENT_HELD)
                return r < 0 ? r : -EPROTO;
        atomic_store(&shared->valid, false);
        while (atomic_load(&shared->n_reading))
                ;
        return wp_release(region, 0, sizeof(struct table));
}

static void *write_once(void *version)
{
        for (size_t i = 0; i < WORDS; i++)
                *(volatile long *)&shared->original.words[i] = (long)(size_t)version;
        return NULL;
}

static int show(struct wp_client *client, struct wp_region *region)
{
        int r = 0;

        for (size_t round = 1; round <= ROUNDS && r >= 0; round++) {
                pthread_t writer;

                r = make_replica(region);
                if (r >= 0)
                        r = -pthread_create(&writer, NULL, write_once, (void *)round);
                if (r < 0)
                        break;
                r = collapse(client, region);
                pthread_join(writer, NULL);
        }
        return r;
}

static int report(void)
{
        printf("%d replicas were made and collapsed; they were read %lu times, %lu words of them wrong\n",
               ROUNDS, atomic_load(&shared->n_replica), atomic_load(&shared->n_torn));
        return atomic_load(&shared->n_torn) || shared->original.words[0] != ROUNDS ? -EILSEQ : 0;
}

int main(int argc, char **argv)
{
        struct wp_client *client = NULL;
        struct wp_region *region;
        pid_t reader;
        int r;

        shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (shared == MAP_FAILED)
                return 1;
        reader = fork();
        if (!reader) {
                read_all_the_time();
                _exit(0);
        }
        r = reader < 0 ? -errno : wp_connect(argc > 1 ? argv[1] : NULL, &client);
        if (r >= 0)
                r = wp_register(client, &shared->original, sizeof(struct table), 0, &region);
        if (r >= 0)
                r = show(client, region);
        if (r < 0)
                fprintf(stderr, "replica: %s: %s\n", strerror(-r), wp_strerror_detail(client));
        atomic_store(&shared->stop, true);
        waitpid(reader, NULL, 0);
        if (r >= 0)
                r = report();
        wp_disconnect(client);
        return r < 0;
}
