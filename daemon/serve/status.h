#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Status: the documents that the control socket shows, made of what the other layers count. Names:
 * doc/counters.md.
 */

#include <jansson.h>
#include <sys/types.h>

#include "dedup/merger.h"
#include "fault/service.h"
#include "kernel/rmap.h"
#include "serve/session.h"

struct status_source {
        struct merger *merger;
        struct fault_service *fault;
        struct session_server *sessions;
        uint64_t started_ns; /* CLOCK_MONOTONIC */
};

/* New references, or NULL when out of memory; pid 0: everything. */
json_t *status_totals(const struct status_source *source);
json_t *status_clients(const struct status_source *source);
json_t *status_regions(const struct status_source *source, pid_t pid);
json_t *status_doctor(const struct status_source *source, pid_t pid);

/*
 * Who shares a page. 1: it is merged, and *ret_query is the question for those that the viewer may see; 0: it is not, and
 * nobody does; -ENOENT: the process has no region there.
 */
int status_find_page(const struct status_source *source, pid_t pid, uint64_t address, uid_t viewer,
                     enum page_state *ret_state, struct rmap_query *ret_query);
json_t *status_sharers(const struct status_source *source, enum page_state state,
                       const struct rmap_site *sites, size_t n_sites, bool complete);
