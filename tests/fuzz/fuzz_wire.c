/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wire_check() on anything: it must not read beyond the packet, and what it lets through must have every
 * property that the code behind it relies on.
 *
 * Input: byte 0 the sender, byte 1 the number of descriptors, byte 2 what to repair, byte 3 the type; then
 * the packet. A random packet would fail at its header nearly always, so that the size, the type and the
 * count can be put right.
 */

#include <stdbool.h>
#include <string.h>

#include "libwp/wire.h"
#include "tests/fuzz/fuzz.h"
#include "util/bits.h"

enum repair {
        REPAIR_SIZE = 1,
        REPAIR_TYPE = 2,
        REPAIR_COUNT = 4,
        REPAIR_DESCRIPTORS = 8,
        REPAIR_BODY = 16,
};

/* Lists of the protocol as the header file has it; a copy is aligned. */
union packet {
        struct wire_header header;
        struct wire_reply reply;
        struct wire_batch batch;
        struct wire_result result;
        struct wire_range range;
        uint8_t bytes[WIRE_MAX_MESSAGE];
};

static void check_batch(const struct wire_batch *batch, size_t size)
{
        fuzz_assert(batch->n_runs >= 1 && batch->n_runs <= WIRE_BATCH_RUNS);
        fuzz_assert(size == sizeof(*batch) + batch->n_runs * sizeof(batch->runs[0]));
        for (uint32_t i = 0; i < batch->n_runs; i++) {
                const struct wire_run *run = &batch->runs[i];
                uint64_t bytes = (uint64_t)run->n_pages << PAGE_SHIFT;

                fuzz_assert(run->kind >= WIRE_RUN_MERGE && run->kind < WIRE_RUN_N_KINDS);
                fuzz_assert(run->n_pages >= 1 && run->n_pages <= WIRE_RUN_PAGES);
                fuzz_assert(run->address + bytes > run->address && page_aligned(run->address));
                fuzz_assert(run->pool_offset + bytes > run->pool_offset && page_aligned(run->pool_offset));
        }
}

static void check_result(const struct wire_result *result, size_t size)
{
        fuzz_assert(result->n_runs >= 1 && result->n_runs <= WIRE_BATCH_RUNS);
        fuzz_assert(size == sizeof(*result) + result->n_runs * sizeof(result->runs[0]));
        for (uint32_t i = 0; i < result->n_runs; i++) {
                const struct wire_run_result *run = &result->runs[i];

                fuzz_assert(run->error <= 0);
                for (size_t page = 0; page < WIRE_RUN_PAGES; page++)
                        fuzz_assert(!bitmap_get(run->done, page) ||
                                    (!run->error && !bitmap_get(run->busy, page)));
        }
}

static void check_accepted(const union packet *packet, size_t size)
{
        fuzz_assert(packet->header.size == size);
        fuzz_assert(packet->header.type >= WIRE_HELLO && packet->header.type < WIRE_N_TYPES);
        if (packet->header.type == WIRE_REPLY)
                fuzz_assert(strnlen(packet->reply.detail, WIRE_MAX_DETAIL) < WIRE_MAX_DETAIL);
        if (packet->header.type == WIRE_BATCH)
                check_batch(&packet->batch, size);
        if (packet->header.type == WIRE_RESULT)
                check_result(&packet->result, size);
}

/* One field in 64 is left as it came. */
static bool left_alone(uint64_t value)
{
        return (value >> 2 & 63) == 0;
}

static void repair_run(uint8_t *bytes)
{
        struct wire_run run;

        memcpy(&run, bytes, sizeof(run));
        if (!left_alone(run.kind))
                run.kind = WIRE_RUN_MERGE + run.kind % (WIRE_RUN_N_KINDS - WIRE_RUN_MERGE);
        if (!left_alone(run.n_pages))
                run.n_pages = 1 + run.n_pages % WIRE_RUN_PAGES;
        if (!left_alone(run.address))
                run.address = page_down(run.address);
        if (!left_alone(run.pool_offset))
                run.pool_offset = run.kind == WIRE_RUN_MERGE ? page_down(run.pool_offset) : 0;
        memcpy(bytes, &run, sizeof(run));
}

static void repair_run_result(uint8_t *bytes)
{
        struct wire_run_result result;
        bool disjoint;

        memcpy(&result, bytes, sizeof(result));
        disjoint = !left_alone(result.done[0]);
        result.error = left_alone((uint32_t)result.error) ? result.error : 0;
        result.reserved = left_alone(result.reserved) ? result.reserved : 0;
        for (size_t i = 0; disjoint && i < ARRAY_SIZE(result.busy); i++)
                result.busy[i] &= ~result.done[i];
        memcpy(bytes, &result, sizeof(result));
}

