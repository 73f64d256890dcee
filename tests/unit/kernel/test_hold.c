/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Hold: what a fault is, by table. What is done about it: tests/kernel. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernel/hold.h"
#include "util/bits.h"

#define WRITE UFFD_PAGEFAULT_FLAG_WRITE
#define WP    UFFD_PAGEFAULT_FLAG_WP
#define MINOR UFFD_PAGEFAULT_FLAG_MINOR

/* What is not the flags is all ones, so that taking a wrong field shows. */
static struct uffd_msg pagefault(uint64_t flags)
{
        struct uffd_msg message;

        memset(&message, 0xff, sizeof(message));
        message.event = UFFD_EVENT_PAGEFAULT;
        message.arg.pagefault.flags = flags;
        return message;
}

/* All eight combinations. Which bit says what must not depend on whether another one is set. */
static void test_is_write(void **state)
{
        static const struct {
                uint64_t flags;
                bool write;
        } rows[] = {
                {0, false},     {WRITE, false},         {WP, true},         {WP | WRITE, true},
                {MINOR, false}, {MINOR | WRITE, false}, {WP | MINOR, true}, {WP | MINOR | WRITE, true},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct uffd_msg message = pagefault(rows[i].flags);

                assert_int_equal(hold_is_write(&message), rows[i].write);
                /* A flag that a later kernel adds changes nothing. */
                message = pagefault(rows[i].flags | UINT64_C(1) << 3 | UINT64_C(1) << 63);
                assert_int_equal(hold_is_write(&message), rows[i].write);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_is_write),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
