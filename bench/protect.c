/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wpd-bench-protect: what write protection as a service costs, and whether it keeps its word
 *
 *   first     how long the first write of a page takes: not protected, watched, held and released by another thread
 *   hot       the same while many threads wait for one other page that is held: the size of that crowd should not matter
 *   race      ten million writes by eight threads to 100 000 watched pages, which one thread protects again as it is told
 *             of them: each first write is told of once, and none is lost
 *
 * Medians and 99th percentiles of one run each. Exit status 0: measured, 1: something was lost or told of twice, 2: usage, 3:
 * something could not be done.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "bench/measure.h"
#include "util/bits.h"
#include "util/clock.h"
#include "wp.h"

#define SAMPLES     4000
#define RACE_PAGES  100000U
#define RACE_WRITES UINT64_C(10000000)
#define WRITERS     8
#define LATER       512
#define TAKEN       (1U << 20)
#define GAP_NS      (50 * NSEC_PER_USEC) /* between two samples: the watcher may go to sleep or not, as it likes */
#define HOLD_LONG   (WP_HOLD | WP_BOUND_MS(8000))
#define STACK_BYTES ((size_t)64 << 10)

#define EXIT_WRONG  1
#define EXIT_USAGE  2
#define EXIT_BROKEN 3

static struct wp_client *client;

__attribute__((__noreturn__)) static void give_up(const char *what, int error)
{
        fprintf(stderr, "wpd-bench-protect: %s: %s: %s\n", what, strerror(-error),
                wp_strerror_detail(client));
        exit(EXIT_BROKEN);
}

static long must(const char *what, long result)
{
        if (result < 0)
                give_up(what, (int)result);
        return result;
}

/* ------------------------------------------------------------------ memory */

struct memory {
        char *pages;
        size_t n_pages;
        struct wp_region *region; /* NULL: not registered */
};

static void memory_make(struct memory *memory, size_t n_pages, bool registered)
{
        *memory = (struct memory){.n_pages = n_pages};
        memory->pages =
                mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory->pages == MAP_FAILED)
                give_up("mmap", -errno);
        madvise(memory->pages, n_pages * PAGE_BYTES, MADV_NOHUGEPAGE);
        memset(memory->pages, 1, n_pages * PAGE_BYTES);
        if (registered)
                must("wp_register",
                     wp_register(client, memory->pages, n_pages * PAGE_BYTES, 0, &memory->region));
}

static void memory_free(struct memory *memory)
{
        if (memory->region)
                must("wp_unregister", wp_unregister(memory->region));
        munmap(memory->pages, memory->n_pages * PAGE_BYTES);
}

static void protect(const struct memory *memory, size_t page, size_t n, uint64_t flags)
{
        must("wp_protect", wp_protect(memory->region, page * PAGE_BYTES, n * PAGE_BYTES, flags));
}

/* ------------------------------------------------------------------ one writer */

struct writer {
        const struct memory *memory;
        size_t first; /* page */
        uint32_t sample_ns[SAMPLES];
        _Atomic bool done;
};

static void *writer_main(void *argument)
{
        struct writer *writer = argument;

        for (size_t i = 0; i < SAMPLES; i++) {
                volatile char *byte = writer->memory->pages + (writer->first + i) * PAGE_BYTES;
                uint64_t start;

                nanosleep(&(struct timespec){.tv_nsec = (long)GAP_NS}, NULL);
                start = clock_now();
                *byte = 2;
                writer->sample_ns[i] = (uint32_t)MIN(clock_now() - start, (uint64_t)UINT32_MAX);
        }
        atomic_store(&writer->done, true);
        return NULL;
}

struct latency {
        double p50_us;
        double p99_us;
};

/* Takes events meanwhile, and releases what is held. */
static struct latency measure(const struct memory *memory, size_t first)
{
        static struct writer writer;
        struct pollfd polled = {.fd = wp_event_fd(client), .events = POLLIN};
        struct wp_event event;
        pthread_t thread;

        writer = (struct writer){.memory = memory, .first = first};
        must("pthread_create", -pthread_create(&thread, NULL, writer_main, &writer));
        while (!atomic_load(&writer.done)) {
                (void)!poll(&polled, 1, 10);
                while (must("wp_next_event", wp_next_event(client, &event)) > 0)
                        if (event.type == WP_EVENT_HELD)
                                must("wp_release",
                                     wp_release(event.region,
                                                page_down(event.address) - (uintptr_t)memory->pages,
                                                PAGE_BYTES));
        }
        pthread_join(thread, NULL);
        return (struct latency){.p50_us = measure_quantile(writer.sample_ns, SAMPLES, 500) / 1e3,
                                .p99_us = measure_quantile(writer.sample_ns, SAMPLES, 990) / 1e3};
}

static void print(const char *what, struct latency latency)
{
        printf("  %-46s %9.1f %9.1f\n", what, latency.p50_us, latency.p99_us);
}

