/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Nodes: with whom a page shares on a machine with several NUMA nodes. */

#include "dedup/nodes.h"

#include <errno.h>
#include <stdlib.h>

/* Odd, so that no two nodes have the same multiple; the high bits of a product depend on all of the node's. */
#define NODE_FACTOR UINT64_C(0x9e3779b97f4a7c15)

/* A number, and the end of it in *ret_end. */
static int parse_id(const char *text, const char **ret_end, unsigned long *ret_id)
{
        char *end;
        unsigned long id;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        id = strtoul(text, &end, 10);
        if (id > UINT16_MAX)
                return -EINVAL;
        *ret_end = end;
        *ret_id = id;
        return 0;
}

static int add_range(struct nodes *nodes, unsigned long first, unsigned long last)
{
        if (last < first || (nodes->n && first <= nodes->ids[nodes->n - 1]))
                return -EINVAL;
        for (unsigned long id = first; id <= last; id++) {
                if (nodes->n == NODES_MAX)
                        return -E2BIG;
                nodes->ids[nodes->n++] = (uint16_t)id;
        }
        return 0;
}

int nodes_parse(const char *list, struct nodes *ret_nodes)
{
        struct nodes nodes = {.n = 0};
        unsigned long first, last;
        int r;

        do {
                r = parse_id(list, &list, &first);
                last = first;
                if (r >= 0 && *list == '-')
                        r = parse_id(list + 1, &list, &last);
                if (r >= 0)
                        r = add_range(&nodes, first, last);
                if (r < 0)
                        return r;
        } while (*list++ == ',');
        if (list[-1])
                return -EINVAL;
        *ret_nodes = nodes;
        return 0;
}

unsigned nodes_home(const struct nodes *nodes, int node)
{
        for (unsigned i = 0; i < nodes->n; i++)
                if (nodes->ids[i] == node)
                        return nodes->ids[i];
        return nodes->ids[0];
}

uint64_t nodes_fingerprint(uint64_t fingerprint, unsigned node)
{
        uint64_t mixed = fingerprint ^ node * NODE_FACTOR;

        return mixed ? mixed : 1; /* 0 is no fingerprint */
}

/* What other nodes have of this content. */
struct elsewhere {
        unsigned n_slots;
        uint32_t sharers;  /* of the slot in `best` */
        struct match best; /* the slot that fewest share, or else a candidate, or MATCH_NONE */
};

static void find(const struct index *index, uint64_t fingerprint, unsigned node, struct match *match)
{
        match->fingerprint = nodes_fingerprint(fingerprint, node);
        match->node = (uint16_t)node;
        if (!index_find(index, match->fingerprint, &match->with))
                match->kind = MATCH_NONE;
        else
                match->kind = page_ref_is_slot(match->with) ? MATCH_SLOT : MATCH_PAGE;
}

static void compare(struct elsewhere *elsewhere, const struct match *found, uint32_t sharers)
{
        if (found->kind == MATCH_PAGE && elsewhere->best.kind == MATCH_NONE)
                elsewhere->best = *found;
        if (found->kind != MATCH_SLOT)
                return;
        if (!elsewhere->n_slots++ || sharers < elsewhere->sharers) {
                elsewhere->best = *found;
                elsewhere->sharers = sharers;
        }
}

void nodes_match(const struct nodes *nodes, const struct nodes_policy *policy, const struct index *index,
                 nodes_sharers sharers, const void *context, uint64_t fingerprint, unsigned node,
                 struct match *match)
{
        struct elsewhere elsewhere = {.best = *match};
        struct match found = *match;

        find(index, fingerprint, node, match);
        if (match->kind == MATCH_SLOT || !policy->across)
                return;
        elsewhere.best.kind = MATCH_NONE;
        for (unsigned i = 0; i < nodes->n; i++) {
                if (nodes->ids[i] == node)
                        continue;
                find(index, fingerprint, nodes->ids[i], &found);
                compare(&elsewhere, &found, found.kind == MATCH_SLOT ? sharers(context, found.with.page) : 0);
        }
        if (!elsewhere.n_slots && match->kind == MATCH_PAGE)
                return;
        if (!elsewhere.n_slots || elsewhere.n_slots >= policy->max_replicas ||
            elsewhere.sharers < policy->hot_sharers)
                *match = elsewhere.best.kind == MATCH_NONE ? *match : elsewhere.best;
        else if (match->kind == MATCH_NONE)
                match->kind = MATCH_REPLICA;
}
