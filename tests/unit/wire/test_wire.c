/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wire_check(): each message as it should be, and with every field changed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libwp/wire.h"
#include "util/bits.h"

#define N_RUNS 3

/* The longest list that is tried: longer than any type allows. */
#define LONGEST_LIST (MAX(WIRE_BATCH_RUNS, MAX(WIRE_FAULTS_MAX, WIRE_RANGES_MAX)) + 1)

/* A good message of each type; lists have N_RUNS elements. */
union message {
        struct wire_header header;
        struct wire_hello hello;
        struct wire_welcome welcome;
        struct wire_contexts contexts;
        struct wire_register registration;
        struct wire_range range;
        struct wire_reply reply;
        struct wire_batch batch;
        struct wire_result result;
        struct wire_faults faults;
        struct wire_written written;
        char bytes[sizeof(struct wire_result) + LONGEST_LIST * sizeof(struct wire_run_result)];
};

struct shape {
        size_t size;
        unsigned n_fds;
        enum wire_side sender;
};

#define BATCH_SIZE(_n)   (sizeof(struct wire_batch) + (_n) * sizeof(struct wire_run))
#define RESULT_SIZE(_n)  (sizeof(struct wire_result) + (_n) * sizeof(struct wire_run_result))
#define FAULTS_SIZE(_n)  (sizeof(struct wire_faults) + (_n) * sizeof(struct wire_fault))
#define WRITTEN_SIZE(_n) (sizeof(struct wire_written) + (_n) * sizeof(struct wire_written_range))

static const struct shape shapes[WIRE_N_TYPES] = {
        [WIRE_HELLO] = {24, 2, WIRE_FROM_CLIENT},
        [WIRE_WELCOME] = {32, 2, WIRE_FROM_DAEMON},
        [WIRE_CONTEXTS] = {24, 8, WIRE_FROM_CLIENT},
        [WIRE_REGISTER] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_UNREGISTER] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_EXCLUDE] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_INCLUDE] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_PROTECT] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_RELEASE] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_MERGE] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_UNMERGE] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_STAT] = {40, 0, WIRE_FROM_CLIENT},
        [WIRE_REPLY] = {sizeof(struct wire_reply), 0, WIRE_FROM_DAEMON},
        [WIRE_BATCH] = {BATCH_SIZE(N_RUNS), 0, WIRE_FROM_DAEMON},
        [WIRE_RESULT] = {RESULT_SIZE(N_RUNS), 0, WIRE_FROM_CLIENT},
        [WIRE_WRITTEN] = {WRITTEN_SIZE(N_RUNS), 0, WIRE_FROM_DAEMON},
        [WIRE_FAULTS] = {FAULTS_SIZE(N_RUNS), 0, WIRE_FROM_CLIENT},
        [WIRE_CHILD] = {24, 1, WIRE_FROM_CLIENT},
        [WIRE_GRANDCHILD] = {16, 1, WIRE_FROM_DAEMON},
        [WIRE_BYE] = {16, 0, WIRE_FROM_CLIENT},
        [WIRE_FILE] = {24, 1, WIRE_FROM_DAEMON},
        [WIRE_FILE_GONE] = {24, 0, WIRE_FROM_DAEMON},
};

static void build(union message *message, enum wire_type type)
{
        memset(message, 0, sizeof(*message));
        wire_init(message, type, shapes[type].size, 42);
        if (type == WIRE_HELLO)
                message->hello.version = WIRE_VERSION;
        if (type == WIRE_REPLY)
                memset(message->reply.detail, 'x', WIRE_MAX_DETAIL - 1);
        if (type != WIRE_BATCH && type != WIRE_RESULT && type != WIRE_WRITTEN && type != WIRE_FAULTS)
                return;
        message->batch.n_runs = N_RUNS;
        for (unsigned i = 0; i < N_RUNS; i++) {
                if (type == WIRE_BATCH)
                        message->batch.runs[i] =
                                (struct wire_run){.kind = i + 1, .n_pages = 1 + i, .address = (i + 1) << 20};
                else if (type == WIRE_RESULT)
                        message->result.runs[i].done[0] = i;
                else if (type == WIRE_WRITTEN)
                        message->written.ranges[i] = (struct wire_written_range){
                                .address = (i + 1) << 20, .length = (i + 1) * PAGE_BYTES};
                else
                        message->faults.faults[i] = (struct wire_fault){
                                .address = (i << 20) + 12345, .kind = WIRE_FAULT_WRITE + i, .latency_ns = 9};
        }
}

