#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A daemon that is none: the callbacks behind the control socket, with two clients, canned documents and a
 * record of what was asked. It runs in the test's own loop, or in a process of its own.
 */

#include <ev.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "serve/control.h"

#define FAKE_PID_OWNED   4711           /* belongs to FAKE_UID */
#define FAKE_PID_OTHER   4712           /* belongs to nobody else's uid */
#define FAKE_ADDRESS     0x7fff00001000 /* of a shared page */
#define FAKE_PID_REFUSED 4713           /* no client, but doctor knows it */
#define FAKE_UID         65534
#define FAKE_MAX_WAITS   8

#define FAKE_LIMITS                                                                                          \
        {                                                                                                    \
                .max_connections = 8, .max_connections_per_uid = 3, .max_message = 4096,                     \
                .max_output = 1 << 20                                                                        \
        }

struct fake {
        struct ev_loop *loop;
        struct control *control;
        char directory[PATH_MAX / 2];
        char path[PATH_MAX];
        bool no_memory;      /* every document fails */
        bool healthy;        /* doctor finds nothing */
        bool busy;           /* nothing can be waited for */
        bool nasty;          /* names and texts that are hostile to a terminal */
        bool finish;         /* what waits ends by itself, soon */
        unsigned extra_rows; /* so many more regions */
        /* what happened */
        bool paused;
        unsigned n_scans;
        unsigned n_waits;
        unsigned n_cancelled;
        pid_t scan_pid;
        uid_t viewer;   /* of the last Sharers */
        char value[64]; /* of setting "sleep_millisecs" */
        struct {
                const char *what;
                uint64_t address;
                control_done done;
                void *connection;
        } waits[FAKE_MAX_WAITS];
        ev_timer timer;
};

extern const struct control_ops fake_ops;

/* Makes a directory that everybody may enter, and in it the socket, which everybody may open; -errno. */
int fake_init(struct fake *fake, const struct control_limits *limits) wp_check;
void fake_deinit(struct fake *fake);

/* Ends the waiting request that began first. */
void fake_finish(struct fake *fake);

/* The same in a child process, which ends when fake_stop() says so and tells whether it was well: 0, or its
 * wait status. */
int fake_start(const struct fake *knobs, char path[PATH_MAX], pid_t *ret_pid, int *ret_stop_fd) wp_check;
int fake_stop(pid_t pid, int stop_fd);