static void run_first(void)
{
        static const struct {
                const char *what;
                uint64_t flags;
        } kinds[] = {{"not protected", 0},
                     {"watched", WP_WATCH},
                     {"held, and released by another thread", HOLD_LONG}};

        printf("first write of a page, us                              median      99 %%\n");
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct memory memory;

                memory_make(&memory, SAMPLES, kinds[i].flags);
                if (kinds[i].flags)
                        protect(&memory, 0, SAMPLES, kinds[i].flags);
                print(kinds[i].what, measure(&memory, 0));
                memory_free(&memory);
        }
}

/* ------------------------------------------------------------------ a hot page */

static volatile char *hot_page;

static void *wait_there(void *unused)
{
        *hot_page = 3;
        return unused;
}

static void await_crowd(void)
{
        struct pollfd polled = {.fd = wp_event_fd(client), .events = POLLIN};
        struct wp_event event;

        while (must("wp_next_event", wp_next_event(client, &event)) == 0)
                (void)!poll(&polled, 1, -1);
        if (event.type != WP_EVENT_HELD)
                give_up("the event of the hot page", -EPROTO);
        nanosleep(&(struct timespec){.tv_nsec = 300 * (long)NSEC_PER_MSEC},
                  NULL); /* until all of them are there */
}

static void disperse(const struct memory *hot, const pthread_t *threads, unsigned n_threads)
{
        must("wp_release", wp_release(hot->region, 0, PAGE_BYTES));
        for (unsigned i = 0; i < n_threads; i++)
                pthread_join(threads[i], NULL);
}

/* A page is known to be hot after its first crowd: the second is the one that is measured. */
static void run_hot_with(unsigned n_threads, uint64_t flags)
{
        pthread_t *threads = calloc(n_threads + 1, sizeof(*threads));
        char what[64];
        struct memory hot, others;
        struct latency latency;
        pthread_attr_t attributes;
        uint64_t start;

        if (!threads)
                give_up("memory", -ENOMEM);
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
        memory_make(&hot, 1, true);
        memory_make(&others, SAMPLES, true);
        protect(&others, 0, SAMPLES, flags);
        hot_page = hot.pages;
        for (unsigned round = 0; round < 2; round++) {
                protect(&hot, 0, 1, HOLD_LONG);
                for (unsigned i = 0; i < n_threads; i++)
                        must("pthread_create", -pthread_create(&threads[i], &attributes, wait_there, NULL));
                if (n_threads)
                        await_crowd();
                if (round == 0)
                        disperse(&hot, threads, n_threads);
        }
        latency = measure(&others, 0);
        start = clock_now();
        disperse(&hot, threads, n_threads);
        snprintf(what, sizeof(what), "%s, %u wait elsewhere (let go in %.1f ms)",
                 flags == WP_WATCH ? "watched" : "held", n_threads, (double)(clock_now() - start) / 1e6);
        print(what, latency);
        memory_free(&hot);
        memory_free(&others);
        pthread_attr_destroy(&attributes);
        free(threads);
}

static void run_hot(void)
{
        static const unsigned crowds[] = {0, 1, 16, 256, 1000};

        printf("first write of a page while others wait for a hot one    median      99 %%\n");
        for (size_t i = 0; i < ARRAY_SIZE(crowds); i++)
                run_hot_with(crowds[i], WP_WATCH);
        for (size_t i = 0; i < ARRAY_SIZE(crowds); i++)
                run_hot_with(crowds[i], HOLD_LONG);
}

/* ------------------------------------------------------------------ the race */

/*
 * A taker empties the library's queue as fast as it fills, into one of its own that is long enough; the protector works that off.
 * So nearly all writes are told of one by one.
 */
struct race {
        struct memory memory;
        _Atomic uint64_t n_writes;
        _Atomic bool over;
        _Atomic uint64_t n_taken;
        struct wp_event taken[TAKEN]; /* a ring */
        /* The protector's alone. */
        uint64_t n_noted;
        uint64_t n_told;
        uint64_t n_ranges;
        enum { UNTOLD, TOLD, TOLD_IN_RANGE } told[RACE_PAGES];
        char seen[RACE_PAGES];
        uint64_t n_twice;
        uint64_t n_later;
        size_t later[LATER]; /* pages that were told of, a ring */
};

static void *race_writer(void *argument)
{
        struct race *race = argument;
        uint64_t state = (uint64_t)gettid();

        while (atomic_fetch_add_explicit(&race->n_writes, 1, memory_order_relaxed) < RACE_WRITES) {
                state = state * UINT64_C(6364136223846793005) + 1442695040888963407;
                __atomic_fetch_add(&race->memory.pages[(size_t)(state >> 33) % RACE_PAGES * PAGE_BYTES], 1,
                                   __ATOMIC_RELAXED);
        }
        return NULL;
}