static void repair_reply(uint8_t *bytes)
{
        struct wire_reply reply;

        memcpy(&reply, bytes, sizeof(reply));
        if (!left_alone((uint32_t)reply.error))
                reply.error = -(reply.error & 4095);
        memcpy(bytes, &reply, sizeof(reply));
}

/* A number of whole elements, whatever follows the last one. */
static uint32_t repair_list(uint8_t *packet, size_t size, uint32_t type, bool elements)
{
        size_t item = type == WIRE_BATCH ? sizeof(struct wire_run) : sizeof(struct wire_run_result);
        uint32_t n_runs = (uint32_t)((size - sizeof(struct wire_batch)) / item);

        for (uint32_t i = 0; elements && i < n_runs; i++) {
                if (type == WIRE_BATCH)
                        repair_run(packet + sizeof(struct wire_batch) + i * item);
                else
                        repair_run_result(packet + sizeof(struct wire_result) + i * item);
        }
        return n_runs;
}

static void repair(uint8_t *packet, size_t size, unsigned what, uint32_t type)
{
        uint32_t count[2] = {0}, length = (uint32_t)size;

        if (what & REPAIR_SIZE && size >= sizeof(struct wire_header))
                memcpy(packet + offsetof(struct wire_header, size), &length, sizeof(length));
        if (what & REPAIR_TYPE && size >= sizeof(struct wire_header))
                memcpy(packet + offsetof(struct wire_header, type), &type, sizeof(type));
        if (what & REPAIR_BODY && type == WIRE_REPLY && size == sizeof(struct wire_reply))
                repair_reply(packet);
        if (what & REPAIR_COUNT && size >= sizeof(struct wire_batch)) {
                count[0] = repair_list(packet, size, type, what & REPAIR_BODY);
                memcpy(packet + offsetof(struct wire_batch, n_runs), count, sizeof(count));
        }
}

static unsigned n_fds_of(uint32_t type)
{
        switch (type) {
        case WIRE_HELLO:
                return 2;
        case WIRE_WELCOME:
                return 5;
        case WIRE_CONTEXTS:
                return 4;
        case WIRE_CHILD:
                return 1;
        default:
                return 0;
        }
}

/* Cuts a packet to a size that its type may have, if it is to be put right and long enough. */
static size_t size_of(uint32_t type, size_t size, unsigned what)
{
        static const size_t sizes[WIRE_N_TYPES + 1] = {
                [WIRE_HELLO] = sizeof(struct wire_hello),
                [WIRE_WELCOME] = sizeof(struct wire_welcome),
                [WIRE_CONTEXTS] = sizeof(struct wire_contexts),
                [WIRE_REGISTER] = sizeof(struct wire_register),
                [WIRE_UNREGISTER] = sizeof(struct wire_range),
                [WIRE_EXCLUDE] = sizeof(struct wire_range),
                [WIRE_INCLUDE] = sizeof(struct wire_range),
                [WIRE_STAT] = sizeof(struct wire_range),
                [WIRE_REPLY] = sizeof(struct wire_reply),
                [WIRE_BATCH] = sizeof(struct wire_batch),
                [WIRE_RESULT] = sizeof(struct wire_result),
                [WIRE_CHILD] = sizeof(struct wire_child),
                [WIRE_BYE] = sizeof(struct wire_bye),
        };

        if (!(what & REPAIR_SIZE) || size < sizes[type])
                return size;
        if (type == WIRE_BATCH)
                return size - (size - sizes[type]) % sizeof(struct wire_run);
        if (type == WIRE_RESULT)
                return size - (size - sizes[type]) % sizeof(struct wire_run_result);
        return sizes[type] ? sizes[type] : size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static union packet packet;
        const char *reason = NULL;
        enum wire_side sender;
        unsigned n_fds;
        uint32_t type;
        uint8_t *copy;
        int r;

        if (size < 4 || size - 4 > WIRE_MAX_MESSAGE)
                return 0;
        type = data[3] % (WIRE_N_TYPES + 1);
        size = size_of(type, size - 4, data[2]);
        sender = data[0] & 1 ? WIRE_FROM_DAEMON : WIRE_FROM_CLIENT;
        n_fds = data[2] & REPAIR_DESCRIPTORS ? n_fds_of(type) : data[1];
        copy = malloc(size + 1); /* an odd address */
        fuzz_assert(copy);
        memcpy(copy + 1, data + 4, size);
        repair(copy + 1, size, data[2], type);
        r = wire_check(copy + 1, size, n_fds, sender, &reason);
        fuzz_assert(r == 0 || r == -EBADMSG);
        fuzz_assert((r < 0) == (reason != NULL));
        memcpy(packet.bytes, copy + 1, size);
        free(copy);
        if (r == 0)
                check_accepted(&packet, size);
        return 0;
}
