/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Operations: system calls that read the memory or write into it. */

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "torture/op.h"

#define MAX_TRANSFER_PAGES 15 /* a pipe holds 16 */
#define VECTORS            3

/* Takes bytes, and gives them back. Both return how many, or -1. */
struct channel {
        const char *name;
        ssize_t (*put)(struct worker *worker, const char *bytes, size_t n);
        ssize_t (*get)(struct worker *worker, char *bytes, size_t n);
};

/* Any bytes of a range, not whole pages. */
struct span {
        size_t offset;
        size_t length;
};

static struct span draw_span(struct worker *worker, const struct range *range)
{
        size_t length = 1 + draw(worker, range_bytes(range));

        if (coin(worker))
                return (struct span){.offset = 0, .length = range_bytes(range)};
        return (struct span){.offset = draw(worker, range_bytes(range) - length + 1), .length = length};
}

/* ------------------------------------------------------------------ from memory, and into it */

static void transfer_out(struct worker *worker, struct area *area, const struct channel *channel)
{
        struct range range;
        struct span span;
        ssize_t r;

        if (!range_take(worker, area, MAX_TRANSFER_PAGES, false, &range))
                return;
        span = draw_span(worker, &range);
        r = channel->put(worker, range_memory(&range) + span.offset, span.length);
        EXPECT(r == (ssize_t)span.length, "%s, out of memory at %p: %zd of %zu bytes: %s", channel->name,
               (void *)(range_memory(&range) + span.offset), r, span.length, strerror(errno));
        r = channel->get(worker, worker->buffer, span.length);
        EXPECT(r == (ssize_t)span.length, "%s: %zd of %zu bytes came back", channel->name, r, span.length);
        if (memcmp(worker->buffer, range_shadow(&range) + span.offset, span.length)) {
                range_verify(worker, &range, "after a system call read something else there");
                fail((uintptr_t)range_memory(&range) + span.offset,
                     "WRONG BYTE: %s took %zu wrong bytes from %p; the memory is right", channel->name,
                     span.length, (void *)(range_memory(&range) + span.offset));
        }
        count(COUNT_VERIFIED, range.n);
        range_give(worker, &range);
}

static void transfer_in(struct worker *worker, struct area *area, const struct channel *channel)
{
        struct range range;
        struct span span;
        ssize_t r;

        if (!range_take(worker, area, MAX_TRANSFER_PAGES, true, &range))
                return;
        span = draw_span(worker, &range);
        range_draw_content(worker, worker->buffer, range.n);
        r = channel->put(worker, worker->buffer, span.length);
        EXPECT(r == (ssize_t)span.length, "%s: %zd of %zu bytes went in", channel->name, r, span.length);
        r = channel->get(worker, range_memory(&range) + span.offset, span.length);
        EXPECT(r == (ssize_t)span.length, "%s, into memory at %p: %zd of %zu bytes: %s", channel->name,
               (void *)(range_memory(&range) + span.offset), r, span.length, strerror(errno));
        memcpy(range_shadow(&range) + span.offset, worker->buffer, span.length);
        range_verify(worker, &range, "after a system call wrote into it");
        range_give(worker, &range);
}

static void transfer(struct worker *worker, struct area *area, const struct channel *channel)
{
        if (coin(worker))
                transfer_out(worker, area, channel);
        else
                transfer_in(worker, area, channel);
}

/* ------------------------------------------------------------------ channels */

static ssize_t pipe_put(struct worker *worker, const char *bytes, size_t n)
{
        return coin(worker) ? write(worker->pipe[1], bytes, n)
                            : syscall(SYS_write, worker->pipe[1], bytes, n);
}

static ssize_t pipe_get(struct worker *worker, char *bytes, size_t n)
{
        size_t done = 0;

        while (done < n) {
                ssize_t r = coin(worker) ? read(worker->pipe[0], bytes + done, n - done)
                                         : syscall(SYS_read, worker->pipe[0], bytes + done, n - done);

                if (r <= 0)
                        return r;
                done += (size_t)r;
        }
        return (ssize_t)n;
}

static ssize_t file_put(struct worker *worker, const char *bytes, size_t n)
{
        return coin(worker) ? pwrite(worker->file, bytes, n, 0)
                            : syscall(SYS_pwrite64, worker->file, bytes, n, 0);
}

static ssize_t file_get(struct worker *worker, char *bytes, size_t n)
{
        return coin(worker) ? pread(worker->file, bytes, n, 0)
                            : syscall(SYS_pread64, worker->file, bytes, n, 0);
}

static ssize_t socket_put(struct worker *worker, const char *bytes, size_t n)
{
        return coin(worker) ? send(worker->sockets[0], bytes, n, 0)
                            : syscall(SYS_sendto, worker->sockets[0], bytes, n, 0, NULL, 0);
}

static ssize_t socket_get(struct worker *worker, char *bytes, size_t n)
{
        return coin(worker) ? recv(worker->sockets[1], bytes, n, MSG_WAITALL)
                            : syscall(SYS_recvfrom, worker->sockets[1], bytes, n, MSG_WAITALL, NULL, NULL);
}

/* Parts that lie beside each other; some may be empty. */
static void draw_vectors(struct worker *worker, const char *bytes, size_t n, struct iovec vectors[VECTORS])
{
        size_t first = draw(worker, n + 1), second = draw(worker, n - first + 1);

        vectors[0] = (struct iovec){.iov_base = (char *)bytes, .iov_len = first};
        vectors[1] = (struct iovec){.iov_base = (char *)bytes + first, .iov_len = second};
        vectors[2] =
                (struct iovec){.iov_base = (char *)bytes + first + second, .iov_len = n - first - second};
}

static ssize_t vector_put(struct worker *worker, const char *bytes, size_t n)
{
        struct iovec vectors[VECTORS];

        draw_vectors(worker, bytes, n, vectors);
        return pwritev(worker->file, vectors, VECTORS, 0);
}

static ssize_t vector_get(struct worker *worker, char *bytes, size_t n)
{
        struct iovec vectors[VECTORS];

        draw_vectors(worker, bytes, n, vectors);
        return preadv(worker->file, vectors, VECTORS, 0);
}

void op_pipe(struct worker *worker, struct area *area)
{
        transfer(worker, area, &(struct channel){"a pipe", pipe_put, pipe_get});
}

void op_file(struct worker *worker, struct area *area)
{
        transfer(worker, area, &(struct channel){"a file", file_put, file_get});
}

void op_socket(struct worker *worker, struct area *area)
{
        transfer(worker, area, &(struct channel){"a socket", socket_put, socket_get});
}

void op_vector(struct worker *worker, struct area *area)
{
        transfer(worker, area, &(struct channel){"preadv and pwritev", vector_put, vector_get});
}
