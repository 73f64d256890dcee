/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Discarding merged pages, and forked children: the memory behaves as without wpd. */

#include <string.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES 1024

static size_t at(long page)
{
        return (size_t)page * PAGE_BYTES + 100;
}

/* ------------------------------------------------------------------ discards */

/* Single pages, short and long ranges, across runs and slots; then stores into what reads as zeros. */
static void discard(uid_t uid)
{
        static const struct {
                long page;
                long n_pages;
        } ranges[] = {{0, 1}, {7, 2}, {60, 10}, {200, 300}, {1000, 24}, {200, 1}};
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
                CHECK_OK(client_do(&pair.clients[0], program_discard, 0, ranges[i].page, ranges[i].n_pages));
                pair_verify(&pair);
                CHECK_OK(client_do(&pair.clients[0], program_store, 0, (long)at(ranges[i].page), 0));
                pair_verify(&pair);
        }
        service_scan(&pair.service);
        pair_verify(&pair);
        pair_end(&pair);
}

/* What was written before is discarded as well; and the other way round. */
static void discard_and_write(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (long page = 0; page + 2 <= N_PAGES; page += 3) {
                const struct client *client = &pair.clients[page % 2];

                CHECK_OK(client_do(client, program_store, 0, (long)at(page), 0));
                CHECK_OK(client_do(client, program_discard, 0, page, 2));
                CHECK_OK(client_do(client, program_store, 0, (long)at(page + 1), 0));
        }
        pair_verify(&pair);
        service_scan(&pair.service);
        pair_verify(&pair);
        pair_end(&pair);
}

/* Discarding and verifying without a pause while passes go on: whatever a page was merged with, zeros stay zeros. */
static long discard_all_over(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        for (long i = 0; i < b; i++) {
                long page = (long)((size_t)(i * 37 + c) % (area->n_pages - 3));

                CHECK_OK(program_discard(program, a, page, 3));
                if (i % 2)
                        program_store(program, a, (long)at(page + 1), 0);
        }
        program_check_area(area, "after discards");
        return 0;
}

static uint64_t same(long program, uint64_t page)
{
        return page / 4 + 1;
}

static void discard_during_merges(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(&pair.clients[0], program_map, 1, 4 * N_PAGES, (long)same));
        CHECK_OK(client_do(&pair.clients[0], program_register, 1, WP_MERGE, 0));
        for (long burst = 0; burst < 20; burst++) {
                client_begin(&pair.clients[0], discard_all_over, 1, 200, burst);
                service_scan(&pair.service);
                CHECK_OK(client_finish(&pair.clients[0]));
        }
        client_do(&pair.clients[0], program_verify, 1, 0, 0);
        CHECK_OK(client_do(&pair.clients[0], program_unregister, 1, 0, 0));
        client_do(&pair.clients[0], program_verify, 1, 0, 0);
        CHECK_OK(client_do(&pair.clients[0], program_unmap, 1, 0, 0));
        pair_end(&pair);
}

/* ------------------------------------------------------------------ forks */

static void check_all(const struct pair *pair, const struct client *child)
{
        pair_verify(pair);
        client_do(child, program_verify, 0, 0, 0);
}

/* What a program does with its memory; all others are compared after each step. */
static void act(const struct pair *pair, const struct client *actor, const struct client *others,
                size_t n_others, long page)
{
        CHECK_OK(client_do(actor, program_store, 0, (long)at(page), 0));
        for (size_t i = 0; i < n_others; i++)
                check_all(pair, &others[i]);
        CHECK_OK(client_do(actor, program_discard, 0, page + 1, 2));
        for (size_t i = 0; i < n_others; i++)
                check_all(pair, &others[i]);
        CHECK_OK(client_do(actor, program_store, 0, (long)at(page + 2), 0));
        for (size_t i = 0; i < n_others; i++)
                check_all(pair, &others[i]);
        client_do(actor, program_verify, 0, 0, 0);
}

/* In the child: the connection is its parent's. */
static long check_no_connection(struct program *program, long a, long b, long c)
{
        struct wp_region_stat stat;

        CHECK_ERROR(wp_region_stat(program->areas[0].region, &stat), ENOTCONN);
        CHECK_ERROR(wp_unregister(program->areas[0].region), ENOTCONN);
        CHECK_ERROR(wp_event_fd(program->wp), ENOTCONN);
        CHECK(strstr(wp_strerror_detail(program->wp), "child"), "the detail is: %s",
              wp_strerror_detail(program->wp));
        program->wp = wp_disconnect(program->wp);
        CHECK(!program->wp, "wp_disconnect() does not return NULL");
        return 0;
}

/* Ends a child whose parent is gone: it is the test's now. */
static void orphan_stop(struct client *child)
{
        client_stop(child);
}

static void fork_child(uid_t uid)
{
        struct client child;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &child);
        check_all(&pair, &child);
        act(&pair, &child, &child, 1, 10);
        act(&pair, &pair.clients[0], &child, 1, 11);
        act(&pair, &pair.clients[1], &child, 1, 12);
        client_do(&child, check_no_connection, 0, 0, 0);
        act(&pair, &child, &child, 1, 600);
        service_scan(&pair.service);
        check_all(&pair, &child);
        client_stop_child(&pair.clients[0], &child);
        pair_verify(&pair);
        pair_end(&pair);
}

