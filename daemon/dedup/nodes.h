#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Nodes: with whom a page shares on a machine with several NUMA nodes (pure; the map of nodes is an argument)
 *
 * Theory of operation
 *
 * By default content is shared within a node: each node has its own canonical page of it, so that nobody comes to read
 * another node's memory because he was merged. KSM has a pair of trees for each node for that; here the node is
 * mixed into the fingerprint (nodes_fingerprint()), so that one index serves: what lies on other nodes is not met.
 *
 * Merging across nodes (merge_across_nodes) looks a page up on its own node first, and then on the others. What was
 * found there is shared, unless it is *hot*: a canonical page that already has many sharers gets a replica on the node of
 * the next page that would share it, up to a limit of replicas. A replica costs a page, and everybody on its
 * node who comes later reads it from near; who shares the distant one goes on doing so.
 */

#include <stdbool.h>
#include <stdint.h>

#include "dedup/index.h"
#include "dedup/planner.h"
#include "util/error.h"

#define NODES_MAX 64

/* The nodes that have memory, ascending. */
struct nodes {
        unsigned n; /* 1: there is nothing to decide */
        uint16_t ids[NODES_MAX];
};

#define NODES_INIT                                                                                           \
        {                                                                                                    \
                .n = 1                                                                                       \
        }

struct nodes_policy {
        bool across;           /* share with other nodes, too */
        uint32_t max_replicas; /* of the same content, when across; each on another node */
        uint32_t hot_sharers;  /* as many make a canonical page hot */
};

/* Reads a list as the kernel prints it ("0-1,3"). -EINVAL: it is none; -E2BIG: more than NODES_MAX. */
int nodes_parse(const char *list, struct nodes *ret_nodes) wp_check;

/* The node that a page counts for, of which the kernel says that it lies on `node`; negative: that it does not know. */
unsigned nodes_home(const struct nodes *nodes, int node);

/* A fingerprint of content on a node; node 0 leaves it as it is. */
uint64_t nodes_fingerprint(uint64_t fingerprint, unsigned node);

/* How many share a slot. */
typedef uint32_t (*nodes_sharers)(const void *context, uint32_t slot);

/*
 * What a page with this content matches (`fingerprint`: without a node) that lies on `node`: fills all of *match but the page.
 * MATCH_NONE: fingerprint and node are those under which it can be entered as a candidate.
 */
void nodes_match(const struct nodes *nodes, const struct nodes_policy *policy, const struct index *index,
                 nodes_sharers sharers, const void *context, uint64_t fingerprint, unsigned node,
                 struct match *match);
