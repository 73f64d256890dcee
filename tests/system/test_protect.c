/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wp_protect() and wp_release(): first writes are told of, once; writers wait, and not for ever; and nothing else changes. */

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES  512
#define OFFSET   77 /* in its page, of the byte that is written */
#define NOTIFIED (WP_MERGE | WP_NOTIFY)
#define WRITERS  8
#define ROUNDS   20000
#define EVENTS   5000 /* at least, in these */

static size_t at(long page)
{
        return (size_t)page * PAGE_BYTES + OFFSET;
}

/* ------------------------------------------------------------------ the client's side */

/* a: first page, b: pages, c: flags. Of area 0. */
static long protect(struct program *program, long a, long b, long c)
{
        return wp_protect(program->areas[0].region, (size_t)a * PAGE_BYTES, (size_t)b * PAGE_BYTES,
                          (uint64_t)c);
}

static long release(struct program *program, long a, long b, long c)
{
        return wp_release(program->areas[0].region, (size_t)a * PAGE_BYTES, (size_t)b * PAGE_BYTES);
}

/* Each page from a to b is written twice, and there is one event for each: exact, and by this thread. */
static long write_watched(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[0];
        struct wp_event event;

        for (long page = a; page < b; page++) {
                program_store(program, 0, (long)at(page), 0);
                CHECK(wp_next_event(program->wp, &event) == 1, "the first write of page %ld is no event",
                      page);
                CHECK(event.type == WP_EVENT_WRITE && event.address == (uintptr_t)area->memory + at(page) &&
                              event.length == PAGE_BYTES - OFFSET && event.tid == gettid() &&
                              event.region == area->region && !event.flags,
                      "event %u at %#llx of thread %d", event.type, (unsigned long long)event.address,
                      event.tid);
                program_store(program, 0, (long)at(page), 0);
                CHECK(wp_next_event(program->wp, &event) == 0, "the second write is an event");
        }
        return 0;
}

/* Nothing is told of these. That the daemon ended may be, a moment later than writers go on. */
static long write_unwatched(struct program *program, long a, long b, long c)
{
        struct wp_event event;

        for (long page = a; page < b; page++)
                program_store(program, 0, (long)at(page), 0);
        while (wp_next_event(program->wp, &event) > 0)
                CHECK(event.type == WP_EVENT_DISCONNECTED, "event %u where nothing is protected", event.type);
        return 0;
}

/* A thread that writes one byte by itself, or lets read(2) do it. */
struct writer {
        struct area *area;
        long page;
        bool by_read;
        int ends[2];
        char value;
        _Atomic bool done;
        pthread_t thread;
};

static void *writer_main(void *argument)
{
        struct writer *writer = argument;
        char *address = writer->area->memory + at(writer->page);

        if (writer->by_read)
                CHECK(read(writer->ends[0], address, 1) == 1, "%m");
        else
                *(volatile char *)address = writer->value;
        atomic_store(&writer->done, true);
        return NULL;
}

static void writer_start(struct writer *writer, struct area *area, long page, bool by_read)
{
        *writer = (struct writer){.area = area, .page = page, .by_read = by_read};
        writer->value = program_next_byte(area, at(page));
        CHECK(!pipe(writer->ends) && write(writer->ends[1], &writer->value, 1) == 1, "%m");
        CHECK_OK(-pthread_create(&writer->thread, NULL, writer_main, writer));
}

static void writer_join(struct writer *writer)
{
        CHECK_OK(-pthread_join(writer->thread, NULL));
        close(writer->ends[0]);
        close(writer->ends[1]);
}

static void await_held(struct program *program, const struct area *area, long page)
{
        CHECK_OK(program_await_event(program, WP_EVENT_HELD, 0, 0));
        CHECK(program->event.address == (uintptr_t)area->memory + at(page),
              "held at %#llx, and not on page %ld", (unsigned long long)program->event.address, page);
}

