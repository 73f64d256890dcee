/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Page states: the table, cell by cell, as it is meant. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/page.h"
#include "util/bits.h"

/* One letter per state in the order of the enum; '.' is a change that must not happen. */
/* clang-format off */
static const char *const table[PAGE_N_STATES] = {
        /* to:               EVTCPMAFDZXO */
        [PAGE_EMPTY] =      ".VT..M.FD.XO",
        [PAGE_VOLATILE] =   "E.T.......XO",
        [PAGE_TRACKED] =    "EV.CP.....XO",
        [PAGE_CANDIDATE] =  "EVT.P.....XO",
        [PAGE_PLANNED] =    "..T..MA..Z..",
        [PAGE_MERGED] =     ".V......D...",
        [PAGE_ALIASED] =    ".V..........",
        [PAGE_FOREIGN] =    ".V......D...",
        [PAGE_COPIED] =     "..........X.",
        [PAGE_ZERO] =       "EVT.......XO",
        [PAGE_EXCLUDED] =   "..T.....D.X.",
        [PAGE_PROTECTED] =  "..T.........",
};
/* clang-format on */

static void test_table(void **state)
{
        for (unsigned from = 0; from < PAGE_N_STATES; from++) {
                assert_int_equal(strlen(table[from]), PAGE_N_STATES);
                for (unsigned to = 0; to < PAGE_N_STATES; to++)
                        assert_int_equal(page_state_allowed(from, to), table[from][to] != '.');
        }
}

static void test_out_of_range(void **state)
{
        for (unsigned i = 0; i < PAGE_N_STATES; i++) {
                assert_false(page_state_allowed(i, PAGE_N_STATES));
                assert_false(page_state_allowed(PAGE_N_STATES, i));
                assert_false(page_state_allowed(i, (enum page_state) - 1));
                assert_false(page_state_allowed((enum page_state) - 1, i));
        }
        assert_string_equal(page_state_name(PAGE_N_STATES), "invalid");
}

/* No state is there for nothing: each can be reached from where every page begins. */
static void test_every_state_is_reached(void **state)
{
        bool reached[PAGE_N_STATES] = {[PAGE_EMPTY] = true};

        for (unsigned round = 0; round < PAGE_N_STATES; round++)
                for (unsigned from = 0; from < PAGE_N_STATES; from++)
                        for (unsigned to = 0; to < PAGE_N_STATES; to++)
                                reached[to] |= reached[from] && page_state_allowed(from, to);
        for (unsigned i = 0; i < PAGE_N_STATES; i++)
                assert_true(reached[i]);
}

/* What shares is given back or copied, nothing else; and only an empty page is found to share. */
static void test_sharing(void **state)
{
        static const enum page_state shared[] = {PAGE_MERGED, PAGE_FOREIGN};

        for (size_t i = 0; i < ARRAY_SIZE(shared); i++)
                for (unsigned other = 0; other < PAGE_N_STATES; other++) {
                        assert_int_equal(page_state_allowed(shared[i], other),
                                         other == PAGE_VOLATILE || other == PAGE_COPIED);
                        assert_int_equal(page_state_allowed(other, shared[i]),
                                         other == PAGE_EMPTY ||
                                                 (other == PAGE_PLANNED && shared[i] == PAGE_MERGED));
                }
}

static void test_names_differ(void **state)
{
        for (unsigned a = 0; a < PAGE_N_STATES; a++) {
                assert_true(strlen(page_state_name(a)) > 0);
                for (unsigned b = 0; b < a; b++)
                        assert_string_not_equal(page_state_name(a), page_state_name(b));
        }
        assert_string_equal(page_state_name(PAGE_EMPTY), "empty");
        assert_string_equal(page_state_name(PAGE_MERGED), "merged");
        assert_string_equal(page_state_name(PAGE_FOREIGN), "foreign");
        assert_string_equal(page_state_name(PAGE_EXCLUDED), "excluded");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_out_of_range),
                cmocka_unit_test(test_every_state_is_reached),
                cmocka_unit_test(test_sharing),
                cmocka_unit_test(test_names_differ),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
