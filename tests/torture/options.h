#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The command line of the torture. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define OPTIONS_MAX_OPS 64

struct options {
        uint64_t seed;
        unsigned seconds;
        unsigned clients;
        unsigned threads; /* of each client */
        unsigned pages;   /* of each client */
        unsigned kill_ms; /* mean time between two ends of the daemon; 0: never */
        unsigned client_kill_ms;
        unsigned hang_seconds;
        unsigned inject_one_in;
        bool stops;
        bool list_ops;
        uid_t uid;
        const char *wpd;
        const char *inject;    /* the library to preload, NULL: none */
        const char *directory; /* for the file that direct I/O reads */
        const char *only;      /* names of operations, as given */
        const char *without;
        const char *expect; /* what the failure must say; NULL: there must be none */
};

/* Fills in the defaults and what is on the command line. 0, 1 when all was said (--help), or -EINVAL, reported. */
int options_parse(struct options *options, int argc, char **argv);

/* What it takes to run with these choices again. */
void options_print(const struct options *options);