/* Writers wait, by turns in user mode and in the kernel, and are let go in another order than they came. */
static long hold_writers(struct program *program, long a, long b, long c)
{
        static const unsigned order[] = {2, 0, 3, 1};
        struct area *area = &program->areas[0];
        struct writer writers[ARRAY_SIZE(order)];

        CHECK_OK(protect(program, 0, 100, (long)(WP_HOLD | WP_BOUND_MS(8000))));
        for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
                writer_start(&writers[i], area, a + 10 * i, i % 2);
                await_held(program, area, a + 10 * i);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
                struct writer *writer = &writers[order[i]];

                CHECK(!atomic_load(&writer->done), "a writer did not wait");
                CHECK((area->memory[at(writer->page)] ^ writer->value) & 0xff, "a held page was written");
                CHECK_OK(release(program, writer->page, 1, 0));
                writer_join(writer);
        }
        CHECK_OK(release(program, 0, 100, 0));
        program_check_area(area, "after held writes");
        return 0;
}

/* Pages that were discarded before: the first write of each is told of, or waits, as of any other. */
static long protect_discarded(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[0];
        struct writer writer;

        CHECK_OK(program_discard(program, 0, 40, 20));
        CHECK_OK(protect(program, 40, 20, WP_WATCH));
        CHECK_OK(write_watched(program, 40, 60, 0));
        CHECK_OK(release(program, 40, 20, 0));
        CHECK_OK(program_discard(program, 0, 60, 20));
        CHECK_OK(protect(program, 60, 20, (long)(WP_HOLD | WP_BOUND_MS(8000))));
        for (long page = 60; page < 80; page += 7) {
                writer_start(&writer, area, page, page % 2);
                await_held(program, area, page);
                CHECK(!atomic_load(&writer.done) && area->memory[at(page)] == 0,
                      "page %ld was written although it is held: %d", page, area->memory[at(page)]);
                CHECK_OK(release(program, page, 1, 0));
                writer_join(&writer);
        }
        CHECK_OK(release(program, 60, 20, 0));
        program_check_area(area, "after writes to discarded pages");
        return 0;
}

/* Many wait for one page: they are one event, and let go by one call. Another page is written meanwhile. */
static long hold_many(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[0];
        struct writer *writers = calloc((size_t)b, sizeof(*writers));
        struct wp_event event;

        CHECK(writers, "out of memory");
        CHECK_OK(protect(program, 0, 1, (long)(WP_HOLD | WP_BOUND_MS(8000))));
        CHECK_OK(protect(program, 1, 1, WP_WATCH));
        for (long i = 0; i < b; i++)
                writer_start(&writers[i], area, 0, false);
        await_held(program, area, 0);
        CHECK_OK(write_watched(program, 1, 2, 0));
        CHECK_OK(release(program, 0, 1, 0));
        for (long i = 0; i < b; i++)
                writer_join(&writers[i]);
        program_store(program, 0, (long)at(0), 0); /* whoever was last before */
        CHECK(wp_next_event(program->wp, &event) == 0, "one page of waiting writers is more than one event");
        free(writers);
        return 0;
}

/* Nobody releases them. */
static long hold_bounded(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[0];
        struct writer writer;

        CHECK_OK(protect(program, 0, 10, (long)(WP_HOLD | WP_BOUND_MS(20))));
        writer_start(&writer, area, 5, a);
        await_held(program, area, 5);
        CHECK_OK(program_await_event(program, WP_EVENT_BROKEN, 0, 0));
        CHECK(program->event.address == (uintptr_t)area->memory + 5 * PAGE_BYTES &&
                      program->event.length == PAGE_BYTES,
              "another page was broken");
        writer_join(&writer);
        CHECK_OK(write_unwatched(program, 5, 6, 0));
        program_check_area(area, "after a bound was reached");
        CHECK_OK(release(program, 0, 10, 0));
        return 0;
}

static struct writer left_waiting;

static long begin_hold(struct program *program, long a, long b, long c)
{
        CHECK_OK(protect(program, 0, N_PAGES, (long)(WP_HOLD | WP_BOUND_MS(8000))));
        writer_start(&left_waiting, &program->areas[0], 7, a);
        await_held(program, &program->areas[0], 7);
        return 0;
}

static long end_hold(struct program *program, long a, long b, long c)
{
        writer_join(&left_waiting);
        program_drain_events(program, 0, 0, 0);
        return write_unwatched(program, 0, N_PAGES, 0);
}

