#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A daemon and two clients with one area each, whose pages are identical and merged: what most tests begin with. */

#include "system/program.h"
#include "system/service.h"

struct pair {
        struct service service;
        struct client clients[2];
        long n_pages;
};

/* The content of their areas. */
uint64_t pair_content(long program, uint64_t page);

/* `flags`: with which the clients register. */
void pair_begin(struct pair *pair, uid_t uid, const char *config, long n_pages, uint64_t flags);

/* The same in an existing service, which pair->service is a copy of. */
void pair_join(struct pair *pair, uid_t uid, long n_pages, uint64_t flags);

/* Every byte of both clients. */
void pair_verify(const struct pair *pair);

/* The clients give everything back and end; the service goes on. lingering: children of theirs live, so that their watchers stay. */
void pair_leave(struct pair *pair, bool lingering);

/* The same, and the end of the service. */
void pair_end(struct pair *pair);