static void grandchild(uid_t uid)
{
        struct client children[2];
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &children[0]);
        act(&pair, &children[0], children, 1, 10);
        client_fork(&children[0], &children[1]);
        check_all(&pair, &children[1]);
        act(&pair, &children[1], children, 2, 10);
        act(&pair, &children[1], children, 2, 20);
        act(&pair, &children[0], children, 2, 20);
        act(&pair, &pair.clients[0], children, 2, 20);
        client_stop_child(&children[0], &children[1]);
        check_all(&pair, &children[0]);
        client_stop_child(&pair.clients[0], &children[0]);
        pair_end(&pair);
}

/* The parent gives back its memory, and ends; what it shares with the child by the fork is still the child's. */
static void child_outlives(uid_t uid)
{
        struct client child;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &child);
        pair_leave(&pair, true);
        client_do(&child, program_verify, 0, 0, 0);
        for (long page = 0; page + 3 < N_PAGES; page += 50) {
                CHECK_OK(client_do(&child, program_store, 0, (long)at(page), 0));
                CHECK_OK(client_do(&child, program_discard, 0, page + 1, 2));
                client_do(&child, program_verify, 0, 0, 0);
        }
        /* Others merge the same content meanwhile. */
        pair_join(&pair, uid, N_PAGES, WP_MERGE);
        check_all(&pair, &child);
        act(&pair, &child, &child, 1, 700);
        act(&pair, &pair.clients[0], &child, 1, 700);
        orphan_stop(&child);
        pair_verify(&pair);
        pair_end(&pair);
}

/* The same when the parent is killed. */
static void parent_killed(uid_t uid)
{
        struct client child, fresh;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &child);
        client_kill(&pair.clients[0]);
        client_kill(&pair.clients[1]);
        CHECK_SOON(!service_figure(&pair.service, "clients"), "a client stays");
        client_do(&child, program_verify, 0, 0, 0);
        for (long page = 0; page + 3 < N_PAGES; page += 50) {
                CHECK_OK(client_do(&child, program_store, 0, (long)at(page), 0));
                CHECK_OK(client_do(&child, program_discard, 0, page + 1, 2));
                client_do(&child, program_verify, 0, 0, 0);
        }
        client_start(&fresh, uid);
        CHECK_OK(client_do(&fresh, program_connect, (long)pair.service.client_path, 0, 0));
        CHECK_OK(client_do(&fresh, program_disconnect, 0, 0, 0));
        client_stop(&fresh);
        orphan_stop(&child);
        service_stop(&pair.service);
}

/* A child connects by itself, and its memory is merged like that of any other client. */
static long connect_again(struct program *program, long a, long b, long c)
{
        program->wp = wp_disconnect(program->wp);
        return program_connect(program, a, b, c);
}

static uint64_t identical(long program, uint64_t page)
{
        return page + 1;
}

static void child_connects(uid_t uid)
{
        struct client child;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        client_fork(&pair.clients[0], &child);
        CHECK_OK(client_do(&child, connect_again, (long)pair.service.client_path, 0, 0));
        CHECK_OK(client_do(&child, program_map, 1, N_PAGES, (long)identical));
        CHECK_OK(client_do(&child, program_register, 1, WP_MERGE, 0));
        service_settle(&pair.service, "pages_sharing", 2 * N_PAGES);
        client_do(&child, program_verify, 1, 0, 0);
        check_all(&pair, &child);
        CHECK_OK(client_do(&child, program_store, 1, 5, 0));
        client_do(&child, program_verify, 1, 0, 0);
        CHECK_OK(client_do(&child, program_unregister, 1, 0, 0));
        CHECK_OK(client_do(&child, program_unmap, 1, 0, 0));
        client_do(&child, program_verify, 0, 0, 0);
        client_stop_child(&pair.clients[0], &child);
        pair_end(&pair);
}

/* Forks as fast as it can while its memory is being merged; every child compares every byte, writes and discards. */
static long fork_storm(struct program *program, long a, long b, long c)
{
        struct area *area = &program->areas[a];

        for (long i = 0; i < b; i++) {
                pid_t child = fork();

                CHECK(child >= 0, "%m");
                if (!child) {
                        program_check_area(area, "forked child");
                        for (size_t page = (size_t)i % 8; page + 2 < area->n_pages; page += 64) {
                                program_store(program, a, (long)at((long)page), 0);
                                program_discard(program, a, (long)page + 1, 1);
                        }
                        program_check_area(area, "forked child, after writes");
                        _exit(0);
                }
                CHECK(harness_reap(child) == 0, "the child failed");
                program_check_area(area, "parent");
                program_store(program, a, (long)at((long)((size_t)i * 11 % area->n_pages)), 0);
        }
        return 0;
}

static void fork_during_merges(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(&pair.clients[0], program_map, 1, 4 * N_PAGES, (long)same));
        CHECK_OK(client_do(&pair.clients[0], program_register, 1, WP_MERGE, 0));
        for (int burst = 0; burst < 10; burst++) {
                client_begin(&pair.clients[0], fork_storm, 1, 10, 0);
                service_scan(&pair.service);
                CHECK_OK(client_finish(&pair.clients[0]));
        }
        CHECK_OK(client_do(&pair.clients[0], program_unregister, 1, 0, 0));
        client_do(&pair.clients[0], program_verify, 1, 0, 0);
        CHECK_OK(client_do(&pair.clients[0], program_unmap, 1, 0, 0));
        pair_end(&pair);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(discard),       HARNESS_USER(discard_and_write), HARNESS_USER(discard_during_merges),
        HARNESS_BOTH(fork_child),    HARNESS_USER(grandchild),        HARNESS_BOTH(child_outlives),
        HARNESS_USER(parent_killed), HARNESS_USER(child_connects),    HARNESS_USER(fork_during_merges),
};

HARNESS_MAIN(tests)