/* Bad calls, and their errors. */
static long misuse(struct program *program, long a, long b, long c)
{
        struct wp_region *region = program->areas[0].region;

        CHECK_ERROR(wp_protect(region, 0, PAGE_BYTES, 0), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, PAGE_BYTES, WP_WATCH | WP_HOLD), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, PAGE_BYTES, WP_WATCH | WP_BOUND_MS(1)), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, PAGE_BYTES, WP_HOLD | WP_BOUND_MS(8192)), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, PAGE_BYTES, UINT64_C(1) << 20), EINVAL);
        CHECK_ERROR(wp_protect(region, 1, PAGE_BYTES, WP_WATCH), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, 0, WP_WATCH), EINVAL);
        CHECK_ERROR(wp_protect(region, 0, (N_PAGES + 1) * PAGE_BYTES, WP_WATCH), EINVAL);
        CHECK_ERROR(wp_protect(NULL, 0, PAGE_BYTES, WP_WATCH), EINVAL);
        CHECK_ERROR(wp_release(region, 1, PAGE_BYTES), EINVAL);
        CHECK_OK(wp_release(region, 0, PAGE_BYTES));
        CHECK_OK(protect(program, 3, 2, WP_WATCH));
        CHECK_ERROR(wp_exclude(region, 0, 4 * PAGE_BYTES), EBUSY);
        CHECK_ERROR(wp_include(region, 4 * PAGE_BYTES, PAGE_BYTES), EBUSY);
        CHECK_OK(release(program, 0, 10, 0));
        CHECK_OK(wp_exclude(region, 0, 4 * PAGE_BYTES));
        CHECK_OK(wp_include(region, 0, 4 * PAGE_BYTES));
        return 0;
}

/* Against the contract: what is left works. */
static long unmap_protected(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[0];

        CHECK_OK(protect(program, 0, 20, WP_WATCH));
        CHECK(!munmap(area->memory + 5 * PAGE_BYTES, 5 * PAGE_BYTES), "%m");
        CHECK_OK(protect(program, 0, 20, WP_WATCH));
        for (long page = 0; page < 20; page++)
                if (page < 5 || page >= 10)
                        program_store(program, 0, (long)at(page), 0);
        CHECK(program_drain_events(program, 0, 0, 0) == 15, "another number of events than of pages");
        CHECK_OK(protect(program, 0, 20, WP_WATCH));
        CHECK_OK(release(program, 0, 20, 0));
        for (long page = 0; page < 20; page++)
                if (page < 5 || page >= 10)
                        program_store(program, 0, (long)at(page), 0);
        CHECK(program_drain_events(program, 0, 0, 0) == 0, "something is still protected");
        return 0;
}

/* ------------------------------------------------------------------ writers against a protector */

struct race_state {
        struct program *program;
        _Atomic bool stop;
        uint64_t n_told;
        /* Of each page, by the protector alone: the byte after it was protected, and whether its write was told. */
        char seen[N_PAGES];
        bool told[N_PAGES];
};

static void *race_writer(void *argument)
{
        struct race_state *race = argument;
        volatile char *memory = race->program->areas[0].memory;
        unsigned state = (unsigned)gettid();

        while (!atomic_load(&race->stop)) {
                state = state * 1103515245 + 12345;
                __atomic_fetch_add(&memory[(size_t)(state >> 8) % N_PAGES * PAGE_BYTES], 1, __ATOMIC_RELAXED);
        }
        return NULL;
}

static char first_byte(const struct race_state *race, size_t page)
{
        return __atomic_load_n(&race->program->areas[0].memory[page * PAGE_BYTES], __ATOMIC_SEQ_CST);
}

static void race_protect(struct race_state *race, size_t page, size_t n, bool anew)
{
        if (anew)
                CHECK_OK(release(race->program, (long)page, (long)n, 0));
        for (size_t i = page; i < page + n; i++)
                race->told[i] = false;
        CHECK_OK(protect(race->program, (long)page, (long)n, WP_WATCH));
        for (size_t i = page; i < page + n; i++)
                race->seen[i] = first_byte(race, i);
}

