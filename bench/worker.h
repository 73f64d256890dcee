#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The processes whose memory is merged
 *
 * Each worker is a process of its own (this program executed again, so that it shares nothing by inheritance)
 * that owns one range of memory filled as data.h says. The parent sends it commands over a socket pair and
 * gets one reply each. A worker keeps count of what it wrote itself, so it can verify every byte at any time.
 * It dies with its parent.
 */

#include <stdint.h>
#include <sys/types.h>

#include "bench/data.h"
#include "util/error.h"

#define WORKER_MAX_SAMPLES 1024

/* The first worker's writes are events, those of the others are not. */
#define WORKER_NOTIFIED 0

enum worker_command {
        WORKER_FILL = 1,    /* map the memory and fill it */
        WORKER_VERIFY,      /* reply: pages that are right; status -EILSEQ if any is not */
        WORKER_REGISTER,    /* connect to wpd and register the memory */
        WORKER_UNREGISTER,  /* unregister and disconnect */
        WORKER_MERGEABLE,   /* madvise(MADV_MERGEABLE): give the memory to KSM */
        WORKER_UNMERGEABLE, /* and take it back */
        WORKER_WRITE,       /* one store into page `argument`; reply: time, and the event if registered */
        WORKER_READ_INTO,   /* the same by read(2) from a pipe */
        WORKER_CHECK_PAGE,  /* verify page `argument` only */
        WORKER_SAMPLE,  /* first writes to `count` shared pages, `argument` ns apart; reply: their times */
        WORKER_REWRITE, /* for `argument` seconds, write `count` pages a second, all over the memory */
        WORKER_QUIT,
};

struct worker_request {
        uint32_t command; /* enum worker_command */
        uint32_t count;
        uint64_t argument;
};

struct worker_reply {
        int32_t status; /* 0 or a negative errno, then `text` says what failed */
        int32_t tid;    /* of the writing thread */
        uint64_t pages; /* verified */
        uint64_t ns;    /* time of a write */
        uint64_t address;

        /* the owner's event about a write; event_type 0: none came within the time */
        uint32_t event_type;
        int32_t event_tid;
        uint64_t event_address;

        uint32_t n_samples;
        uint32_t sample_ns[WORKER_MAX_SAMPLES];
        char text[160];
};

struct worker {
        pid_t pid;
        int fd;
        uint32_t index;
};

/* To be called first in main(): serves and exits if this process was started as a worker, else returns. */
void worker_main(int argc, char **argv);

/* Starts `layout->n_processes` workers that will connect to `socket`. */
int worker_start_all(const struct data_layout *layout, const char *socket,
                     struct worker **ret_workers) wp_check;
struct worker *worker_stop_all(struct worker *workers, uint32_t n_workers);

/*
 * Sends one command and waits for its reply. On failure, be it the worker's own, reply->text says what
 * failed. -EPIPE: the worker died; -ETIMEDOUT: it hangs.
 */
int worker_call(struct worker *worker, const struct worker_request *request,
                struct worker_reply *reply) wp_check;

/* The same for all workers at once; *ret_pages is the sum of the pages verified. The first failure is
 * reported. */
int worker_call_all(struct worker *workers, uint32_t n_workers, const struct worker_request *request,
                    uint64_t *ret_pages, struct worker_reply *reply) wp_check;
