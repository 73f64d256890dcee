/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Shields: by hand, and at random against an array of pages. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libwp/shield.h"
#include "model/random.h"
#include "util/bits.h"
#include "util/clock.h"

#define PAGE(_n) ((uint64_t)(_n) << PAGE_SHIFT)
#define BOUND_MS 5

static struct shields shields;

static int setup(void **state)
{
        memset(&shields, 0, sizeof(shields));
        return 0;
}

/* ------------------------------------------------------------------ by hand */

static void test_words(void **state)
{
        for (unsigned milliseconds = 0; milliseconds <= SHIELD_MAX_MS; milliseconds += 13) {
                shield_word word = shield_make(SHIELD_WAITED, milliseconds);

                assert_int_equal(shield_state_of(word), SHIELD_WAITED);
                assert_int_equal(shield_milliseconds(word), milliseconds);
        }
        assert_int_equal(shield_milliseconds(shield_make(SHIELD_HELD, SHIELD_MAX_MS)), SHIELD_MAX_MS);
}

static void test_find(void **state)
{
        shield_word words[3][4] = {0};

        assert_null(shields_find(&shields, 0));
        assert_int_equal(shields_add(&shields, PAGE(20), 4, words[1], 2), 0);
        assert_int_equal(shields_add(&shields, PAGE(30), 4, words[2], 3), 0);
        assert_int_equal(shields_add(&shields, PAGE(10), 4, words[0], 1), 0);
        assert_null(shields_find(&shields, PAGE(10) - 1));
        assert_null(shields_find(&shields, PAGE(14)));
        assert_null(shields_find(&shields, PAGE(34)));
        for (uint64_t i = 0; i < 3; i++) {
                struct shield *shield = shields_find(&shields, PAGE(14 + 10 * i) - 1);

                assert_non_null(shield);
                assert_ptr_equal(shield->words, words[i]);
                assert_int_equal(shield->flags, i + 1);
        }
        assert_ptr_equal(shields_remove(&shields, shields_find(&shields, PAGE(20))), words[1]);
        assert_null(shields_find(&shields, PAGE(20)));
        assert_non_null(shields_find(&shields, PAGE(30)));
}

static void test_quota(void **state)
{
        shield_word word = 0;

        for (uint64_t i = 0; i < SHIELDS_MAX; i++)
                assert_int_equal(shields_add(&shields, PAGE(2 * i), 1, &word, 0), 0);
        assert_int_equal(shields_add(&shields, PAGE(2 * SHIELDS_MAX), 1, &word, 0), -EDQUOT);
        shields_remove(&shields, shields_find(&shields, PAGE(8)));
        assert_int_equal(shields_add(&shields, PAGE(2 * SHIELDS_MAX), 1, &word, 0), 0);
}

/* Of several faults of one page, the first is the write. */
static void test_watched(void **state)
{
        shield_word words[2] = {0};

        assert_int_equal(shields_judge(&shields, PAGE(1), 0), SHIELD_UNKNOWN);
        assert_int_equal(shields_add(&shields, PAGE(1), 2, words, 0), 0);
        assert_int_equal(shields_judge(&shields, PAGE(1), 0), SHIELD_UNKNOWN);
        shields_set(&shields, PAGE(1), PAGE(1), shield_make(SHIELD_WATCHED, 0));
        assert_int_equal(shields_judge(&shields, PAGE(1) + 17, 0), SHIELD_WRITE);
        assert_int_equal(shields_judge(&shields, PAGE(1) + 18, 0), SHIELD_STALE);
        assert_int_equal(shields_judge(&shields, PAGE(2), 0), SHIELD_UNKNOWN);
        shields_set(&shields, PAGE(1), PAGE(1), shield_make(SHIELD_WATCHED, 0));
        assert_int_equal(shields_judge(&shields, PAGE(1), 0), SHIELD_WRITE);
}