static void race_take(struct race_state *race, bool exact)
{
        uintptr_t start = (uintptr_t)race->program->areas[0].memory;
        struct wp_event event;

        while (wp_next_event(race->program->wp, &event) > 0) {
                size_t page = (event.address - start) / PAGE_BYTES;

                CHECK(event.type == WP_EVENT_WRITE && !(event.flags & WP_EVENT_F_FOLDED), "event %u",
                      event.type);
                CHECK(!exact || !race->told[page], "page %zu was told of twice", page);
                race->told[page] = true;
                race->n_told++;
        }
}

/*
 * While others write, pages are protected again as soon as their event has come: an event that comes twice, or a change without
 * one, is found. Then ranges are protected and released at random.
 */
static long race_run(struct program *program, long a, long b, long c)
{
        struct race_state *race = calloc(1, sizeof(*race));
        pthread_t threads[WRITERS];

        CHECK(race, "out of memory");
        race->program = program;
        race_protect(race, 0, N_PAGES, false);
        for (unsigned i = 0; i < WRITERS; i++)
                CHECK_OK(-pthread_create(&threads[i], NULL, race_writer, race));
        for (unsigned i = 0; i < ROUNDS || race->n_told < EVENTS; i++) {
                size_t page = (size_t)rand() % N_PAGES,
                       n = a && rand() % 16 == 0 ? 1 + (size_t)rand() % (N_PAGES - page) : 1;

                race_take(race, !a);
                if (race->told[page] || a)
                        race_protect(race, page, n, a && rand() % 4 == 0);
        }
        atomic_store(&race->stop, true);
        for (unsigned i = 0; i < WRITERS; i++)
                CHECK_OK(-pthread_join(threads[i], NULL));
        race_take(race, !a);
        for (size_t page = 0; page < N_PAGES; page++)
                CHECK(race->told[page] || first_byte(race, page) == race->seen[page],
                      "a write of page %zu was lost", page);
        free(race);
        return 0;
}

/* ------------------------------------------------------------------ the tests */

/* What a child wrote into shared memory. a: the page. */
static long forget_byte(struct program *program, long a, long b, long c)
{
        program_next_byte(&program->areas[0], at(a));
        return 0;
}

/* Memory of a memfd. a, b: as of program_map(); c: the flags of mmap(2). */
static long map_memfd(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];
        int fd = memfd_create("wpd-test", MFD_CLOEXEC);
        void *memory;

        CHECK_OK(program_map(program, a, b, (long)pair_content));
        CHECK(fd >= 0 && !ftruncate(fd, b * PAGE_BYTES), "%m");
        CHECK(pwrite(fd, area->shadow, (size_t)b * PAGE_BYTES, 0) == (ssize_t)b * (ssize_t)PAGE_BYTES, "%m");
        memory =
                mmap(area->memory, (size_t)b * PAGE_BYTES, PROT_READ | PROT_WRITE, (int)c | MAP_FIXED, fd, 0);
        CHECK(memory == area->memory, "%m");
        close(fd);
        return 0;
}

/* Memory of each kind: not to be merged - anonymous, of a memfd -, merged and lazy, merged and held. */
static const struct kind {
        uint64_t flags;
        int mapped; /* of a memfd: the flags of mmap(2) */
} kinds[] = {{0, 0}, {0, MAP_PRIVATE}, {0, MAP_SHARED}, {WP_MERGE, 0}, {NOTIFIED, 0}};

static void begin(struct pair *pair, uid_t uid, const struct kind *kind)
{
        if (kind->flags & WP_MERGE) {
                pair_begin(pair, uid, NULL, N_PAGES, kind->flags);
                return;
        }
        pair->n_pages = N_PAGES;
        service_start(&pair->service, NULL);
        for (long i = 0; i < 2; i++) {
                client_start(&pair->clients[i], uid);
                client_name(&pair->clients[i], i);
                CHECK_OK(
                        client_do(&pair->clients[i], program_connect, (long)pair->service.client_path, 0, 0));
                if (kind->mapped)
                        CHECK_OK(client_do(&pair->clients[i], map_memfd, 0, N_PAGES, kind->mapped));
                else
                        CHECK_OK(client_do(&pair->clients[i], program_map, 0, N_PAGES, (long)pair_content));
                CHECK_OK(client_do(&pair->clients[i], program_register, 0, 0, 0));
        }
}

