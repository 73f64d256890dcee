/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The parser of smaps and maps on anything: the text as a whole and in pieces must give the same, and every mapping that
 * is reported must be one. Input: byte 0 chooses the pieces, the text follows.
 */

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "kernel/procmaps.h"
#include "tests/fuzz/fuzz.h"
#include "tests/model/random.h"
#include "util/bits.h"

struct seen {
        uint64_t hash;
        size_t n;
};

static void add(struct seen *seen, const void *data, size_t size)
{
        const uint8_t *bytes = data;

        for (size_t i = 0; i < size; i++)
                seen->hash = (seen->hash ^ bytes[i]) * UINT64_C(0x100000001b3);
}

static int visit(void *context, const struct vma *vma)
{
        const uint64_t numbers[] = {vma->start,     vma->end,           vma->offset,     vma->inode,
                                    vma->dev_major, vma->dev_minor,     vma->protection, vma->shared,
                                    vma->flags,     (uint64_t)vma->pkey};
        struct seen *seen = context;

        fuzz_assert(vma->start < vma->end && page_aligned(vma->start) && page_aligned(vma->end));
        fuzz_assert(!(vma->protection & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC)));
        fuzz_assert(strnlen(vma->name, sizeof(vma->name)) < sizeof(vma->name));
        fuzz_assert(!strchr(vma->name, '\n'));
        fuzz_assert(vma->pkey >= 0);
        add(seen, numbers, sizeof(numbers));
        add(seen, vma->name, strlen(vma->name));
        seen->n++;
        return 0;
}

static int parse(struct seen *seen, const char *text, size_t size, unsigned max)
{
        struct procmaps_parser parser = PROCMAPS_PARSER_INIT(visit, seen);
        struct random random = RANDOM_INIT(max);
        int r = 0;

        while (!r && size > 0) {
                size_t n = max ? 1 + random_below(&random, max) : size;

                n = MIN(n, size);
                r = procmaps_feed(&parser, text, n);
                text += n;
                size -= n;
        }
        return r ? r : procmaps_finish(&parser);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct seen whole = {0}, pieces = {0};
        int r;

        if (size < 1)
                return 0;
        r = parse(&whole, (const char *)data + 1, size - 1, 0);
        fuzz_assert(r == 0 || r == -EBADMSG);
        fuzz_assert(parse(&pieces, (const char *)data + 1, size - 1, 1U + data[0]) == r);
        fuzz_assert(pieces.hash == whole.hash && pieces.n == whole.n);
        return 0;
}
