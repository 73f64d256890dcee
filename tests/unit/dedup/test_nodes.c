/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Nodes: lists of nodes, and with whom a page shares on a machine that has those nodes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "dedup/fingerprint.h"
#include "dedup/nodes.h"
#include "tests/model/random.h"
#include "util/bits.h"

static void test_parse(void **state)
{
        static const struct {
                const char *list;
                int result;
                struct nodes nodes;
        } rows[] = {
                {"0", 0, {1, {0}}},
                {"0-1", 0, {2, {0, 1}}},
                {"0,2", 0, {2, {0, 2}}},
                {"0-1,3,8-10", 0, {6, {0, 1, 3, 8, 9, 10}}},
                {"7", 0, {1, {7}}},
                {"65535", 0, {1, {65535}}},
                {"", -EINVAL, {0}},
                {",", -EINVAL, {0}},
                {"0,", -EINVAL, {0}},
                {"0-", -EINVAL, {0}},
                {"-1", -EINVAL, {0}},
                {"1-0", -EINVAL, {0}},
                {"0,0", -EINVAL, {0}},
                {"3,1", -EINVAL, {0}},
                {"0-3,2", -EINVAL, {0}},
                {"65536", -EINVAL, {0}},
                {"99999999999999999999", -EINVAL, {0}},
                {"0 1", -EINVAL, {0}},
                {"0-1\n", -EINVAL, {0}},
                {"a", -EINVAL, {0}},
                {"0-64", -E2BIG, {0}},
                {"0-65535", -E2BIG, {0}},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct nodes nodes = {.n = 99};
                int r = nodes_parse(rows[i].list, &nodes);

                if (r != rows[i].result)
                        fail_msg("\"%s\" says %d", rows[i].list, r);
                assert_int_equal(nodes.n, r < 0 ? 99 : rows[i].nodes.n);
                if (r >= 0)
                        assert_memory_equal(nodes.ids, rows[i].nodes.ids, nodes.n * sizeof(nodes.ids[0]));
        }
}

static void test_parse_full(void **state)
{
        struct nodes nodes;

        assert_int_equal(nodes_parse("0-63", &nodes), 0);
        assert_int_equal(nodes.n, NODES_MAX);
        assert_int_equal(nodes.ids[NODES_MAX - 1], NODES_MAX - 1);
}

static void test_home(void **state)
{
        static const struct nodes nodes = {3, {1, 4, 5}};

        assert_int_equal(nodes_home(&nodes, 4), 4);
        assert_int_equal(nodes_home(&nodes, 5), 5);
        assert_int_equal(nodes_home(&nodes, 0), 1);  /* without memory, or newer than the map */
        assert_int_equal(nodes_home(&nodes, -1), 1); /* unknown */
        assert_int_equal(nodes_home(&(struct nodes)NODES_INIT, -1), 0);
}

/* What is kept of a fingerprint differs from node to node, and it is never 0. */
static void test_fingerprint(void **state)
{
        static const uint64_t contents[] = {1, 2, UINT64_MAX, UINT64_C(0x9e3779b97f4a7c15)};

        for (size_t i = 0; i < ARRAY_SIZE(contents); i++) {
                assert_true(nodes_fingerprint(contents[i], 0) == contents[i]);
                for (unsigned a = 0; a < NODES_MAX; a++) {
                        assert_true(nodes_fingerprint(contents[i], a) != 0);
                        for (unsigned b = 0; b < a; b++)
                                assert_int_not_equal(fingerprint_key(nodes_fingerprint(contents[i], a)),
                                                     fingerprint_key(nodes_fingerprint(contents[i], b)));
                }
        }
}

/* ------------------------------------------------------------------ matching, with a map of nodes that is made up */

#define N_THINGS 4096

/* A machine's pages and slots: page k and slot k have number k. */
struct world {
        struct index index;
        uint32_t page_keys[N_THINGS];
        uint32_t slot_keys[N_THINGS];
        uint32_t sharers[N_THINGS];
};

static bool resolve(void *context, struct page_ref ref, uint32_t *ret_key)
{
        struct world *world = context;
        uint32_t key = page_ref_is_slot(ref) ? world->slot_keys[ref.page] : world->page_keys[ref.page];

        *ret_key = key;
        return key != 0;
}

