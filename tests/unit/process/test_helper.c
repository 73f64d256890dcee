/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The helper's process: what it is asked about is mapped by a child of this one, which is the daemon here. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/helper.h"
#include "util/bits.h"

#define HANG_MS 60000

struct scene {
        struct helper *helper;
        int answer_fd;
        int file;
        struct rmap_query query;
};

/* The answer to one question. */
struct answer {
        unsigned n_calls;
        size_t n_sites;
        bool complete;
        unsigned released;
        struct rmap_site sites[HELPER_MAX_SITES];
};

static void done(void *context, const struct rmap_site *sites, size_t n_sites, bool complete)
{
        struct answer *answer = context;

        answer->n_calls++;
        answer->n_sites = n_sites;
        answer->complete = complete;
        assert_in_range(n_sites, 0, HELPER_MAX_SITES);
        if (n_sites)
                memcpy(answer->sites, sites, n_sites * sizeof(*sites));
}

static bool same(const void *context, const void *key)
{
        return context == key;
}

static void release(void *context)
{
        ((struct answer *)context)->released++;
}

static int setup(void **state)
{
        struct scene *scene = calloc(1, sizeof(*scene));
        char page[PAGE_BYTES] = "content";
        struct stat st;

        assert_non_null(scene);
        scene->file = memfd_create("helper test", MFD_CLOEXEC);
        assert_int_equal(write(scene->file, page, sizeof(page)), sizeof(page));
        assert_int_equal(fstat(scene->file, &st), 0);
        scene->query = (struct rmap_query){.dev = st.st_dev, .inode = st.st_ino, .uid = RMAP_ANYBODY};
        assert_int_equal(helper_new(&scene->helper, &scene->answer_fd), 0);
        *state = scene;
        return 0;
}

static int teardown(void **state)
{
        struct scene *scene = *state;
        int r;

        helper_free(scene->helper);
        close(scene->file);
        free(scene);
        r = waitpid(-1, NULL, WNOHANG);
        return r < 0 && errno == ECHILD ? 0 : -1;
}

/* Until there is an answer; what helper_answered() says. */
static int turn(struct scene *scene)
{
        struct pollfd poll_fd = {.fd = scene->answer_fd, .events = POLLIN};

        assert_int_equal(poll(&poll_fd, 1, HANG_MS), 1);
        return helper_answered(scene->helper);
}

static void wait_for(struct scene *scene, const struct answer *answer)
{
        while (!answer->n_calls)
                assert_int_equal(turn(scene), 0);
}

struct mapper {
        pid_t pid;
        int socket;
};

/* A process that maps the page in so many places. */
static void mapper_start(const struct scene *scene, struct mapper *mapper, unsigned n_places)
{
        int sockets[2];
        char byte;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
        mapper->pid = fork();
        assert_true(mapper->pid >= 0);
        if (!mapper->pid) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(sockets[0]);
                for (unsigned i = 0; i < n_places; i++) {
                        volatile char *page = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, scene->file, 0);

                        if (page == MAP_FAILED)
                                _exit(1);
                        (void)page[0];
                }
                if (write(sockets[1], "x", 1) == 1)
                        (void)!read(sockets[1], &byte, 1);
                _exit(0);
        }
        close(sockets[1]);
        mapper->socket = sockets[0];
        assert_int_equal(read(mapper->socket, &byte, 1), 1);
}

static void mapper_stop(struct mapper *mapper)
{
        int status;

        close(mapper->socket);
        assert_int_equal(waitpid(mapper->pid, &status, 0), mapper->pid);
        assert_int_equal(status, 0);
}

static struct answer answers[3];

static void clear(void)
{
        memset(answers, 0, sizeof(answers));
}

/* Two places in another process; this one, the daemon, does not count. */
static void test_answer(void **state)
{
        struct scene *scene = *state;
        volatile char *own = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, scene->file, 0);
        struct mapper mapper;

        clear();
        assert_true(own != MAP_FAILED);
        (void)own[0];
        mapper_start(scene, &mapper, 2);
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), 0);
        assert_int_equal(answers[0].n_calls, 0);
        wait_for(scene, &answers[0]);
        assert_int_equal(answers[0].n_sites, 2);
        assert_true(answers[0].complete);
        for (size_t i = 0; i < 2; i++) {
                assert_int_equal(answers[0].sites[i].pid, mapper.pid);
                assert_int_equal(answers[0].sites[i].uid, getuid());
        }
        assert_true(answers[0].sites[0].address != answers[0].sites[1].address);
        mapper_stop(&mapper);
        clear();
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), 0);
        wait_for(scene, &answers[0]);
        assert_int_equal(answers[0].n_sites, 0);
        munmap((void *)(uintptr_t)own, PAGE_BYTES);
}