static void watch(uid_t uid)
{
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct pair pair;
                const struct client *client = &pair.clients[0];

                begin(&pair, uid, &kinds[i]);
                CHECK_OK(client_do(client, protect, 0, N_PAGES, WP_WATCH));
                CHECK(client_do(client, program_stat, 0, PROGRAM_STAT(pages_protected), 0) == N_PAGES,
                      "not all");
                CHECK_OK(client_do(client, write_watched, 0, 100, 0));
                CHECK_OK(client_do(client, protect, 50, 100, WP_WATCH));
                CHECK_OK(client_do(client, write_watched, 50, 150, 0));
                CHECK_OK(client_do(client, release, 0, N_PAGES, 0));
                CHECK(client_do(client, program_stat, 0, PROGRAM_STAT(pages_protected), 0) == 0, "some");
                if (!(kinds[i].flags & WP_NOTIFY))
                        CHECK_OK(client_do(client, write_unwatched, 0, N_PAGES, 0));
                else
                        CHECK_OK(client_do(client, write_unwatched, 0, 150, 0)); /* copied already */
                pair_verify(&pair);
                pair_end(&pair);
        }
}

/* What is merged stays so while it is watched, and a write copies it; what is released is merged again. */
static void merging(uid_t uid)
{
        struct pair pair;
        const struct client *client = &pair.clients[0];

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(client, protect, 0, N_PAGES, WP_WATCH));
        CHECK(client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == N_PAGES,
              "no longer merged");
        CHECK_OK(client_do(client, write_watched, 0, 10, 0));
        service_scan(&pair.service);
        CHECK_SOON(client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == N_PAGES - 10,
                   "%ld merged", client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0));
        CHECK_OK(client_do(client, release, 0, N_PAGES, 0));
        CHECK(client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == N_PAGES - 10,
              "no longer merged");
        /* Lazy again: a write is found by a scan. */
        CHECK_OK(client_do(client, write_unwatched, 10, 20, 0));
        service_scan(&pair.service);
        CHECK_SOON(client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == N_PAGES - 20,
                   "%ld merged", client_do(client, program_stat, 0, PROGRAM_STAT(pages_merged), 0));
        pair_verify(&pair);
        pair_end(&pair);
}

/* Nothing is merged while it is protected, and everything afterwards. */
static void not_merged(uid_t uid)
{
        struct pair pair;

        begin(&pair, uid, &kinds[0]);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair.clients[i], program_unregister, 0, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_register, 0, WP_MERGE, 0));
                CHECK_OK(client_do(&pair.clients[i], protect, 0, N_PAGES, WP_WATCH));
        }
        service_scan(&pair.service);
        service_scan(&pair.service);
        CHECK(!service_figure(&pair.service, "pages_sharing"), "protected pages were merged");
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_do(&pair.clients[i], release, 0, N_PAGES, 0));
        service_scan(&pair.service);
        CHECK_SOON(service_figure(&pair.service, "pages_sharing") == N_PAGES, "%lld shared",
                   (long long)service_figure(&pair.service, "pages_sharing"));
        pair_verify(&pair);
        pair_end(&pair);
}

static void hold(uid_t uid)
{
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct pair pair;

                begin(&pair, uid, &kinds[i]);
                CHECK_OK(client_do(&pair.clients[0], hold_writers, 0, 0, 0));
                CHECK_OK(client_do(&pair.clients[0], hold_writers, 1, 0, 0));
                if (!kinds[i].mapped) /* where discarding reads zeros */
                        CHECK_OK(client_do(&pair.clients[0], protect_discarded, 0, 0, 0));
                for (long by_read = 0; by_read < 2; by_read++)
                        CHECK_OK(client_do(&pair.clients[0], hold_bounded, by_read, 0, 0));
                CHECK_OK(client_do(&pair.clients[0], program_verify, 0, 0, 0));
                pair_end(&pair);
        }
}

static void many_held(uid_t uid)
{
        struct pair pair;

        begin(&pair, uid, &kinds[0]);
        CHECK_OK(client_do(&pair.clients[0], hold_many, 0, 100, 0));
        pair_end(&pair);
}

