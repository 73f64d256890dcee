/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Event: every message that userfaultfd can send, and some that it cannot yet, by table. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/event.h"
#include "util/bits.h"

#define ADDRESS UINT64_C(0x7f0123456789)
#define TID     4711
#define WRITE   UFFD_PAGEFAULT_FLAG_WRITE
#define WP      UFFD_PAGEFAULT_FLAG_WP
#define MINOR   UFFD_PAGEFAULT_FLAG_MINOR

/* What a message of another kind may have left in the unused bytes: all ones, so that taking a wrong field shows. */
static struct uffd_msg message_of(uint8_t kind)
{
        struct uffd_msg message;

        memset(&message, 0xff, sizeof(message));
        message.event = kind;
        return message;
}

static struct uffd_msg pagefault(uint64_t flags)
{
        struct uffd_msg message = message_of(UFFD_EVENT_PAGEFAULT);

        message.arg.pagefault.flags = flags;
        message.arg.pagefault.address = ADDRESS;
        message.arg.pagefault.feat.ptid = TID;
        return message;
}

static void assert_event(const struct uffd_msg *message, enum event_kind kind, uint64_t address, pid_t tid,
                         int child_fd)
{
        struct event event = event_decode(message);

        assert_int_equal(event.kind, kind);
        assert_int_equal(event.address, address);
        assert_int_equal(event.tid, tid);
        assert_int_equal(event.child_fd, child_fd);
}

/* All eight combinations. Which bit says what must not depend on whether another one is set. */
static void test_pagefault(void **state)
{
        static const struct {
                uint64_t flags;
                enum event_kind kind;
        } rows[] = {
                {0, EVENT_MINOR},          {WRITE, EVENT_MINOR},
                {WP, EVENT_WRITE},         {WP | WRITE, EVENT_WRITE},
                {MINOR, EVENT_MINOR},      {MINOR | WRITE, EVENT_MINOR},
                {WP | MINOR, EVENT_WRITE}, {WP | MINOR | WRITE, EVENT_WRITE},
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct uffd_msg message = pagefault(rows[i].flags);

                assert_event(&message, rows[i].kind, ADDRESS, TID, -1);
                /* A flag that a later kernel adds changes nothing. */
                message = pagefault(rows[i].flags | UINT64_C(1) << 3 | UINT64_C(1) << 63);
                assert_event(&message, rows[i].kind, ADDRESS, TID, -1);
        }
}

/* The address is handed on as the kernel gave it, to the last bit; the thread may be unknown. */
static void test_pagefault_values(void **state)
{
        static const uint64_t addresses[] = {0, 1, PAGE_BYTES - 1, PAGE_BYTES, UINT64_C(1) << 46, UINT64_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
                struct uffd_msg message = pagefault(WP | WRITE);

                message.arg.pagefault.address = addresses[i];
                message.arg.pagefault.feat.ptid = 0;
                assert_event(&message, EVENT_WRITE, addresses[i], 0, -1);
        }
}

static void test_fork(void **state)
{
        static const int fds[] = {0, 3, 1 << 20, INT32_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
                struct uffd_msg message = message_of(UFFD_EVENT_FORK);

                message.arg.fork.ufd = (uint32_t)fds[i];
                assert_event(&message, EVENT_FORK, 0, 0, fds[i]);
        }
}

static void test_remap(void **state)
{
        struct uffd_msg message = message_of(UFFD_EVENT_REMAP);

        message.arg.remap.from = ADDRESS;
        message.arg.remap.to = 2 * PAGE_BYTES;
        message.arg.remap.len = PAGE_BYTES;
        assert_event(&message, EVENT_REMAP, 2 * PAGE_BYTES, 0, -1);
}

/* Whatever else there is or will be: nothing to answer, and above all no descriptor to close. */
static void test_other(void **state)
{
        for (unsigned kind = 0; kind <= UINT8_MAX; kind++) {
                struct uffd_msg message = message_of((uint8_t)kind);

                if (kind != UFFD_EVENT_PAGEFAULT && kind != UFFD_EVENT_FORK && kind != UFFD_EVENT_REMAP)
                        assert_event(&message, EVENT_OTHER, 0, 0, -1);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_pagefault), cmocka_unit_test(test_pagefault_values),
                cmocka_unit_test(test_fork),      cmocka_unit_test(test_remap),
                cmocka_unit_test(test_other),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