static void *race_taker(void *argument)
{
        struct pollfd polled = {.fd = wp_event_fd(client), .events = POLLIN};
        struct race *race = argument;
        uint64_t n = 0;

        while (!atomic_load(&race->over)) {
                (void)!poll(&polled, 1, 10);
                while (must("wp_next_event", wp_next_event(client, &race->taken[n % TAKEN])) > 0)
                        atomic_store(&race->n_taken, ++n);
        }
        return NULL;
}

static char first_byte(const struct race *race, size_t page)
{
        return __atomic_load_n(&race->memory.pages[page * PAGE_BYTES], __ATOMIC_SEQ_CST);
}

static void race_protect(struct race *race, size_t first, size_t n)
{
        for (size_t page = first; page < first + n; page++)
                race->told[page] = UNTOLD;
        protect(&race->memory, first, n, WP_WATCH);
        for (size_t page = first; page < first + n; page++)
                race->seen[page] = first_byte(race, page);
}

/* A page that was told of is protected again only after some others: an event that comes twice is seen. */
static void race_protect_later(struct race *race, size_t page)
{
        size_t oldest = race->later[race->n_later % LATER];

        race->later[race->n_later++ % LATER] = page;
        if (race->n_later > LATER)
                race_protect(race, oldest, 1);
}

/* A range stands for more than was written: a page in it may still have its first write before it. */
static void race_note(struct race *race, const struct wp_event *event, bool again)
{
        size_t first = (page_down(event->address) - (uintptr_t)race->memory.pages) / PAGE_BYTES;
        bool range = event->flags & WP_EVENT_F_FOLDED;
        size_t end = MIN(first + (range ? event->length / PAGE_BYTES : 1), (size_t)RACE_PAGES);

        if (event->type != WP_EVENT_WRITE)
                return;
        race->n_told += !range;
        race->n_ranges += range;
        for (size_t page = first; page < end; page++) {
                race->n_twice += !range && race->told[page] == TOLD;
                if (again && race->told[page] == UNTOLD)
                        race_protect_later(race, page);
                race->told[page] = range ? TOLD_IN_RANGE : TOLD;
        }
}

static void race_note_all(struct race *race, bool again)
{
        uint64_t n_taken = atomic_load(&race->n_taken);

        if (n_taken - race->n_noted > TAKEN)
                give_up("the ring of events", -ENOBUFS);
        for (; race->n_noted < n_taken; race->n_noted++)
                race_note(race, &race->taken[race->n_noted % TAKEN], again);
}

static void race_watch(struct race *race)
{
        while (atomic_load(&race->n_writes) < RACE_WRITES) {
                race_note_all(race, true);
                nanosleep(&(struct timespec){.tv_nsec = (long)GAP_NS}, NULL);
        }
}

static int run_race(void)
{
        struct race *race = calloc(1, sizeof(*race));
        uint64_t start = clock_now(), n_lost = 0;
        pthread_t threads[WRITERS], taker;

        if (!race)
                give_up("memory", -ENOMEM);
        memory_make(&race->memory, RACE_PAGES, true);
        race_protect(race, 0, RACE_PAGES);
        must("pthread_create", -pthread_create(&taker, NULL, race_taker, race));
        for (unsigned i = 0; i < WRITERS; i++)
                must("pthread_create", -pthread_create(&threads[i], NULL, race_writer, race));
        race_watch(race);
        for (unsigned i = 0; i < WRITERS; i++)
                pthread_join(threads[i], NULL);
        nanosleep(&(struct timespec){.tv_nsec = 50 * (long)NSEC_PER_MSEC}, NULL); /* for what was folded */
        atomic_store(&race->over, true);
        pthread_join(taker, NULL);
        race_note_all(race, false);
        for (size_t page = 0; page < RACE_PAGES; page++)
                n_lost += first_byte(race, page) != race->seen[page] && !race->told[page];
        printf("%llu writes to %u watched pages in %.1f s: %llu told of one by one, %llu in ranges; %llu twice, %llu lost\n",
               (unsigned long long)RACE_WRITES, RACE_PAGES, (double)(clock_now() - start) / 1e9,
               (unsigned long long)race->n_told, (unsigned long long)race->n_ranges,
               (unsigned long long)race->n_twice, (unsigned long long)n_lost);
        memory_free(&race->memory);
        n_lost += race->n_twice;
        free(race);
        return n_lost ? EXIT_WRONG : EXIT_SUCCESS;
}

/* ------------------------------------------------------------------ main */

int main(int argc, char **argv)
{
        const char *socket = NULL;

        for (int i = 1; i < argc; i++)
                if (!strncmp(argv[i], "--socket=", 9)) {
                        socket = argv[i] + 9;
                } else if (strncmp(argv[i], "--control=", 10)) { /* which is of no use here */
                        fprintf(stderr, "usage: wpd-bench-protect [--socket=PATH]\n");
                        return EXIT_USAGE;
                }
        must("wp_connect", wp_connect(socket, &client));
        run_first();
        run_hot();
        return run_race();
}
