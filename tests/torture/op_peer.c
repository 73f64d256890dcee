/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: another process reads and writes the memory. */

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "torture/op.h"
#include "torture/peer.h"

#define MAX_WORDS 8

/* What the peer did: how many bytes, or a negative errno. The reply's bytes are in the worker's buffer. */
static ssize_t ask_peer(struct worker *worker, struct peer_request *request)
{
        struct peer_reply *reply = (struct peer_reply *)worker->buffer;
        ssize_t r;

        request->pid = getpid();
        request->tid = worker->tid;
        r = send(worker->peer, request, sizeof(*request), MSG_NOSIGNAL);
        EXPECT(r == (ssize_t)sizeof(*request), "the peer is gone: %s", strerror(errno));
        do
                r = recv(worker->peer, reply, sizeof(*reply), 0);
        while (r < 0 && errno == EINTR);
        EXPECT(r == (ssize_t)sizeof(*reply), "the peer is gone: %s", strerror(errno));
        return reply->result;
}

/* Any bytes of the range, at most `max`, in units. */
static size_t draw_place(struct worker *worker, const struct range *range, size_t max, size_t unit,
                         struct peer_request *request)
{
        size_t limit = MIN(max, range_bytes(range));
        size_t length = (1 + draw(worker, limit / unit)) * unit;
        size_t offset = draw(worker, (range_bytes(range) - length) / unit + 1) * unit;

        request->address = (uintptr_t)range_memory(range) + offset;
        request->length = length;
        return offset;
}

/* doc/memory.md: through ptrace(2) and /proc/PID/mem merged pages cannot be written, nor those that are away be read. */
static bool tolerated(const struct peer_request *request, ssize_t r)
{
        bool fragile = request->call != PEER_READ && request->call != PEER_WRITE;

        return fragile && (r == -EIO || (r >= 0 && r < (ssize_t)request->length));
}

static void check_result(const struct peer_request *request, ssize_t r)
{
        if (r == (ssize_t)request->length)
                return;
        EXPECT(tolerated(request, r), "call %d of a peer, memory at %p: %zd of %zu bytes: %s", request->call,
               (void *)request->address, r, request->length, r < 0 ? strerror((int)-r) : "");
        count(COUNT_TOLERATED, 1);
}

static void peer_reads(struct worker *worker, struct area *area, enum peer_call call, size_t max, size_t unit)
{
        struct peer_request request = {.call = call};
        struct range range;
        size_t offset;
        ssize_t r;

        if (worker->peer < 0 || !range_take(worker, area, SIZE_MAX, false, &range))
                return;
        offset = draw_place(worker, &range, max, unit, &request);
        r = ask_peer(worker, &request);
        check_result(&request, r);
        if (r > 0 &&
            memcmp(((struct peer_reply *)worker->buffer)->bytes, range_shadow(&range) + offset, (size_t)r)) {
                range_verify(worker, &range, "after a peer read something else there");
                fail(request.address,
                     "WRONG BYTE: call %d of a peer read wrong bytes at %p; the memory is right", call,
                     (void *)request.address);
        }
        range_give(worker, &range);
}

/* What was not done must have changed nothing. */
static void peer_writes(struct worker *worker, struct area *area, enum peer_call call, size_t max,
                        size_t unit)
{
        struct peer_request request = {.call = call};
        struct range range;
        size_t offset;
        ssize_t r;

        if (worker->peer < 0 || !range_take(worker, area, SIZE_MAX, true, &range))
                return;
        offset = draw_place(worker, &range, max, unit, &request);
        range_draw_content(worker, worker->buffer, PEER_BYTES / PAGE_BYTES);
        memcpy(request.bytes, worker->buffer, request.length);
        r = ask_peer(worker, &request);
        check_result(&request, r);
        if (r > 0)
                memcpy(range_shadow(&range) + offset, request.bytes, (size_t)r);
        range_verify(worker, &range, "after a peer wrote into it");
        range_give(worker, &range);
}

void op_vm(struct worker *worker, struct area *area)
{
        if (coin(worker))
                peer_reads(worker, area, PEER_READ, PEER_BYTES, 1);
        else
                peer_writes(worker, area, PEER_WRITE, PEER_BYTES, 1);
}

void op_mem(struct worker *worker, struct area *area)
{
        if (coin(worker))
                peer_reads(worker, area, PEER_MEM_READ, PEER_BYTES, 1);
        else
                peer_writes(worker, area, PEER_MEM_WRITE, PEER_BYTES, 1);
}

void op_ptrace(struct worker *worker, struct area *area)
{
        if (coin(worker))
                peer_reads(worker, area, PEER_PEEK, MAX_WORDS * sizeof(long), sizeof(long));
        else
                peer_writes(worker, area, PEER_POKE, MAX_WORDS * sizeof(long), sizeof(long));
}