/* All that fit are told, and one more is not. */
static void test_many(void **state)
{
        struct scene *scene = *state;

        for (unsigned more = 0; more < 2; more++) {
                struct mapper mapper;

                clear();
                mapper_start(scene, &mapper, HELPER_MAX_SITES + more);
                assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), 0);
                wait_for(scene, &answers[0]);
                assert_int_equal(answers[0].n_sites, HELPER_MAX_SITES);
                assert_int_equal(answers[0].complete, !more);
                for (size_t i = 1; i < HELPER_MAX_SITES; i++)
                        assert_true(answers[0].sites[i].address > answers[0].sites[i - 1].address);
                mapper_stop(&mapper);
        }
}

/* Questions are answered in their order. */
static void test_queue(void **state)
{
        struct scene *scene = *state;
        struct rmap_query nobody = scene->query;
        struct mapper mapper;

        clear();
        nobody.inode++;
        mapper_start(scene, &mapper, 1);
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), 0);
        assert_int_equal(helper_ask(scene->helper, &nobody, done, &answers[1]), 0);
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[2]), 0);
        wait_for(scene, &answers[0]);
        assert_int_equal(answers[1].n_calls, 0);
        wait_for(scene, &answers[1]);
        assert_int_equal(answers[2].n_calls, 0);
        wait_for(scene, &answers[2]);
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                assert_int_equal(answers[i].n_calls, 1);
                assert_int_equal(answers[i].n_sites, i != 1);
        }
        mapper_stop(&mapper);
}

/* Taken back while it is being answered, or while it waits: nobody hears of it, and the next is answered. */
static void test_cancel(void **state)
{
        struct scene *scene = *state;
        struct mapper mapper;

        mapper_start(scene, &mapper, 1);
        for (size_t taken_back = 0; taken_back < 2; taken_back++) {
                clear();
                for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
                        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[i]), 0);
                helper_cancel(scene->helper, same, &answers[taken_back], release);
                wait_for(scene, &answers[2]);
                for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                        assert_int_equal(answers[i].n_calls, i != taken_back);
                        assert_int_equal(answers[i].released, i == taken_back);
                        assert_int_equal(answers[i].n_sites, i != taken_back);
                }
        }
        /* All of them; then it ends with nothing asked. */
        clear();
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[i]), 0);
                helper_cancel(scene->helper, same, &answers[i], release);
                assert_int_equal(answers[i].released, 1);
        }
        mapper_stop(&mapper);
}

static void test_forgotten(void **state)
{
        struct scene *scene = *state;

        clear();
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
                assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[i]), 0);
        scene->helper = helper_free(scene->helper);
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
                assert_int_equal(answers[i].n_calls, 0);
}

static pid_t only_child(void)
{
        char path[64];
        pid_t pid = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", getpid(), getpid());
        file = fopen(path, "re");
        assert_non_null(file);
        assert_int_equal(fscanf(file, "%d", &pid), 1);
        fclose(file);
        return pid;
}

/* The process is gone: who waits is told that this is not all, who comes later that it cannot be. */
static void test_killed(void **state)
{
        struct scene *scene = *state;
        pid_t pid = only_child();

        clear();
        assert_int_equal(kill(pid, SIGSTOP), 0);
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++)
                assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[i]), 0);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(turn(scene), -EPIPE);
        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                assert_int_equal(answers[i].n_calls, 1);
                assert_int_equal(answers[i].n_sites, 0);
                assert_false(answers[i].complete);
        }
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), -EPIPE);
        assert_int_equal(answers[0].n_calls, 1);
}

/* What is meant for all of a terminal's job, or of a service, leaves it alone. */
static void test_signals(void **state)
{
        static const int signals[] = {SIGHUP, SIGINT, SIGTERM};
        struct scene *scene = *state;
        pid_t pid = only_child();

        clear();
        /* Before the first answer it may not be ready for them. */
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[0]), 0);
        wait_for(scene, &answers[0]);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
                assert_int_equal(kill(pid, signals[i]), 0);
        assert_int_equal(helper_ask(scene->helper, &scene->query, done, &answers[1]), 0);
        wait_for(scene, &answers[1]);
        assert_true(answers[1].complete);
}

#define TEST(_function) cmocka_unit_test_setup_teardown(_function, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(test_answer),    TEST(test_many),   TEST(test_queue),   TEST(test_cancel),
                TEST(test_forgotten), TEST(test_killed), TEST(test_signals),
        };

        if (geteuid() != 0) {
                printf("skipped: the helper's rights are root's\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}