/* Checks an exact-size copy at an odd address, so that a sanitizer sees every read that strays. */
static int check(const void *message, size_t size, unsigned n_fds, enum wire_side sender)
{
        char *copy = malloc(size + 1);
        const char *reason = NULL;
        int r;

        assert_non_null(copy);
        memcpy(copy + 1, message, size);
        r = wire_check(copy + 1, size, n_fds, sender, &reason);
        free(copy);
        if (r == 0) {
                assert_null(reason);
        } else {
                assert_int_equal(r, -EBADMSG);
                assert_true(reason && *reason);
        }
        return r;
}

static int check_type(const union message *message, enum wire_type type)
{
        return check(message, shapes[type].size, shapes[type].n_fds, shapes[type].sender);
}

static void test_good(void **state)
{
        union message message;

        for (unsigned type = 1; type < WIRE_N_TYPES; type++) {
                build(&message, type);
                assert_int_equal(message.header.type, type);
                assert_int_equal(message.header.serial, 42);
                assert_int_equal(check_type(&message, type), 0);
        }
}

static void test_wrong_side(void **state)
{
        union message message;

        for (unsigned type = 1; type < WIRE_N_TYPES; type++) {
                build(&message, type);
                assert_int_equal(check(&message, shapes[type].size, shapes[type].n_fds, !shapes[type].sender),
                                 -EBADMSG);
        }
}

static void test_descriptors(void **state)
{
        union message message;

        for (unsigned type = 1; type < WIRE_N_TYPES; type++) {
                build(&message, type);
                for (unsigned n_fds = 0; n_fds <= WIRE_MAX_FDS + 1; n_fds++)
                        assert_int_equal(check(&message, shapes[type].size, n_fds, shapes[type].sender),
                                         n_fds == shapes[type].n_fds ? 0 : -EBADMSG);
                assert_int_equal(check(&message, shapes[type].size, UINT32_MAX, shapes[type].sender),
                                 -EBADMSG);
        }
}

/* Every length but the right one, whether the header tells it or not. */
static void test_sizes(void **state)
{
        union message message;

        for (unsigned type = 1; type < WIRE_N_TYPES; type++) {
                const struct shape *shape = &shapes[type];

                for (size_t size = 0; size < shape->size + 300; size++) {
                        build(&message, type);
                        assert_int_equal(check(&message, size, shape->n_fds, shape->sender),
                                         size == shape->size ? 0 : -EBADMSG);
                        message.header.size = (uint32_t)size;
                        assert_int_equal(check(&message, size, shape->n_fds, shape->sender),
                                         size == shape->size ? 0 : -EBADMSG);
                }
                build(&message, type);
                message.header.size = UINT32_MAX;
                assert_int_equal(check_type(&message, type), -EBADMSG);
        }
}

static void test_types(void **state)
{
        static const uint32_t unknown[] = {0, WIRE_N_TYPES, WIRE_N_TYPES + 1, 256, 1U << 31, UINT32_MAX};
        union message message;

        for (unsigned type = 1; type < WIRE_N_TYPES; type++) {
                for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
                        build(&message, type);
                        message.header.type = unknown[i];
                        assert_int_equal(check_type(&message, type), -EBADMSG);
                }
        }
}

/* One field set to one value. */
struct change {
        enum wire_type type;
        size_t offset;
        size_t width;
        uint64_t value;
        bool good;
};

#define FIELD(_type, _struct, _field, _value, _good)                                                         \
        {                                                                                                    \
                _type, offsetof(struct _struct, _field), sizeof(((struct _struct *)0)->_field),              \
                        (uint64_t)(_value), _good                                                            \
        }
#define RUN(_i, _field, _value, _good)                                                                       \
        {                                                                                                    \
                WIRE_BATCH, BATCH_SIZE(_i) + offsetof(struct wire_run, _field),                              \
                        sizeof(((struct wire_run *)0)->_field), (uint64_t)(_value), _good                    \
        }
