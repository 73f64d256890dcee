/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Helper: both ends
 *
 * One question is with the process at a time, the others wait here. Its answer comes in parts, the last of which says so. A
 * question that is taken back meanwhile is answered all the same, to nobody.
 */

#include "process/helper.h"

#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/sandbox.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/list.h"

#define PROCESS_NAME "wpd-helper"
#define PART_SITES   128
#define WALK_NS      (10 * NSEC_PER_SEC) /* for one question */
#define END_MS       1000                /* for the process to end by itself */

enum part_kind {
        PART_MORE_FOLLOW,
        PART_LAST,
        PART_LAST_INCOMPLETE, /* there is more, which was not looked at */
};

struct part {
        uint32_t kind;
        uint32_t n_sites;
        struct rmap_site sites[PART_SITES];
};

struct question {
        struct list link;
        struct rmap_query query;
        helper_done done;
        void *context;
};

struct helper {
        pid_t pid;
        int fd;
        struct list waiting;       /* questions that have not been asked */
        bool busy;                 /* the process has one */
        struct question *question; /* that one; NULL: it was taken back */
        size_t n_sites;            /* of its answer, so far */
        struct rmap_site sites[HELPER_MAX_SITES];
};

/* ------------------------------------------------------------------ the process's end */

struct answer {
        int fd;
        uint64_t deadline_ns;
        size_t n_sites;
        struct part part;
};

static int answer_send(struct answer *answer, enum part_kind kind)
{
        answer->part.kind = kind;
        return (int)error_from(send(answer->fd, &answer->part, sizeof(answer->part), MSG_NOSIGNAL));
}

/* Not beyond its time; nor when the daemon, which says nothing meanwhile, has hung up. */
static bool answer_go_on(void *context)
{
        const struct answer *answer = context;
        struct pollfd daemon = {.fd = answer->fd, .events = POLLIN};

        return clock_now() < answer->deadline_ns && poll(&daemon, 1, 0) == 0;
}

static bool answer_add(void *context, const struct rmap_site *site)
{
        struct answer *answer = context;
        struct part *part = &answer->part;

        if (answer->n_sites == HELPER_MAX_SITES)
                return false;
        if (part->n_sites == PART_SITES) {
                if (answer_send(answer, PART_MORE_FOLLOW) < 0)
                        return false;
                part->n_sites = 0;
        }
        part->sites[part->n_sites++] = *site;
        answer->n_sites++;
        return true;
}

static int answer(int fd, const struct rmap_query *query)
{
        struct answer state = {.fd = fd, .deadline_ns = clock_now() + WALK_NS};
        struct rmap_visitor visitor = {.go_on = answer_go_on, .visit = answer_add, .context = &state};

        return answer_send(&state, rmap_walk(query, &visitor) ? PART_LAST_INCOMPLETE : PART_LAST);
}

/* Until the daemon hangs up. */
static void serve(int fd, pid_t daemon)
{
        struct rmap_query query;
        long n;

        do {
                n = error_from(recv(fd, &query, sizeof(query), 0));
                if (n == (long)sizeof(query)) {
                        query.except = daemon;
                        n = answer(fd, &query);
                        n = n < 0 ? n : (long)sizeof(query);
                }
        } while (n == (long)sizeof(query) || n == -EINTR);
}

/* What the daemon had opened when it made the process is none of its business. */
static int keep_only(int fd)
{
        int r = 0;

        if (fd > STDERR_FILENO + 1)
                r = (int)error_from(close_range(STDERR_FILENO + 1, (unsigned)fd - 1, 0));
        return r < 0 ? r : (int)error_from(close_range((unsigned)fd + 1, ~0U, 0));
}

/* The daemon's end is this one's, too: what is meant for the daemon, or for a terminal's whole job, is not for it. */
static int ignore_signals(void)
{
        static const int ignored[] = {SIGHUP, SIGINT, SIGTERM, SIGPIPE};

        for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
                if (signal(ignored[i], SIG_IGN) == SIG_ERR)
                        return -errno;
        return 0;
}

