#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The harness of the system tests
 *
 * A program is a table of tests. Each test runs in a process of its own, in a directory of its own, under an alarm. It
 * fails if a check fails, if it does not end in time, or if it leaves something behind: a descriptor, a thread or
 * a process. The first failed check, in whichever process, is the test's result; a failed check ends its process at once.
 *
 * usage: PROGRAM WPD WPCTL [TEST...]   exit status: 0 all passed, 1 one failed, 77 all were skipped
 */

#ifdef NDEBUG
#error "the tests must not be built with NDEBUG"
#endif

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/bits.h"
#include "util/error.h"

#define HARNESS_NOBODY      65534 /* the ordinary user, and his group */
#define HARNESS_MAX_MESSAGE 1024

/* The condition must hold; the rest says in printf's way what was seen instead. */
#define CHECK(_condition, ...)                                                                               \
        do {                                                                                                 \
                if (!(_condition))                                                                           \
                        harness_fail(__FILE__, __LINE__, #_condition, __VA_ARGS__);                          \
        } while (0)

/* The condition comes true before long. */
#define CHECK_SOON(_condition, ...)                                                                          \
        do {                                                                                                 \
                struct harness_patience _patience = HARNESS_PATIENCE_INIT;                                   \
                while (!(_condition))                                                                        \
                        if (!harness_wait(&_patience))                                                       \
                                harness_fail(__FILE__, __LINE__, #_condition, __VA_ARGS__);                  \
        } while (0)

/* The result follows the error law: it is no error, and the value of the expression. */
#define CHECK_OK(_result) harness_ok(__FILE__, __LINE__, #_result, (_result))

/* The result follows the error law: it is this error (a positive errno). */
#define CHECK_ERROR(_result, _errno) harness_error(__FILE__, __LINE__, #_result, (_result), (_errno))

struct harness_test {
        const char *name;
        void (*run)(uid_t uid);
        uid_t uid; /* handed to run(): the user that the test's clients belong to */
};

#define HARNESS_ROOT(_name)                                                                                  \
        {                                                                                                    \
#_name, _name, 0                                                                             \
        }
#define HARNESS_USER(_name)                                                                                  \
        {                                                                                                    \
#_name, _name, HARNESS_NOBODY                                                                \
        }
#define HARNESS_BOTH(_name)                                                                                  \
        {#_name "_root", _name, 0},                                                                          \
        {                                                                                                    \
#_name "_user", _name, HARNESS_NOBODY                                                        \
        }

struct harness_patience {
        unsigned waits;
};

#define HARNESS_PATIENCE_INIT                                                                                \
        {                                                                                                    \
                .waits = 0                                                                                   \
        }

void harness_fail(const char *file, int line, const char *expected, const char *format, ...)
        __attribute__((__noreturn__, __format__(__printf__, 4, 5)));
long harness_ok(const char *file, int line, const char *expression, long result);
void harness_error(const char *file, int line, const char *expression, long result, int expected);

/* Ends the test: something that it needs is not there. */
void harness_skip(const char *format, ...) __attribute__((__noreturn__, __format__(__printf__, 1, 2)));

/* Waits a little; false when that was done often enough. */
bool harness_wait(struct harness_patience *patience);
/* For a test of the harness: how often that is. */
void harness_limit_patience(unsigned waits);

/* Runs one test: 0, 1 or 77, and what it had to say. */
int harness_run(const struct harness_test *test, char message[HARNESS_MAX_MESSAGE]);

/* The command line, and what every test needs; false when nothing can be tested, and the exit status. */
bool harness_setup(int argc, char **argv, int *ret_status);

int harness_main(int argc, char **argv, const struct harness_test *tests, size_t n_tests);

#define HARNESS_MAIN(_tests)                                                                                 \
        int main(int argc, char **argv)                                                                      \
        {                                                                                                    \
                return harness_main(argc, argv, (_tests), ARRAY_SIZE(_tests));                               \
        }

/* Of the test that runs: its directory, which is empty when it begins and removed when it has ended. */
const char *harness_directory(void);
const char *harness_wpd(void);
const char *harness_wpctl(void);

/* Becomes an ordinary program of that user, who has no group but his own; 0 or -errno. Nothing changes if it is his already. */
int harness_drop_to(uid_t uid) wp_check;

/* The same, and one that ends when its parent does. */
void harness_become(uid_t uid, pid_t parent);

/* The daemon ended with this status at its start; whether it says itself, asked with --check, that it cannot serve here. */
bool harness_cannot_serve(const char *wpd, int status);

/* Prints the end of a log of wpd's, for the report of a failure. */
void harness_show_tail(const char *path);

/* Of any process. */
size_t harness_count_fds(pid_t pid);
/* The least of some looks: without what it opens now and then, and what it is about to close. */
size_t harness_settled_fds(pid_t pid);
size_t harness_count_threads(pid_t pid);

/* Waits for a process to end and returns its status as waitpid(2) gives it. */
int harness_reap(pid_t pid);
