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
        struct wire_faults faults;
        struct wire_written written;
        struct wire_hello hello;
        struct wire_welcome welcome;
        struct wire_contexts contexts;
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

static void check_faults(const struct wire_faults *faults, size_t size)
{
        fuzz_assert(faults->n_faults >= 1 && faults->n_faults <= WIRE_FAULTS_MAX);
        fuzz_assert(size == sizeof(*faults) + faults->n_faults * sizeof(faults->faults[0]));
        fuzz_assert(!faults->reserved);
        for (uint32_t i = 0; i < faults->n_faults; i++)
                fuzz_assert(faults->faults[i].kind >= WIRE_FAULT_WRITE &&
                            faults->faults[i].kind < WIRE_FAULT_N_KINDS);
}

static void check_written(const struct wire_written *written, size_t size)
{
        fuzz_assert(written->n_ranges >= 1 && written->n_ranges <= WIRE_RANGES_MAX);
        fuzz_assert(size == sizeof(*written) + written->n_ranges * sizeof(written->ranges[0]));
        fuzz_assert(!written->reserved);
        for (uint32_t i = 0; i < written->n_ranges; i++) {
                const struct wire_written_range *range = &written->ranges[i];

                fuzz_assert(page_aligned(range->address) && page_aligned(range->length));
                fuzz_assert(range->address + range->length > range->address);
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
        if (packet->header.type == WIRE_FAULTS)
                check_faults(&packet->faults, size);
        if (packet->header.type == WIRE_WRITTEN)
                check_written(&packet->written, size);
        if (packet->header.type == WIRE_HELLO)
                fuzz_assert(!packet->hello.reserved);
        if (packet->header.type == WIRE_WELCOME)
                fuzz_assert(!packet->welcome.reserved);
        if (packet->header.type == WIRE_CONTEXTS)
                fuzz_assert(!(packet->contexts.flags & ~WIRE_CONTEXTS_RESUMED) && !packet->contexts.reserved);
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

static void repair_fault(uint8_t *bytes)
{
        struct wire_fault fault;

        memcpy(&fault, bytes, sizeof(fault));
        if (!left_alone(fault.kind))
                fault.kind = WIRE_FAULT_WRITE + fault.kind % (WIRE_FAULT_N_KINDS - WIRE_FAULT_WRITE);
        memcpy(bytes, &fault, sizeof(fault));
}

static void repair_written_range(uint8_t *bytes)
{
        struct wire_written_range range;

        memcpy(&range, bytes, sizeof(range));
        if (!left_alone(range.address))
                range.address = page_down(range.address);
        if (!left_alone(range.length))
                range.length = page_down(range.length >> 1);
        memcpy(bytes, &range, sizeof(range));
}

static void repair_hello(uint8_t *bytes)
{
        struct wire_hello hello;

        memcpy(&hello, bytes, sizeof(hello));
        hello.reserved = left_alone(hello.reserved) ? hello.reserved : 0;
        memcpy(bytes, &hello, sizeof(hello));
}

static void repair_welcome(uint8_t *bytes)
{
        struct wire_welcome welcome;

        memcpy(&welcome, bytes, sizeof(welcome));
        welcome.reserved = left_alone(welcome.reserved) ? welcome.reserved : 0;
        memcpy(bytes, &welcome, sizeof(welcome));
}

static void repair_contexts(uint8_t *bytes)
{
        struct wire_contexts contexts;

        memcpy(&contexts, bytes, sizeof(contexts));
        if (!left_alone(contexts.flags))
                contexts.flags &= WIRE_CONTEXTS_RESUMED;
        contexts.reserved = left_alone(contexts.reserved) ? contexts.reserved : 0;
        memcpy(bytes, &contexts, sizeof(contexts));
}

static void repair_range(uint8_t *bytes, bool whole)
{
        struct wire_range range;

        memcpy(&range, bytes, sizeof(range));
        range.reserved = left_alone(range.reserved) ? range.reserved : 0;
        if (whole && !left_alone(range.offset))
                range.offset = 0;
        if (whole && !left_alone(range.length))
                range.length = 0;
        memcpy(bytes, &range, sizeof(range));
}

/* The fixed part and one element of the types that have a list. */
static const struct list_type {
        size_t head;
        size_t item;
        void (*repair)(uint8_t *bytes);
} lists[WIRE_N_TYPES + 1] = {
        [WIRE_BATCH] = {sizeof(struct wire_batch), sizeof(struct wire_run), repair_run},
        [WIRE_RESULT] = {sizeof(struct wire_result), sizeof(struct wire_run_result), repair_run_result},
        [WIRE_WRITTEN] = {sizeof(struct wire_written), sizeof(struct wire_written_range),
                          repair_written_range},
        [WIRE_FAULTS] = {sizeof(struct wire_faults), sizeof(struct wire_fault), repair_fault},
};

/* A number of whole elements, whatever follows the last one. */
static void repair_list(uint8_t *packet, size_t size, const struct list_type *list, bool elements)
{
        uint32_t count[2] = {(uint32_t)((size - list->head) / list->item), 0};

        for (uint32_t i = 0; elements && i < count[0]; i++)
                list->repair(packet + list->head + i * list->item);
        memcpy(packet + offsetof(struct wire_batch, n_runs), count, sizeof(count));
}

static void repair_body(uint8_t *packet, size_t size, uint32_t type)
{
        bool whole = type == WIRE_UNREGISTER || type == WIRE_STAT;

        if (type == WIRE_HELLO && size == sizeof(struct wire_hello))
                repair_hello(packet);
        else if (type == WIRE_WELCOME && size == sizeof(struct wire_welcome))
                repair_welcome(packet);
        else if (type == WIRE_CONTEXTS && size == sizeof(struct wire_contexts))
                repair_contexts(packet);
        else if (type == WIRE_REPLY && size == sizeof(struct wire_reply))
                repair_reply(packet);
        else if ((whole || type == WIRE_EXCLUDE || type == WIRE_INCLUDE || type == WIRE_PROTECT ||
                  type == WIRE_RELEASE) &&
                 size == sizeof(struct wire_range))
                repair_range(packet, whole);
}

static void repair(uint8_t *packet, size_t size, unsigned what, uint32_t type)
{
        uint32_t length = (uint32_t)size;

        if (what & REPAIR_SIZE && size >= sizeof(struct wire_header))
                memcpy(packet + offsetof(struct wire_header, size), &length, sizeof(length));
        if (what & REPAIR_TYPE && size >= sizeof(struct wire_header))
                memcpy(packet + offsetof(struct wire_header, type), &type, sizeof(type));
        if (what & REPAIR_BODY)
                repair_body(packet, size, type);
        if (what & REPAIR_COUNT && lists[type].item && size >= lists[type].head)
                repair_list(packet, size, &lists[type], what & REPAIR_BODY);
}

static unsigned n_fds_of(uint32_t type)
{
        switch (type) {
        case WIRE_HELLO:
        case WIRE_WELCOME:
                return 2;
        case WIRE_CONTEXTS:
                return 5;
        case WIRE_CHILD:
        case WIRE_GRANDCHILD:
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
                [WIRE_PROTECT] = sizeof(struct wire_range),
                [WIRE_RELEASE] = sizeof(struct wire_range),
                [WIRE_MERGE] = sizeof(struct wire_range),
                [WIRE_UNMERGE] = sizeof(struct wire_range),
                [WIRE_STAT] = sizeof(struct wire_range),
                [WIRE_REPLY] = sizeof(struct wire_reply),
                [WIRE_BATCH] = sizeof(struct wire_batch),
                [WIRE_RESULT] = sizeof(struct wire_result),
                [WIRE_WRITTEN] = sizeof(struct wire_written),
                [WIRE_FAULTS] = sizeof(struct wire_faults),
                [WIRE_CHILD] = sizeof(struct wire_child),
                [WIRE_GRANDCHILD] = sizeof(struct wire_grandchild),
                [WIRE_BYE] = sizeof(struct wire_bye),
        };

        if (!(what & REPAIR_SIZE) || size < sizes[type])
                return size;
        if (lists[type].item)
                return size - (size - sizes[type]) % lists[type].item;
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