/* Who waits goes on waiting when the page is protected again, and no longer when it is released. */
static void test_held(void **state)
{
        shield_word words[2] = {0};
        uint64_t address;

        assert_int_equal(shields_add(&shields, PAGE(1), 2, words, 0), 0);
        shields_set(&shields, PAGE(1), PAGE(2), shield_make(SHIELD_HELD, 3));
        assert_int_equal(shields_deadline(&shields), UINT64_MAX);
        assert_int_equal(shields_judge(&shields, PAGE(2) + 5, 100), SHIELD_HOLD);
        assert_int_equal(shields_judge(&shields, PAGE(2), 200), SHIELD_WAIT);
        assert_int_equal(shields_deadline(&shields), 100 + 3 * NSEC_PER_MSEC);
        shields_set(&shields, PAGE(1), PAGE(2), shield_make(SHIELD_WATCHED, 0));
        assert_int_equal(shields_judge(&shields, PAGE(2), 300), SHIELD_WAIT);
        assert_false(shields_overdue(&shields, 99 + 3 * NSEC_PER_MSEC, &address));
        assert_true(shields_overdue(&shields, 100 + 3 * NSEC_PER_MSEC, &address));
        assert_int_equal(address, PAGE(2));
        assert_false(shields_overdue(&shields, UINT64_MAX, &address));
        assert_int_equal(shields_judge(&shields, PAGE(2), 0), SHIELD_STALE);
        shields_set(&shields, PAGE(1), PAGE(2), shield_make(SHIELD_HELD, 3));
        assert_int_equal(shields_judge(&shields, PAGE(1), 0), SHIELD_HOLD);
        shields_set(&shields, PAGE(1), PAGE(1), shield_make(SHIELD_NONE, 0));
        assert_int_equal(shields_deadline(&shields), UINT64_MAX);
        assert_int_equal(shields_judge(&shields, PAGE(1), 0), SHIELD_UNKNOWN);
        assert_int_equal(shields_judge(&shields, PAGE(2), 0), SHIELD_HOLD);
        shields_remove(&shields, shields_find(&shields, PAGE(1)));
        assert_int_equal(shields_deadline(&shields), UINT64_MAX);
}

static void test_crowded(void **state)
{
        static shield_word words[SHIELDS_MAX_HELD + 1];
        uint64_t address;

        memset(words, 0, sizeof(words));
        assert_int_equal(shields_add(&shields, 0, SHIELDS_MAX_HELD + 1, words, 0), 0);
        shields_set(&shields, 0, PAGE(SHIELDS_MAX_HELD + 1), shield_make(SHIELD_HELD, 1));
        for (uint64_t i = 0; i < SHIELDS_MAX_HELD; i++)
                assert_int_equal(shields_judge(&shields, PAGE(i), 0), SHIELD_HOLD);
        assert_int_equal(shields_judge(&shields, PAGE(SHIELDS_MAX_HELD), 0), SHIELD_CROWDED);
        assert_int_equal(shields_judge(&shields, PAGE(SHIELDS_MAX_HELD), 0), SHIELD_STALE);
        for (uint64_t i = 0; i < SHIELDS_MAX_HELD; i++)
                assert_true(shields_overdue(&shields, NSEC_PER_SEC, &address));
        assert_false(shields_overdue(&shields, NSEC_PER_SEC, &address));
}

/* A page for which many waited has a place from its next protection on; the newest crowds are what matters. */
static void test_hot(void **state)
{
        shield_word words[4] = {0};

        assert_int_equal(shields_add(&shields, PAGE(1), 4, words, 0), 0);
        for (uint64_t page = 1; page <= 4; page++) {
                shields_set(&shields, PAGE(page), PAGE(1), shield_make(SHIELD_HELD, 3));
                assert_int_equal(shields_judge(&shields, PAGE(page), 0), SHIELD_HOLD);
                for (unsigned i = 2; i < SHIELD_CROWD; i++)
                        assert_int_equal(shields_judge(&shields, PAGE(page), 0), SHIELD_WAIT);
                assert_int_equal(shields_misplaced(&shields, PAGE(page), PAGE(1)), -1);
                assert_int_equal(shields_judge(&shields, PAGE(page) + 7, 0), SHIELD_WAIT);
                assert_int_equal(shields_misplaced(&shields, PAGE(page), PAGE(1)), -1); /* it is not spent */
                shields_set(&shields, PAGE(page), PAGE(1), shield_make(SHIELD_SPENT, 0));
                assert_in_range(shields_misplaced(&shields, PAGE(page), PAGE(1)), 0, SHIELDS_MAX_HOT - 1);
                assert_int_equal(shields_place(&shields, PAGE(page)), -1);
        }
        for (int place; (place = shields_misplaced(&shields, PAGE(1), PAGE(4))) >= 0;) {
                shields.hot[place].placed = true;
                assert_int_equal(shields_place(&shields, shields.hot[place].address + 9), place);
        }
        assert_int_equal(shields_place(&shields, PAGE(4)) >= 0, true);
        shields_remove(&shields, shields_find(&shields, PAGE(1)));
        for (uint64_t page = 1; page <= 4; page++)
                assert_int_equal(shields_place(&shields, PAGE(page)), -1);
}

