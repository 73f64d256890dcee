/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Snapshot: a running program's memory, as it was at one moment, in a file, while the program goes on changing it
 *
 * The moment is that of wp_protect() with WP_HOLD. From then on whoever writes to a page waits, for the microseconds that it
 * takes to save that page; pages that nobody writes to are saved one after the other, in peace. So the program stands still
 * nowhere for longer than for one page, and needs no second copy of its memory, as it would with fork(2).
 *
 * Usage: snapshot [SOCKET]
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wp.h>

#define PAGE    ((size_t)4096)
#define N_PAGES 4096

/* The heap of a program that moves money between accounts: their sum never changes, at any moment. */
struct heap {
        long accounts[N_PAGES][PAGE / sizeof(long)];
};

static struct heap *heap;
static pthread_mutex_t transfer = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool stop;
static _Atomic unsigned long n_transfers;

static void *program(void *unused)
{
        for (unsigned i = 1; !atomic_load(&stop); i = i * 1103515245 + 12345) {
                pthread_mutex_lock(&transfer);
                heap->accounts[(i >> 8) % N_PAGES][i % 512] -= 7;
                heap->accounts[(i >> 16) % N_PAGES][i % 511] += 7;
                pthread_mutex_unlock(&transfer);
                atomic_fetch_add(&n_transfers, 1);
        }
        return unused;
}

struct snapshot {
        struct wp_client *client;
        struct wp_region *region;
        int file;
        bool saved[N_PAGES];
        unsigned n_first; /* pages that a writer waited for */
};

static int save(struct snapshot *snapshot, size_t page)
{
        if (snapshot->saved[page])
                return 0;
        snapshot->saved[page] = true;
        if (pwrite(snapshot->file, heap->accounts[page], PAGE, (off_t)(page * PAGE)) != (ssize_t)PAGE)
                return -EIO;
        return wp_release(snapshot->region, page * PAGE, PAGE);
}

/* Those for which somebody waits come first. */
static int save_held(struct snapshot *snapshot)
{
        struct wp_event event;
        int r;

        while ((r = wp_next_event(snapshot->client, &event)) > 0) {
                if (event.type == WP_EVENT_HELD) {
                        snapshot->n_first++;
                        r = save(snapshot, (event.address - (size_t)heap) / PAGE);
                } else if (event.type == WP_EVENT_BROKEN || event.type == WP_EVENT_DISCONNECTED ||
                           event.type == WP_EVENT_OVERRUN) {
                        r = -ETIMEDOUT; /* somebody wrote before his page was saved: no snapshot of that moment */
                }
                if (r < 0)
                        return r;
        }
        return r;
}

/* Between two transfers, so that the sum is right; nothing else has to stop. */
static int take(struct snapshot *snapshot)
{
        int r;

        pthread_mutex_lock(&transfer);
        r = wp_protect(snapshot->region, 0, sizeof(*heap), WP_HOLD | WP_BOUND_MS(8000));
        pthread_mutex_unlock(&transfer);
        for (size_t page = 0; page < N_PAGES && r >= 0; page++) {
                r = save_held(snapshot);
                if (r >= 0)
                        r = save(snapshot, page);
        }
        return r;
}

static long sum_of(const struct heap *what)
{
        long sum = 0;

        for (size_t page = 0; page < N_PAGES; page++)
                for (size_t i = 0; i < PAGE / sizeof(long); i++)
                        sum += what->accounts[page][i];
        return sum;
}

static int check(const struct snapshot *snapshot)
{
        struct heap *copy = mmap(NULL, sizeof(*copy), PROT_READ, MAP_PRIVATE, snapshot->file, 0);
        long sum;

        if (copy == MAP_FAILED)
                return -errno;
        sum = sum_of(copy);
        printf("%d pages saved, %u of them because somebody was about to write; the accounts of that moment add up to %ld\n",
               N_PAGES, snapshot->n_first, sum);
        munmap(copy, sizeof(*copy));
        return sum ? -EILSEQ : 0;
}

static int show(struct snapshot *snapshot)
{
        pthread_t thread;
        int r = -pthread_create(&thread, NULL, program, NULL);

        if (r < 0)
                return r;
        r = take(snapshot);
        if (r < 0) /* nobody is to wait */
                wp_release(snapshot->region, 0, sizeof(*heap));
        printf("%lu transfers meanwhile\n", atomic_load(&n_transfers));
        atomic_store(&stop, true);
        pthread_join(thread, NULL);
        return r < 0 ? r : check(snapshot);
}

int main(int argc, char **argv)
{
        struct snapshot snapshot = {.file = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600)};
        int r = snapshot.file < 0 || ftruncate(snapshot.file, sizeof(*heap)) < 0 ? -errno : 0;

        heap = mmap(NULL, sizeof(*heap), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (r >= 0)
                r = heap == MAP_FAILED ? -ENOMEM : wp_connect(argc > 1 ? argv[1] : NULL, &snapshot.client);
        if (r >= 0)
                r = wp_register(snapshot.client, heap, sizeof(*heap), 0, &snapshot.region);
        if (r >= 0)
                r = show(&snapshot);
        if (r < 0)
                fprintf(stderr, "snapshot: %s: %s\n", strerror(-r), wp_strerror_detail(snapshot.client));
        wp_disconnect(snapshot.client);
        return r < 0;
}