static void __attribute__((__noreturn__)) run(int fd, pid_t daemon)
{
        int r = keep_only(fd);

        /* Whoever asks can wait, as scanning can. */
        if (r >= 0)
                r = sandbox_set_nice(SANDBOX_NICE_HELPER);
        if (r >= 0)
                r = ignore_signals();
        if (r >= 0)
                r = (int)error_from(prctl(PR_SET_NAME, PROCESS_NAME));
        if (r >= 0)
                r = sandbox_confine_helper();
        if (r >= 0)
                serve(fd, daemon);
        _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

/* ------------------------------------------------------------------ the daemon's end */

int helper_new(struct helper **ret_helper, int *ret_fd)
{
        struct helper *helper = calloc(1, sizeof(*helper));
        pid_t daemon = getpid();
        int pair[2], r;

        if (!helper)
                return -ENOMEM;
        r = (int)error_from(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
        if (r >= 0) {
                helper->pid = fork();
                if (!helper->pid)
                        run(pair[1], daemon);
                r = helper->pid < 0 ? -errno : 0;
                close(pair[1]);
                if (r < 0)
                        close(pair[0]);
        }
        if (r < 0) {
                free(helper);
                return r;
        }
        list_init(&helper->waiting);
        *ret_fd = helper->fd = pair[0];
        *ret_helper = helper;
        return 0;
}

static void question_free(struct question *question)
{
        if (!question)
                return;
        list_remove(&question->link);
        free(question);
}

/* One that waits for somebody's address space ends when it may; it has nothing that anybody could miss. */
struct helper *helper_free(struct helper *helper)
{
        struct pollfd end;

        if (!helper)
                return NULL;
        question_free(helper->question);
        list_for_each_safe(link, next, &helper->waiting)
                question_free(list_entry(link, struct question, link));
        end = (struct pollfd){.fd = helper->fd};
        shutdown(helper->fd, SHUT_WR);
        if (poll(&end, 1, END_MS) > 0)
                waitpid(helper->pid, NULL, 0);
        close(helper->fd);
        free(helper);
        return NULL;
}

static int ask_next(struct helper *helper)
{
        struct question *question;
        long r;

        if (helper->busy || list_empty(&helper->waiting))
                return 0;
        question = list_entry(list_first(&helper->waiting), struct question, link);
        r = error_from(
                send(helper->fd, &question->query, sizeof(question->query), MSG_NOSIGNAL | MSG_DONTWAIT));
        if (r < 0)
                return -EPIPE;
        list_remove(&question->link);
        helper->question = question;
        helper->busy = true;
        helper->n_sites = 0;
        return 0;
}

int helper_ask(struct helper *helper, const struct rmap_query *query, helper_done done, void *context)
{
        struct question *question = calloc(1, sizeof(*question));
        int r;

        if (!question)
                return -ENOMEM;
        *question = (struct question){.query = *query, .done = done, .context = context};
        list_init(&question->link);
        list_append(&helper->waiting, &question->link);
        r = ask_next(helper);
        if (r < 0)
                question_free(question);
        return r;
}

static bool cancel(struct question *question, bool (*matches)(const void *context, const void *key),
                   const void *key, void (*release)(void *context))
{
        if (!question || !matches(question->context, key))
                return false;
        release(question->context);
        question_free(question);
        return true;
}

void helper_cancel(struct helper *helper, bool (*matches)(const void *context, const void *key),
                   const void *key, void (*release)(void *context))
{
        if (cancel(helper->question, matches, key, release))
                helper->question = NULL;
        list_for_each_safe(link, next, &helper->waiting)
                cancel(list_entry(link, struct question, link), matches, key, release);
}

static void finish(struct question *question, const struct rmap_site *sites, size_t n_sites, bool complete)
{
        helper_done done;
        void *context;

        if (!question)
                return;
        done = question->done;
        context = question->context;
        question_free(question);
        done(context, sites, n_sites, complete);
}

/* Nobody is left to answer, or nobody who is to be believed. */
static int lost(struct helper *helper)
{
        struct question *question = helper->question;
        struct list *link;

        shutdown(helper->fd, SHUT_RDWR);
        helper->busy = false;
        helper->question = NULL;
        finish(question, NULL, 0, false);
        while ((link = list_first(&helper->waiting)))
                finish(list_entry(link, struct question, link), NULL, 0, false);
        return -EPIPE;
}

static bool is_part(const struct helper *helper, const struct part *part, long length)
{
        return length == (long)sizeof(*part) && helper->busy && part->kind <= PART_LAST_INCOMPLETE &&
               part->n_sites <= PART_SITES && part->n_sites <= HELPER_MAX_SITES - helper->n_sites;
}

static int take(struct helper *helper, const struct part *part)
{
        struct question *question = helper->question;

        for (uint32_t i = 0; i < part->n_sites; i++)
                helper->sites[helper->n_sites++] = part->sites[i];
        if (part->kind == PART_MORE_FOLLOW)
                return 0;
        helper->busy = false;
        helper->question = NULL;
        finish(question, helper->sites, helper->n_sites, part->kind == PART_LAST);
        return ask_next(helper);
}

int helper_answered(struct helper *helper)
{
        struct part part;
        long n = error_from(recv(helper->fd, &part, sizeof(part), MSG_DONTWAIT));

        if (n == -EAGAIN || n == -EINTR)
                return 0;
        return is_part(helper, &part, n) && take(helper, &part) >= 0 ? 0 : lost(helper);
}