/* Armed is a page whose next writer is told of, or waits. */
static void test_armed(void **state)
{
        static const bool armed[] = {
                [SHIELD_NONE] = false, [SHIELD_SPENT] = false, [SHIELD_WATCHED] = true,
                [SHIELD_HELD] = true,  [SHIELD_WAITED] = true,
        };
        shield_word words[3] = {0};
        uint64_t address;

        assert_false(shields_armed(&shields, PAGE(5)));
        assert_int_equal(shields_add(&shields, PAGE(5), 3, words, 0), 0);
        for (unsigned s = 0; s < ARRAY_SIZE(armed); s++)
                for (unsigned milliseconds = 0; milliseconds <= SHIELD_MAX_MS;
                     milliseconds += SHIELD_MAX_MS) {
                        words[1] = shield_make((enum shield_state)s, milliseconds);
                        assert_false(shields_armed(&shields, PAGE(6) - 1));
                        assert_int_equal(shields_armed(&shields, PAGE(6)), armed[s]);
                        assert_int_equal(shields_armed(&shields, PAGE(7) - 1), armed[s]);
                        assert_false(shields_armed(&shields, PAGE(7)));
                }
        words[0] = words[2] = shield_make(SHIELD_HELD, 3);
        assert_false(shields_armed(&shields, PAGE(5) - 1));
        assert_false(shields_armed(&shields, PAGE(8)));
        /* The first write spends what is watched; what is held stays so until its time is over. */
        words[1] = shield_make(SHIELD_WATCHED, 0);
        assert_int_equal(shields_judge(&shields, PAGE(6), 0), SHIELD_WRITE);
        assert_false(shields_armed(&shields, PAGE(6)));
        assert_int_equal(shields_judge(&shields, PAGE(7), 0), SHIELD_HOLD);
        assert_true(shields_armed(&shields, PAGE(7)));
        assert_true(shields_overdue(&shields, NSEC_PER_SEC, &address));
        assert_false(shields_armed(&shields, PAGE(7)));
        shields_remove(&shields, shields_find(&shields, PAGE(5)));
        assert_false(shields_armed(&shields, PAGE(5)));
}

/* ------------------------------------------------------------------ at random */

#define REGIONS      6
#define REGION_PAGES 12 /* with one page between two of them */
#define STEPS        400000

struct naive {
        bool added[REGIONS];
        struct {
                enum shield_state state;
                uint64_t deadline_ns;
        } pages[REGIONS][REGION_PAGES];
};

static uint64_t region_start(unsigned region)
{
        return PAGE(100 + region * (REGION_PAGES + 1));
}

static void naive_set(struct naive *naive, unsigned region, size_t page, size_t n, enum shield_state state)
{
        bool armed = state == SHIELD_WATCHED || state == SHIELD_HELD;

        for (size_t i = page; i < page + n; i++)
                if (!armed || naive->pages[region][i].state != SHIELD_WAITED)
                        naive->pages[region][i].state = state;
}

static enum shield_verdict naive_judge(struct naive *naive, unsigned region, size_t page, uint64_t now_ns)
{
        static const enum shield_verdict verdicts[] = {
                [SHIELD_NONE] = SHIELD_UNKNOWN,  [SHIELD_SPENT] = SHIELD_STALE,
                [SHIELD_WATCHED] = SHIELD_WRITE, [SHIELD_HELD] = SHIELD_HOLD,
                [SHIELD_WAITED] = SHIELD_WAIT,
        };
        enum shield_state before = naive->added[region] ? naive->pages[region][page].state : SHIELD_NONE;

        if (before == SHIELD_WATCHED)
                naive->pages[region][page].state = SHIELD_SPENT;
        if (before == SHIELD_HELD) {
                naive->pages[region][page].state = SHIELD_WAITED;
                naive->pages[region][page].deadline_ns = now_ns + BOUND_MS * NSEC_PER_MSEC;
        }
        return verdicts[before];
}

static void naive_expire(struct naive *naive, uint64_t now_ns, unsigned *ret_n)
{
        *ret_n = 0;
        for (unsigned region = 0; region < REGIONS; region++)
                for (size_t i = 0; naive->added[region] && i < REGION_PAGES; i++)
                        if (naive->pages[region][i].state == SHIELD_WAITED &&
                            naive->pages[region][i].deadline_ns <= now_ns) {
                                naive->pages[region][i].state = SHIELD_SPENT;
                                ++*ret_n;
                        }
}

static uint64_t naive_deadline(const struct naive *naive)
{
        uint64_t first = UINT64_MAX;

        for (unsigned region = 0; region < REGIONS; region++)
                for (size_t i = 0; naive->added[region] && i < REGION_PAGES; i++)
                        if (naive->pages[region][i].state == SHIELD_WAITED)
                                first = MIN(first, naive->pages[region][i].deadline_ns);
        return first;
}