static uint32_t sharers(const void *context, uint32_t slot)
{
        return ((const struct world *)context)->sharers[slot];
}

static void add(struct world *world, bool slot, uint32_t number, uint64_t content, unsigned node,
                uint32_t n_sharers)
{
        uint64_t fingerprint = nodes_fingerprint(content, node);
        struct page_ref ref = {.region = slot ? INDEX_SLOT : 0, .page = number};

        (slot ? world->slot_keys : world->page_keys)[number] = fingerprint_key(fingerprint);
        world->sharers[number] = n_sharers;
        assert_int_equal(index_insert(&world->index, fingerprint, ref), 0);
}

#define CONTENT UINT64_C(0x123456789abcdef1)

/* What there is of the content on nodes 0 to 3, and what a page of node 1 is to do. */
static void test_match(void **state)
{
        enum {
                NOTHING,
                PAGE,
                SLOT_COLD, /* shared by 10 */
                SLOT_WARM, /* 20 */
                SLOT_HOT,  /* 50 */
        };
        static const struct nodes map = {4, {0, 1, 2, 3}};
        static const struct nodes_policy within = {false, 4, 32}, one = {true, 1, 32}, two = {true, 2, 32};
        static const struct {
                const struct nodes_policy *policy;
                int there[4];
                enum match_kind kind;
                int with; /* the node, where that means something */
        } rows[] = {
                {&within, {NOTHING, NOTHING, NOTHING, NOTHING}, MATCH_NONE, 1},
                {&within, {PAGE, NOTHING, SLOT_HOT, PAGE}, MATCH_NONE, 1},
                {&within, {PAGE, PAGE, SLOT_HOT, PAGE}, MATCH_PAGE, 1},
                {&within, {SLOT_HOT, SLOT_COLD, SLOT_HOT, PAGE}, MATCH_SLOT, 1},
                {&one, {NOTHING, NOTHING, NOTHING, NOTHING}, MATCH_NONE, 1},
                {&one, {NOTHING, NOTHING, NOTHING, PAGE}, MATCH_PAGE, 3},
                {&one, {PAGE, NOTHING, PAGE, NOTHING}, MATCH_PAGE, 0},
                {&one, {PAGE, PAGE, NOTHING, NOTHING}, MATCH_PAGE, 1},
                {&one, {PAGE, NOTHING, NOTHING, SLOT_COLD}, MATCH_SLOT, 3},
                {&one, {NOTHING, PAGE, NOTHING, SLOT_HOT}, MATCH_SLOT, 3},
                {&one, {SLOT_HOT, NOTHING, NOTHING, SLOT_HOT}, MATCH_SLOT, 0},
                {&one, {SLOT_HOT, NOTHING, SLOT_COLD, SLOT_WARM}, MATCH_SLOT, 2},
                {&one, {SLOT_HOT, SLOT_HOT, SLOT_COLD, SLOT_WARM}, MATCH_SLOT, 1},
                {&two, {NOTHING, NOTHING, NOTHING, NOTHING}, MATCH_NONE, 1},
                {&two, {SLOT_COLD, NOTHING, NOTHING, PAGE}, MATCH_SLOT, 0},
                {&two, {SLOT_HOT, NOTHING, NOTHING, PAGE}, MATCH_REPLICA, 1},
                {&two, {SLOT_HOT, PAGE, NOTHING, NOTHING}, MATCH_PAGE, 1},
                {&two, {SLOT_COLD, PAGE, NOTHING, NOTHING}, MATCH_SLOT, 0},
                {&two, {SLOT_HOT, NOTHING, SLOT_HOT, NOTHING}, MATCH_SLOT, 0}, /* there are two */
                {&two, {SLOT_HOT, SLOT_HOT, NOTHING, NOTHING}, MATCH_SLOT, 1},
        };
        static const uint32_t n_sharers[] = {0, 0, 10, 20, 50};

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                static struct world world;
                struct match match = {.page = 77, .kind = MATCH_ZERO};

                memset(&world, 0, sizeof(world));
                world.index = (struct index)INDEX_INIT(resolve, &world);
                for (uint32_t node = 0; node < 4; node++)
                        if (rows[i].there[node] != NOTHING)
                                add(&world, rows[i].there[node] != PAGE, node + 1, CONTENT, node,
                                    n_sharers[rows[i].there[node]]);
                nodes_match(&map, rows[i].policy, &world.index, sharers, &world, CONTENT, 1, &match);
                if (match.kind != rows[i].kind || match.node != rows[i].with)
                        fail_msg("rows[%zu]: kind %d, node %u", i, match.kind, match.node);
                assert_int_equal(match.page, 77);
                assert_true(match.fingerprint == nodes_fingerprint(CONTENT, (unsigned)rows[i].with));
                if (match.kind == MATCH_PAGE || match.kind == MATCH_SLOT) {
                        assert_int_equal(match.with.page, rows[i].with + 1);
                        assert_int_equal(page_ref_is_slot(match.with), match.kind == MATCH_SLOT);
                }
                index_deinit(&world.index);
        }
}

