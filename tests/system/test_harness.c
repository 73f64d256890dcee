/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The harness itself: a test that leaves something behind, reads a wrong byte or hangs in a client does not pass. */

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/harness.h"
#include "system/program.h"
#include "system/service.h"

static uint64_t content(long program, uint64_t page)
{
        return (uint64_t)program << 32 | (page + 1);
}

static void leak_fd(uid_t uid)
{
        CHECK(dup(STDOUT_FILENO) >= 0, "%m");
}

static void close_fd(uid_t uid)
{
        close(STDIN_FILENO);
}

static void leak_process(uid_t uid)
{
        if (!fork())
                for (;;)
                        pause();
}

/* Its parent is gone when the test ends. */
static void leak_orphan(uid_t uid)
{
        pid_t pid = fork();

        if (!pid) {
                leak_process(0);
                _exit(0);
        }
        harness_reap(pid);
}

static void leak_zombie(uid_t uid)
{
        pid_t pid = fork();

        if (!pid)
                _exit(0);
        CHECK(!waitid(P_PID, (id_t)pid, &(siginfo_t){.si_pid = 0}, WEXITED | WNOWAIT), "%m");
}

static void *sleep_for_ever(void *unused)
{
        for (;;)
                pause();
        return unused;
}

static void leak_thread(uid_t uid)
{
        pthread_t thread;

        CHECK_OK(-pthread_create(&thread, NULL, sleep_for_ever, NULL));
}

static long spoil(struct program *program, long a, long b, long c)
{
        program->areas[a].memory[5 * PAGE_BYTES + 77] ^= 1;
        return 0;
}

static void wrong_byte(uid_t uid)
{
        struct client client;

        client_start(&client, uid);
        CHECK_OK(client_do(&client, program_map, 0, 8, (long)content));
        CHECK_OK(client_do(&client, program_verify, 0, 0, 0));
        CHECK_OK(client_do(&client, spoil, 0, 0, 0));
        CHECK_OK(client_do(&client, program_verify, 0, 0, 0));
        client_stop(&client);
}

static long die(struct program *program, long a, long b, long c)
{
        raise(SIGKILL);
        return 0;
}

static void dead_client(uid_t uid)
{
        struct client client;

        client_start(&client, uid);
        client_do(&client, die, 0, 0, 0);
}

static void leave_file(uid_t uid)
{
        struct service service;
        char path[128];

        service_start(&service, NULL);
        snprintf(path, sizeof(path), "%s/left", service.directory);
        close((int)CHECK_OK(error_from(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
        service_stop(&service);
}

static void client_stays(uid_t uid)
{
        struct service service;
        struct client client;

        service_start(&service, NULL);
        client_start(&client, uid);
        CHECK_OK(client_do(&client, program_connect, (long)service.client_path, 0, 0));
        harness_limit_patience(50);
        service_check_fds(&service, service.n_fds);
}

static void skip(uid_t uid)
{
        harness_skip("no reason");
}

/* One test after the other: each must end like this. */
static const struct {
        struct harness_test test;
        int result;
        const char *message;
} cases[] = {
        {HARNESS_ROOT(leak_fd), 1, "was leaked"},
        {HARNESS_ROOT(close_fd), 1, "was closed"},
        {HARNESS_ROOT(leak_process), 1, "a process was leaked"},
        {HARNESS_ROOT(leak_orphan), 1, "a process was leaked"},
        {HARNESS_ROOT(leak_zombie), 1, "a process was leaked"},
        {HARNESS_ROOT(leak_thread), 1, "a thread was leaked"},
        {HARNESS_ROOT(wrong_byte), 1, "page 5 is wrong from byte 77 on"},
        {HARNESS_USER(wrong_byte), 1, "page 5 is wrong from byte 77 on"},
        {HARNESS_ROOT(dead_client), 1, "is gone"},
        {HARNESS_ROOT(leave_file), 1, "left a file"},
        {HARNESS_USER(client_stays), 1, "descriptors instead of"},
        {HARNESS_ROOT(skip), 77, "no reason"},
};

static int run_cases(void)
{
        char message[HARNESS_MAX_MESSAGE];
        int failures = 0;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                int result = harness_run(&cases[i].test, message);
                bool as_expected = result == cases[i].result && strstr(message, cases[i].message);

                printf("%s: %s ends with %d: %s\n", as_expected ? "ok" : "FAIL", cases[i].test.name, result,
                       message);
                failures += !as_expected;
        }
        return failures;
}

int main(int argc, char **argv)
{
        int status;

        if (!harness_setup(argc, argv, &status))
                return status;
        return run_cases() ? 1 : 0;
}