#define RESULT(_i, _field, _value, _good)                                                                    \
        {                                                                                                    \
                WIRE_RESULT, RESULT_SIZE(_i) + offsetof(struct wire_run_result, _field),                     \
                        sizeof(((struct wire_run_result *)0)->_field), (uint64_t)(_value), _good             \
        }

#define FAULT(_i, _field, _value, _good)                                                                     \
        {                                                                                                    \
                WIRE_FAULTS, FAULTS_SIZE(_i) + offsetof(struct wire_fault, _field),                          \
                        sizeof(((struct wire_fault *)0)->_field), (uint64_t)(_value), _good                  \
        }

#define RANGE(_i, _field, _value, _good)                                                                     \
        {                                                                                                    \
                WIRE_WRITTEN, WRITTEN_SIZE(_i) + offsetof(struct wire_written_range, _field),                \
                        sizeof(((struct wire_written_range *)0)->_field), (uint64_t)(_value), _good          \
        }

static const struct change changes[] = {
        FIELD(WIRE_HELLO, wire_hello, header.serial, UINT64_MAX, true),
        FIELD(WIRE_HELLO, wire_hello, version, UINT32_MAX, true),
        FIELD(WIRE_HELLO, wire_hello, reserved, 1, false),
        FIELD(WIRE_WELCOME, wire_welcome, version, 0, true),
        FIELD(WIRE_WELCOME, wire_welcome, version, UINT32_MAX, true),
        FIELD(WIRE_WELCOME, wire_welcome, reserved, 1, false),
        FIELD(WIRE_WELCOME, wire_welcome, reserved, 1U << 31, false),
        FIELD(WIRE_WELCOME, wire_welcome, pool_bytes, 0, true),
        FIELD(WIRE_WELCOME, wire_welcome, pool_bytes, UINT64_MAX, true),
        FIELD(WIRE_CONTEXTS, wire_contexts, header.serial, 0, true),
        FIELD(WIRE_CONTEXTS, wire_contexts, flags, WIRE_CONTEXTS_RESUMED, true),
        FIELD(WIRE_CONTEXTS, wire_contexts, flags, WIRE_CONTEXTS_RESUMED << 1, false),
        FIELD(WIRE_CONTEXTS, wire_contexts, flags, WIRE_CONTEXTS_RESUMED | 1U << 31, false),
        FIELD(WIRE_CONTEXTS, wire_contexts, flags, 1U << 31, false),
        FIELD(WIRE_CONTEXTS, wire_contexts, flags, UINT32_MAX, false),
        FIELD(WIRE_CONTEXTS, wire_contexts, reserved, 1, false),
        FIELD(WIRE_CONTEXTS, wire_contexts, reserved, 1U << 31, false),
        FIELD(WIRE_REGISTER, wire_register, address, 1, true),
        FIELD(WIRE_REGISTER, wire_register, length, UINT64_MAX, true),
        FIELD(WIRE_REGISTER, wire_register, flags, UINT64_MAX, true),
        FIELD(WIRE_UNREGISTER, wire_range, region, UINT32_MAX, true),
        FIELD(WIRE_UNREGISTER, wire_range, reserved, 1, false),
        FIELD(WIRE_UNREGISTER, wire_range, offset, 4096, false),
        FIELD(WIRE_UNREGISTER, wire_range, length, 4096, false),
        FIELD(WIRE_STAT, wire_range, region, UINT32_MAX, true),
        FIELD(WIRE_STAT, wire_range, reserved, 1U << 31, false),
        FIELD(WIRE_STAT, wire_range, offset, UINT64_C(1) << 63, false),
        FIELD(WIRE_STAT, wire_range, length, 1, false),
        FIELD(WIRE_EXCLUDE, wire_range, region, UINT32_MAX, true),
        FIELD(WIRE_EXCLUDE, wire_range, reserved, 1, false),
        FIELD(WIRE_EXCLUDE, wire_range, offset, UINT64_MAX, true),
        FIELD(WIRE_EXCLUDE, wire_range, length, UINT64_MAX, true),
        FIELD(WIRE_INCLUDE, wire_range, region, UINT32_MAX, true),
        FIELD(WIRE_INCLUDE, wire_range, reserved, 1, false),
        FIELD(WIRE_INCLUDE, wire_range, offset, UINT64_MAX, true),
        FIELD(WIRE_INCLUDE, wire_range, length, UINT64_MAX, true),
        FIELD(WIRE_PROTECT, wire_range, reserved, 1, false),
        FIELD(WIRE_PROTECT, wire_range, offset, UINT64_MAX, true),
        FIELD(WIRE_RELEASE, wire_range, reserved, 1, false),
        FIELD(WIRE_RELEASE, wire_range, length, UINT64_MAX, true),
        FIELD(WIRE_REPLY, wire_reply, error, 0, true),
        FIELD(WIRE_REPLY, wire_reply, error, -EINVAL, true),
        FIELD(WIRE_REPLY, wire_reply, error, -4095, true),
        FIELD(WIRE_REPLY, wire_reply, error, -4096, false),
        FIELD(WIRE_REPLY, wire_reply, error, 1, false),
        FIELD(WIRE_REPLY, wire_reply, error, INT32_MAX, false),
        FIELD(WIRE_REPLY, wire_reply, error, INT32_MIN, false),
        FIELD(WIRE_REPLY, wire_reply, region, UINT32_MAX, true),
        FIELD(WIRE_REPLY, wire_reply, stat[7], UINT64_MAX, true),
        FIELD(WIRE_REPLY, wire_reply, detail[0], 0, true),
        FIELD(WIRE_REPLY, wire_reply, detail[WIRE_MAX_DETAIL - 1], 'x', false),
        FIELD(WIRE_BATCH, wire_batch, n_runs, 0, false),
        FIELD(WIRE_BATCH, wire_batch, n_runs, N_RUNS - 1, false),
        FIELD(WIRE_BATCH, wire_batch, n_runs, N_RUNS + 1, false),
        FIELD(WIRE_BATCH, wire_batch, n_runs, WIRE_BATCH_RUNS, false),
        FIELD(WIRE_BATCH, wire_batch, n_runs, UINT32_MAX, false),
        /* Counts whose lists would have the packet's length if the product wrapped around. */
        FIELD(WIRE_BATCH, wire_batch, n_runs, (1U << 29) + N_RUNS, false),
        FIELD(WIRE_BATCH, wire_batch, reserved, 1, false),
        RUN(0, kind, 0, false),
        RUN(0, kind, WIRE_RUN_N_KINDS, false),
        RUN(2, kind, UINT32_MAX, false),
        RUN(0, n_pages, 0, false),
        RUN(0, n_pages, WIRE_RUN_PAGES, true),
        RUN(0, n_pages, WIRE_RUN_PAGES + 1, false),
        RUN(2, n_pages, UINT32_MAX, false),
        RUN(0, address, 0, true),
        RUN(0, address, 1, false),
        RUN(2, address, 0x1800, false),
        RUN(0, address, UINT64_MAX - 0xfff, false),
        RUN(2, address, UINT64_MAX - 0x2fff, false),
        RUN(2, address, UINT64_MAX - 0x3fff, true),
        RUN(0, pool_offset, 0x7000, true),
        RUN(0, pool_offset, 0x7001, false),
        RUN(0, file, 1, false),
        RUN(0, reserved, 1, false),
        RUN(2, file, 1, false),
        RUN(0, pool_offset, UINT64_MAX - 0xfff, false),
        RUN(0, pool_offset, UINT64_MAX - 0x1fff, true),
        RUN(1, pool_offset, 0x7000, false),
        RUN(2, pool_offset, 0x7000, false),
        FIELD(WIRE_RESULT, wire_result, n_runs, 0, false),
        FIELD(WIRE_RESULT, wire_result, n_runs, N_RUNS + 1, false),
        FIELD(WIRE_RESULT, wire_result, n_runs, UINT32_MAX, false),
        FIELD(WIRE_RESULT, wire_result, n_runs, (1U << 29) + N_RUNS, false),
        FIELD(WIRE_RESULT, wire_result, reserved, 1, false),
        RESULT(0, error, -EBUSY, true),
        RESULT(1, error, -EBUSY, false), /* done[0] is 1 there */
        RESULT(0, error, 1, false),
        RESULT(0, error, -4096, false),
        RESULT(2, error, INT32_MIN, false),
        RESULT(0, reserved, 1, false),
        RESULT(2, reserved, 1U << 31, false),
        RESULT(0, done[7], UINT64_MAX, true),
        RESULT(0, busy[7], UINT64_MAX, true),
        RESULT(1, busy[0], 1, false), /* done and busy at once */
        RESULT(1, busy[0], 2, true),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, 0, false),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, N_RUNS - 1, false),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, N_RUNS + 1, false),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, WIRE_RANGES_MAX, false),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, UINT32_MAX, false),
        FIELD(WIRE_WRITTEN, wire_written, n_ranges, (1U << 28) + N_RUNS, false),
        FIELD(WIRE_WRITTEN, wire_written, reserved, 1, false),
        FIELD(WIRE_WRITTEN, wire_written, reserved, 1U << 31, false),
        RANGE(0, address, 0, true),
        RANGE(0, address, 1, false),
        RANGE(2, address, 0x1800, false),
        RANGE(0, length, 0, false),
        RANGE(2, length, 0, false),
        RANGE(0, length, 1, false),
        RANGE(2, length, 0x1800, false),
        RANGE(1, length, UINT64_C(1) << 46, true),
        RANGE(0, address, UINT64_MAX - 0xfff, false),
        RANGE(2, address, UINT64_MAX - 0x2fff, false),
        RANGE(2, address, UINT64_MAX - 0x3fff, true),
        RANGE(0, length, UINT64_MAX - 0xfff, false),
        FIELD(WIRE_FAULTS, wire_faults, header.serial, UINT64_MAX, true),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, 0, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, N_RUNS - 1, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, N_RUNS + 1, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, WIRE_FAULTS_MAX, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, WIRE_FAULTS_MAX + 1, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, UINT32_MAX, false),
        FIELD(WIRE_FAULTS, wire_faults, n_faults, (1U << 28) + N_RUNS, false),
        FIELD(WIRE_FAULTS, wire_faults, reserved, 1, false),
        FIELD(WIRE_FAULTS, wire_faults, reserved, 1U << 31, false),
        FIELD(WIRE_FAULTS, wire_faults, cpu_ns, UINT64_MAX, true),
        FAULT(0, kind, 0, false),
        FAULT(0, kind, WIRE_FAULT_CHILD, true),
        FAULT(2, kind, WIRE_FAULT_WRITE, true),
        FAULT(0, kind, WIRE_FAULT_N_KINDS, false),
        FAULT(1, kind, UINT32_MAX, false),
        FAULT(2, kind, WIRE_FAULT_N_KINDS, false),
        /* Where the fault was, is as the kernel gave it: it is looked up, not trusted. */
        FAULT(0, address, 0, true),
        FAULT(0, address, 1, true),
        FAULT(2, address, UINT64_MAX, true),
        FAULT(0, latency_ns, 0, true),
        FAULT(2, latency_ns, UINT32_MAX, true),
        FIELD(WIRE_CHILD, wire_child, header.serial, UINT64_MAX, true),
        FIELD(WIRE_CHILD, wire_child, flags, WIRE_CHILD_SOLE, true),
        FIELD(WIRE_CHILD, wire_child, flags, 2, false),
        FIELD(WIRE_CHILD, wire_child, reserved, 1, false),
};

