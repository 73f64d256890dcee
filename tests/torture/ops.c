/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The table of operations, and drawing from it. */

#include "torture/ops.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "torture/op.h"

const struct op ops[] = {
        /* loads and stores */
        {"load", 600, OP_CHILD, op_load},
        {"store", 400, OP_CHILD, op_store},
        {"atomic", 150, OP_CHILD, op_atomic},
        {"copy", 100, OP_CHILD, op_copy},
        {"fill", 150, OP_CHILD, op_fill},
        /* advice */
        {"dontneed", 150, OP_CHILD, op_dontneed},
        {"free", 30, OP_CHILD, op_free},
        {"cold", 20, OP_CHILD, op_cold},
        {"pageout", 20, OP_CHILD, op_pageout},
        {"populate", 20, OP_CHILD, op_populate},
        {"huge", 20, OP_CHILD, op_huge},
        {"lock", 20, OP_CHILD, op_lock},
        {"protect", 30, OP_CHILD, op_protect},
        /* mappings */
        {"renew", 150, OP_WHOLE, op_renew},
        {"remap", 20, OP_CHILD, op_remap},
        {"move", 5, OP_WHOLE, op_move},
        {"resize", 10, OP_WHOLE, op_resize},
        /* processes and threads */
        {"fork", 5, OP_CHILD | OP_WHOLE, op_fork},
        {"clone", 5, OP_CHILD | OP_WHOLE, op_clone},
        {"join", 3, OP_WHOLE, op_join},
        {"crowd", 3, OP_WHOLE, op_crowd},
        {"vfork", 5, OP_CHILD, op_vfork},
        {"spawn", 5, 0, op_spawn},
        {"thread", 20, 0, op_thread},
        /* system calls that read and write the memory */
        {"pipe", 60, OP_CHILD, op_pipe},
        {"file", 60, OP_CHILD, op_file},
        {"socket", 60, OP_CHILD, op_socket},
        {"vector", 60, OP_CHILD, op_vector},
        {"direct", 40, OP_CHILD, op_direct},
        {"uring", 40, 0, op_uring},
        /* other processes that do */
        {"vm", 60, 0, op_vm},
        {"mem", 30, 0, op_mem},
        {"ptrace", 10, 0, op_ptrace},
        /* libwp */
        {"register", 200, OP_CHILD, op_register},
        {"unregister", 10, OP_CHILD, op_unregister},
        {"exclude", 20, OP_CHILD, op_exclude},
        {"watch", 40, OP_CHILD, op_watch},
        {"ask", 20, OP_CHILD, op_ask},
        {"stat", 10, OP_CHILD, op_stat},
        /* mappings of files; see view.c */
        {"view", 200, OP_CHILD | OP_WHOLE, op_view},
        {"view-copy", 100, OP_CHILD, op_view_copy},
        {"view-new", 2, OP_WHOLE, op_view_new},
        {"view-drop", 30, OP_WHOLE, op_view_drop},
        {"view-write", 5, OP_CHILD | OP_WHOLE, op_view_write},
        {"view-register", 100, OP_WHOLE, op_view_register},
        {"view-unregister", 2, OP_WHOLE, op_view_unregister},
        {"view-exclude", 5, OP_WHOLE, op_view_exclude},
        {"view-ask", 10, OP_WHOLE, op_view_ask},
        {"view-stat", 10, OP_WHOLE, op_view_stat},
        /* tests of the torture itself */
        {"sabotage", 1, OP_ASKED, op_sabotage},
        {"stand", 1, OP_ASKED, op_stand},
};

const unsigned n_ops = ARRAY_SIZE(ops);

_Static_assert(ARRAY_SIZE(ops) <= OPTIONS_MAX_OPS, "each has a counter");

/* The weights that are left, for clients' threads and for their children; set before the first fork. */
static unsigned weights[2][OPTIONS_MAX_OPS];
static unsigned sums[2];

static const char child_prefix[] = "child.";

/* Whether the comma-separated list names the operation. */
static bool listed(const char *list, const char *name, bool child)
{
        size_t length = strlen(name), prefix = strlen(child_prefix);

        for (const char *word = list; word; word = strchr(word, ','), word += word != NULL) {
                const char *plain = strncmp(word, child_prefix, prefix) ? word : word + prefix;

                if ((plain == word || child) && !strncmp(plain, name, length) &&
                    (plain[length] == ',' || !plain[length]))
                        return true;
        }
        return false;
}

static unsigned count_words(const char *list)
{
        unsigned n = list != NULL;

        for (; list && *list; list++)
                n += *list == ',';
        return n;
}

static unsigned count_known(const char *list)
{
        unsigned n = 0;

        for (unsigned i = 0; i < n_ops; i++)
                n += listed(list, ops[i].name, true);
        return n;
}

int ops_select(const char *only, const char *without)
{
        if (count_known(only) < count_words(only) || count_known(without) < count_words(without)) {
                fprintf(stderr, "an operation is unknown; --list-ops names them all\n");
                return -EINVAL;
        }
        for (unsigned child = 0; child < 2; child++)
                for (unsigned i = 0; i < n_ops; i++) {
                        bool wanted =
                                (only ? listed(only, ops[i].name, child) : !(ops[i].flags & OP_ASKED)) &&
                                !listed(without, ops[i].name, child) && (!child || (ops[i].flags & OP_CHILD));

                        weights[child][i] = wanted ? ops[i].weight : 0;
                        sums[child] += weights[child][i];
                }
        /* A child without anything to do looks at its memory. */
        if (!sums[1])
                sums[1] = weights[1][0] = 1;
        if (sums[0])
                return 0;
        fprintf(stderr, "no operation is left\n");
        return -EINVAL;
}

void ops_list(void)
{
        for (unsigned i = 0; i < n_ops; i++)
                printf("%-12s weight %u%s%s%s\n", ops[i].name, ops[i].weight,
                       ops[i].flags & OP_CHILD ? ", children, too" : "",
                       ops[i].flags & OP_WHOLE ? ", whole areas" : "",
                       ops[i].flags & OP_ASKED ? ", wrong on purpose" : "");
}

const struct op *ops_draw(struct worker *worker)
{
        bool child = worker->depth;
        uint64_t at = draw(worker, sums[child]);
        unsigned i = 0;

        while (at >= weights[child][i])
                at -= weights[child][i++];
        return &ops[i];
}