/*
 * Pages come one after the other, on random nodes of random maps, and do what they are told. No content ever has more copies
 * than it may; who merges within nodes has them on his own, and who has found a twin is not told that there is none.
 */
struct copies {
        uint32_t slot[NODES_MAX];      /* of the content, by node; 0: none */
        uint32_t candidate[NODES_MAX]; /* likewise */
};

static void obey(struct world *world, struct copies *copies, const struct match *match, uint64_t content,
                 unsigned node, uint32_t *next)
{
        uint32_t number = (*next)++;

        switch (match->kind) {
        case MATCH_NONE:
                add(world, false, number, content, node, 0);
                copies->candidate[node] = number;
                break;
        case MATCH_PAGE: /* both share from now on */
                assert_int_equal(match->with.page, copies->candidate[match->node]);
                world->page_keys[match->with.page] = 0;
                copies->candidate[match->node] = 0;
                add(world, true, number, content, match->node, 2);
                copies->slot[match->node] = number;
                break;
        case MATCH_SLOT:
                assert_int_equal(match->with.page, copies->slot[match->node]);
                world->sharers[match->with.page]++;
                break;
        case MATCH_REPLICA:
                assert_int_equal(match->node, node);
                assert_int_equal(copies->slot[node], 0);
                add(world, true, number, content, node, 1);
                copies->slot[node] = number;
                break;
        case MATCH_ZERO:
                fail();
        }
}

#define N_CONTENTS 8

static void test_match_random(void **state)
{
        struct random random = RANDOM_INIT(7);
        unsigned n_replicas = 0;

        for (unsigned round = 0; round < 200; round++) {
                static struct copies copies[N_CONTENTS];
                static struct world world;
                struct nodes map = {.n = 1 + (unsigned)random_below(&random, 8)};
                const struct nodes_policy policy = {random_below(&random, 3) > 0,
                                                    1 + (uint32_t)random_below(&random, 4),
                                                    1 + (uint32_t)random_below(&random, 8)};
                uint32_t next = 1;

                memset(&world, 0, sizeof(world));
                memset(copies, 0, sizeof(copies));
                world.index = (struct index)INDEX_INIT(resolve, &world);
                for (unsigned i = 0; i < map.n; i++)
                        map.ids[i] = (uint16_t)(i * 3);
                for (unsigned step = 0; step < 400; step++) {
                        uint64_t k = random_below(&random, N_CONTENTS), content = CONTENT * (k + 1);
                        unsigned node = map.ids[random_below(&random, map.n)], n_slots = 0;
                        struct match match = {.page = step};

                        nodes_match(&map, &policy, &world.index, sharers, &world, content, node, &match);
                        if (!policy.across)
                                assert_int_equal(match.node, node);
                        for (unsigned i = 0; i < NODES_MAX; i++)
                                if ((policy.across || i == node) &&
                                    (copies[k].slot[i] || copies[k].candidate[i]))
                                        assert_int_not_equal(match.kind, MATCH_NONE);
                        n_replicas += match.kind == MATCH_REPLICA;
                        obey(&world, &copies[k], &match, content, node, &next);
                        for (unsigned i = 0; i < NODES_MAX; i++)
                                n_slots += copies[k].slot[i] != 0;
                        if (policy.across)
                                assert_true(n_slots <= policy.max_replicas);
                }
                index_deinit(&world.index);
        }
        assert_true(n_replicas > 200);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parse), cmocka_unit_test(test_parse_full),
                cmocka_unit_test(test_home),  cmocka_unit_test(test_fingerprint),
                cmocka_unit_test(test_match), cmocka_unit_test(test_match_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