static void test_changes(void **state)
{
        union message message;

        for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
                const struct change *change = &changes[i];

                build(&message, change->type);
                memcpy(message.bytes + change->offset, &change->value, change->width);
                if (check_type(&message, change->type) != (change->good ? 0 : -EBADMSG))
                        fail_msg("changes[%zu]: type %u, offset %zu, value %#lx", i, (unsigned)change->type,
                                 change->offset, (unsigned long)change->value);
        }
}

static size_t list_size(enum wire_type type, uint32_t n)
{
        switch (type) {
        case WIRE_BATCH:
                return BATCH_SIZE(n);
        case WIRE_RESULT:
                return RESULT_SIZE(n);
        case WIRE_WRITTEN:
                return WRITTEN_SIZE(n);
        default:
                return FAULTS_SIZE(n);
        }
}

/* A list of n elements that are all good. */
static size_t build_list(union message *message, enum wire_type type, uint32_t n)
{
        size_t size = list_size(type, n);

        memset(message, 0, sizeof(*message));
        wire_init(message, type, size, 1);
        message->batch.n_runs = n;
        for (uint32_t i = 0; i < n; i++) {
                if (type == WIRE_BATCH)
                        message->batch.runs[i] = (struct wire_run){.kind = WIRE_RUN_ZERO, .n_pages = 1};
                else if (type == WIRE_WRITTEN)
                        message->written.ranges[i] = (struct wire_written_range){.length = PAGE_BYTES};
                else if (type == WIRE_FAULTS)
                        message->faults.faults[i] = (struct wire_fault){.kind = WIRE_FAULT_DISCARD};
        }
        return size;
}