static bool naive_protected(const struct naive *naive, unsigned region, size_t page)
{
        return naive->added[region] && naive->pages[region][page].state != SHIELD_NONE;
}

static bool naive_armed(const struct naive *naive, unsigned region, size_t page)
{
        enum shield_state state = naive->pages[region][page].state;

        return naive->added[region] &&
               (state == SHIELD_WATCHED || state == SHIELD_HELD || state == SHIELD_WAITED);
}

static void check_run(const struct naive *naive, unsigned region, size_t page, size_t n)
{
        uint64_t start = region_start(region);
        size_t end = page + 1;
        bool protected;

        while (end < page + n && naive_protected(naive, region, end) == naive_protected(naive, region, page))
                end++;
        assert_int_equal(shields_run_end(&shields, start + PAGE(page), start + PAGE(page + n), &protected),
                         start + PAGE(end));
        assert_int_equal(protected, naive_protected(naive, region, page));
}

static void check_range(const struct naive *naive, unsigned region, size_t page, size_t n)
{
        uint64_t start = region_start(region) + PAGE(page);
        size_t n_protected = 0, n_all = 0;

        for (size_t i = 0; naive->added[region] && i < REGION_PAGES; i++) {
                bool is = naive->pages[region][i].state != SHIELD_NONE;

                n_all += is;
                n_protected += is && i >= page && i < page + n;
        }
        assert_int_equal(shields_cover(&shields, start, PAGE(n)), naive->added[region] && n_protected == n);
        assert_int_equal(shields_touch(&shields, start, PAGE(n)), n_protected > 0);
        assert_int_equal(shields_count(&shields, start), n_all);
        check_run(naive, region, page, n);
        for (size_t i = page; i < page + n; i++)
                assert_int_equal(shields_armed(&shields, region_start(region) + PAGE(i)),
                                 naive_armed(naive, region, i));
        assert_false(shields_armed(&shields, region_start(region) + PAGE(REGION_PAGES)));
}

static void test_random(void **state)
{
        static shield_word words[REGIONS][REGION_PAGES];
        struct naive naive = {0};
        struct random random = {.state = 4711};
        uint64_t now_ns = 0, address;

        for (unsigned step = 0; step < STEPS; step++) {
                unsigned region = (unsigned)random_below(&random, REGIONS), n_expired;
                size_t page = random_below(&random, REGION_PAGES),
                       n = 1 + random_below(&random, REGION_PAGES - page);
                uint64_t start = region_start(region) + PAGE(page);
                enum shield_state new_state = (enum shield_state)random_below(&random, SHIELD_WAITED);

                now_ns += random_below(&random, NSEC_PER_MSEC);
                switch (random_below(&random, 16)) {
                case 0:
                        if (naive.added[region]) {
                                shields_remove(&shields, shields_find(&shields, start));
                        } else {
                                memset(words[region], 0, sizeof(words[region]));
                                memset(naive.pages[region], 0, sizeof(naive.pages[region]));
                                assert_int_equal(shields_add(&shields, region_start(region), REGION_PAGES,
                                                             words[region], 0),
                                                 0);
                        }
                        naive.added[region] = !naive.added[region];
                        break;
                case 1 ... 4:
                        if (!naive.added[region])
                                break;
                        shields_set(&shields, start, PAGE(n), shield_make(new_state, BOUND_MS));
                        naive_set(&naive, region, page, n, new_state);
                        break;
                case 5:
                        naive_expire(&naive, now_ns, &n_expired);
                        while (n_expired-- > 0)
                                assert_true(shields_overdue(&shields, now_ns, &address));
                        assert_false(shields_overdue(&shields, now_ns, &address));
                        break;
                case 6 ... 8:
                        check_range(&naive, region, page, n);
                        assert_int_equal(shields_deadline(&shields), naive_deadline(&naive));
                        break;
                default:
                        assert_int_equal(
                                shields_judge(&shields, start + random_below(&random, PAGE_BYTES), now_ns),
                                naive_judge(&naive, region, page, now_ns));
                }
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_words, setup),  cmocka_unit_test_setup(test_find, setup),
                cmocka_unit_test_setup(test_quota, setup),  cmocka_unit_test_setup(test_watched, setup),
                cmocka_unit_test_setup(test_held, setup),   cmocka_unit_test_setup(test_crowded, setup),
                cmocka_unit_test_setup(test_hot, setup),    cmocka_unit_test_setup(test_armed, setup),
                cmocka_unit_test_setup(test_random, setup),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