/* Neither the daemon's end nor the region's leaves anybody waiting. */
static void ends(uid_t uid)
{
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                for (long by_read = 0; by_read < 2; by_read++) {
                        struct pair pair;
                        const struct client *client = &pair.clients[0];

                        begin(&pair, uid, &kinds[i]);
                        CHECK_OK(client_do(client, begin_hold, by_read, 0, 0));
                        CHECK_OK(client_do(client, program_unregister, 0, 0, 0));
                        CHECK_OK(client_do(client, end_hold, 0, 0, 0));
                        CHECK_OK(client_do(client, program_register, 0, 0, 0));
                        CHECK_OK(client_do(client, begin_hold, by_read, 0, 0));
                        service_end(&pair.service, SIGKILL);
                        CHECK_OK(client_do(client, end_hold, 0, 0, 0));
                        CHECK_ERROR(client_do(client, protect, 0, 1, WP_WATCH), ENOTCONN);
                        service_restart(&pair.service);
                        CHECK_SOON(service_figure(&pair.service, "regions") == 2, "not all are back");
                        CHECK_SOON(client_do(client, protect, 0, N_PAGES, WP_WATCH) == 0,
                                   "it cannot be protected again");
                        CHECK_OK(client_do(client, release, 0, N_PAGES, 0));
                        pair_end(&pair);
                }
        }
}

/* Children are neither held nor told of, and see what was there. */
static void children(uid_t uid)
{
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct pair pair;
                struct client child;

                begin(&pair, uid, &kinds[i]);
                CHECK_OK(client_do(&pair.clients[0], protect, 0, N_PAGES, WP_HOLD));
                client_fork(&pair.clients[0], &child);
                if (!kinds[i].mapped) /* where discarding reads zeros, and a write is not the parent's */
                        CHECK_OK(client_do(&child, program_use, 0, 3, 0));
                else
                        CHECK_OK(client_do(&child, program_store, 0, (long)at(3), 0));
                client_do(&child, program_verify, 0, 0, 0);
                if (kinds[i].mapped == MAP_SHARED)
                        CHECK_OK(client_do(&pair.clients[0], forget_byte, 3, 0, 0));
                CHECK(client_do(&pair.clients[0], program_drain_events, 0, 0, 0) == 0,
                      "a child's writes are events");
                client_stop_child(&pair.clients[0], &child);
                CHECK_OK(client_do(&pair.clients[0], release, 0, N_PAGES, 0));
                pair_verify(&pair);
                pair_end(&pair);
        }
}

static void bad_calls(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(&pair.clients[0], misuse, 0, 0, 0));
        pair_end(&pair);
}

static void unmapped(uid_t uid)
{
        struct pair pair;

        begin(&pair, uid, &kinds[0]);
        CHECK_OK(client_do(&pair.clients[0], unmap_protected, 0, 0, 0));
        client_kill(&pair.clients[0]);
        client_stop(&pair.clients[1]);
        service_end(&pair.service, SIGTERM);
}

static void race_in(uid_t uid, const struct kind *kind)
{
        for (long released = 0; released < 2; released++) {
                struct pair pair;

                begin(&pair, uid, kind);
                CHECK_OK(client_do(&pair.clients[0], race_run, released, 0, 0));
                client_kill(&pair.clients[0]);
                client_stop(&pair.clients[1]);
                service_end(&pair.service, SIGTERM);
        }
}

/* One test each: a race takes many seconds, and each test has its own time limit. */
static void race_anonymous(uid_t uid)
{
        race_in(uid, &kinds[0]);
}

static void race_private_file(uid_t uid)
{
        race_in(uid, &kinds[1]);
}

static void race_shared_file(uid_t uid)
{
        race_in(uid, &kinds[2]);
}

static void race_lazy(uid_t uid)
{
        race_in(uid, &kinds[3]);
}

static void race_notified(uid_t uid)
{
        race_in(uid, &kinds[4]);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(watch),          HARNESS_USER(merging),           HARNESS_USER(not_merged),
        HARNESS_BOTH(hold),           HARNESS_USER(many_held),         HARNESS_USER(ends),
        HARNESS_USER(children),       HARNESS_USER(bad_calls),         HARNESS_USER(unmapped),
        HARNESS_USER(race_anonymous), HARNESS_USER(race_private_file), HARNESS_USER(race_shared_file),
        HARNESS_USER(race_lazy),      HARNESS_USER(race_notified),
};

HARNESS_MAIN(tests)