static const struct list_type {
        enum wire_type type;
        uint32_t max;
} list_types[] = {
        {WIRE_BATCH, WIRE_BATCH_RUNS},
        {WIRE_RESULT, WIRE_BATCH_RUNS},
        {WIRE_WRITTEN, WIRE_RANGES_MAX},
        {WIRE_FAULTS, WIRE_FAULTS_MAX},
};

static void test_list_lengths(void **state)
{
        union message message;

        for (size_t k = 0; k < ARRAY_SIZE(list_types); k++)
                for (uint32_t n = 0; n <= LONGEST_LIST; n++) {
                        size_t size = build_list(&message, list_types[k].type, n);

                        assert_int_equal(check(&message, size, 0, shapes[list_types[k].type].sender),
                                         n >= 1 && n <= list_types[k].max ? 0 : -EBADMSG);
                }
}

/* A fault in the last element is found like one in the first. */
static void test_every_element_is_checked(void **state)
{
        union message message;

        for (size_t k = 0; k < ARRAY_SIZE(list_types); k++)
                for (uint32_t bad = 0; bad < list_types[k].max; bad++) {
                        size_t size = build_list(&message, list_types[k].type, list_types[k].max);

                        if (list_types[k].type == WIRE_BATCH)
                                message.batch.runs[bad].n_pages = 0;
                        else if (list_types[k].type == WIRE_RESULT)
                                message.result.runs[bad].error = 1;
                        else if (list_types[k].type == WIRE_WRITTEN)
                                message.written.ranges[bad].length = 0;
                        else
                                message.faults.faults[bad].kind = WIRE_FAULT_N_KINDS;
                        assert_int_equal(check(&message, size, 0, shapes[list_types[k].type].sender),
                                         -EBADMSG);
                }
}

/* Nobody may be mistaken for who speaks the version before this one: other sizes, or other numbers of descriptors. */
static void test_version_before(void **state)
{
        union message message;

        memset(&message, 0, sizeof(message));
        wire_init(&message, WIRE_CONTEXTS, 16, 0);
        assert_int_equal(check(&message, 16, 4, WIRE_FROM_CLIENT), -EBADMSG);
        build(&message, WIRE_CONTEXTS);
        assert_int_equal(check(&message, sizeof(struct wire_contexts), 5, WIRE_FROM_CLIENT), -EBADMSG);
        build(&message, WIRE_WELCOME);
        assert_int_equal(check(&message, sizeof(struct wire_welcome), 5, WIRE_FROM_DAEMON), -EBADMSG);
        assert_int_equal(WIRE_VERSION, 4);
        /* HELLO is as it was: whoever reads it can say what is wrong. */
        build(&message, WIRE_HELLO);
        message.hello.version = 3;
        assert_int_equal(check_type(&message, WIRE_HELLO), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_good),           cmocka_unit_test(test_wrong_side),
                cmocka_unit_test(test_descriptors),    cmocka_unit_test(test_sizes),
                cmocka_unit_test(test_types),          cmocka_unit_test(test_changes),
                cmocka_unit_test(test_list_lengths),   cmocka_unit_test(test_every_element_is_checked),
                cmocka_unit_test(test_version_before),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
