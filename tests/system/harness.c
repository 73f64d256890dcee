/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The harness of the system tests; what it promises is in the header. */

#include "system/harness.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernel/numa.h"

#define SKIPPED       77
#define GUARD_SECONDS 120 /* a test that takes longer hangs */
#define WAIT_NS       5000000
#define WAIT_LIMIT    6000
#define SETTLE_WAITS  60
#define MAX_FDS       1024
#define MAX_CHILDREN  1024
#define LOG_TAIL      6000

/* What the processes of a test tell the runner; shared by all of them. */
struct verdict {
        atomic_flag taken; /* the first failure is the one that counts */
        char message[HARNESS_MAX_MESSAGE];
};

static struct verdict *verdict;
static char directory[64];
static const char *wpd_path;
static const char *wpctl_path;
static unsigned wait_limit = WAIT_LIMIT;

const char *harness_directory(void)
{
        return directory;
}

const char *harness_wpd(void)
{
        return wpd_path;
}

const char *harness_wpctl(void)
{
        return wpctl_path;
}

/* ------------------------------------------------------------------ checks */

__attribute__((__noreturn__, __format__(__printf__, 4, 0))) static void
finish(int status, const char *where, const char *expected, const char *format, va_list arguments)
{
        char text[HARNESS_MAX_MESSAGE / 2];

        vsnprintf(text, sizeof(text), format, arguments);
        if (!atomic_flag_test_and_set(&verdict->taken))
                snprintf(verdict->message, sizeof(verdict->message), "%s%s%s", where, expected, text);
        _exit(status);
}

void harness_fail(const char *file, int line, const char *expected, const char *format, ...)
{
        const char *base = strrchr(file, '/');
        char where[256], expectation[256];
        va_list arguments;

        snprintf(where, sizeof(where), "%s:%d: ", base ? base + 1 : file, line);
        snprintf(expectation, sizeof(expectation), "expected %.200s: ", expected);
        va_start(arguments, format);
        finish(EXIT_FAILURE, where, expectation, format, arguments);
}

void harness_skip(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        finish(SKIPPED, "", "", format, arguments);
}

long harness_ok(const char *file, int line, const char *expression, long result)
{
        if (result < 0)
                harness_fail(file, line, expression, "%s", strerror((int)-result));
        return result;
}

void harness_error(const char *file, int line, const char *expression, long result, int expected)
{
        if (result != -expected)
                harness_fail(file, line, expression, "%s instead of %s",
                             result < 0 ? strerror((int)-result) : "no error", strerror(expected));
}

bool harness_wait(struct harness_patience *patience)
{
        nanosleep(&(struct timespec){.tv_nsec = WAIT_NS}, NULL);
        return ++patience->waits < wait_limit;
}

void harness_limit_patience(unsigned waits)
{
        wait_limit = waits;
}

/* ------------------------------------------------------------------ processes */

static size_t count_entries(pid_t pid, const char *name)
{
        char path[64];
        size_t n = 0;
        DIR *entries;

        snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
        entries = opendir(path);
        if (!entries)
                return 0;
        for (const struct dirent *entry; (entry = readdir(entries));)
                n += entry->d_name[0] != '.';
        closedir(entries);
        return n;
}

size_t harness_count_fds(pid_t pid)
{
        size_t n = count_entries(pid, "fd");

        return pid == getpid() ? n - 1 : n; /* the directory itself was open */
}

size_t harness_settled_fds(pid_t pid)
{
        struct harness_patience patience = HARNESS_PATIENCE_INIT;
        size_t n = SIZE_MAX;

        while (patience.waits < SETTLE_WAITS) {
                n = MIN(n, harness_count_fds(pid));
                harness_wait(&patience);
        }
        return n;
}

size_t harness_count_threads(pid_t pid)
{
        return count_entries(pid, "task");
}

int harness_reap(pid_t pid)
{
        int status;

        CHECK(waitpid(pid, &status, 0) == pid, "process %d: %m", pid);
        return status;
}

int harness_drop_to(uid_t uid)
{
        if (uid == getuid())
                return 0;
        /* As after execve(2), it is dumpable: its own files in /proc are its own. */
        if (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0 ||
            prctl(PR_SET_DUMPABLE, 1) < 0)
                return -errno;
        return 0;
}

void harness_become(uid_t uid, pid_t parent)
{
        CHECK_OK(harness_drop_to(uid));
        /* After the change of user, which resets it. */
        CHECK_OK(error_from(prctl(PR_SET_PDEATHSIG, SIGKILL)));
        if (getppid() != parent)
                _exit(EXIT_FAILURE);
}

bool harness_cannot_serve(const char *wpd, int status)
{
        char command[4096 + 32];

        snprintf(command, sizeof(command), "'%s' --check >/dev/null 2>&1", wpd);
        return WIFEXITED(status) && WEXITSTATUS(status) == 1 && system(command);
}

/* The state and the parent of a process; 0 when it is gone. */
static pid_t parent_of(pid_t pid)
{
        char path[64], text[512];
        const char *end;
        int fd, parent = 0;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/stat", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return 0;
        n = read(fd, text, sizeof(text) - 1);
        close(fd);
        text[MAX(n, 0)] = '\0';
        end = strrchr(text, ')');
        return end && sscanf(end, ") %*c %d", &parent) == 1 ? parent : 0;
}

/* Kills and reaps all children of this process, orphans of its descendants included; how many there were. */
static unsigned kill_children(void)
{
        unsigned n_killed = 0, n_found;

        do {
                DIR *processes = opendir("/proc");

                n_found = 0;
                for (const struct dirent *entry; processes && (entry = readdir(processes));) {
                        pid_t pid = (pid_t)atoi(entry->d_name);

                        if (pid <= 0 || parent_of(pid) != getpid())
                                continue;
                        kill(pid, SIGKILL);
                        if (waitpid(pid, NULL, 0) == pid)
                                n_found++;
                }
                if (processes)
                        closedir(processes);
                n_killed += n_found;
        } while (n_found && n_killed < MAX_CHILDREN);
        return n_killed;
}

/* ------------------------------------------------------------------ what a test leaves behind */

struct belongings {
        bool fds[MAX_FDS];
        size_t n_threads;
};

static void take_stock(struct belongings *belongings)
{
        for (int fd = 0; fd < MAX_FDS; fd++)
                belongings->fds[fd] = fcntl(fd, F_GETFD) >= 0;
        belongings->n_threads = harness_count_threads(getpid());
}

static void compare_stock(const struct belongings *before)
{
        struct belongings after;
        char path[64], target[256];
        ssize_t length;
        int r;

        take_stock(&after);
        for (int fd = 0; fd < MAX_FDS; fd++) {
                snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
                length = readlink(path, target, sizeof(target) - 1);
                target[MAX(length, 0)] = '\0';
                CHECK(after.fds[fd] == before->fds[fd], "descriptor %d was %s: %s", fd,
                      after.fds[fd] ? "leaked" : "closed", target);
        }
        CHECK(after.n_threads == before->n_threads, "a thread was leaked: %zu instead of %zu",
              after.n_threads, before->n_threads);
        r = waitpid(-1, NULL, WNOHANG);
        CHECK(r < 0 && errno == ECHILD, "a process was leaked%s", r > 0 ? ", which has ended meanwhile" : "");
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
        return remove(path);
}

/* ------------------------------------------------------------------ running */

static void run_in_child(const struct harness_test *test, pid_t runner)
{
        struct belongings before;

        harness_become(getuid(), runner);
        alarm(GUARD_SECONDS);
        /* Orphans come to this process: it is where they are missed. */
        CHECK_OK(error_from(prctl(PR_SET_CHILD_SUBREAPER, 1)));
        take_stock(&before);
        test->run(test->uid);
        compare_stock(&before);
        _exit(EXIT_SUCCESS);
}

void harness_show_tail(const char *path)
{
        char text[LOG_TAIL + 1];
        ssize_t n;
        int fd;

        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return;
        if (lseek(fd, -LOG_TAIL, SEEK_END) < 0)
                lseek(fd, 0, SEEK_SET);
        n = read(fd, text, LOG_TAIL);
        close(fd);
        text[MAX(n, 0)] = '\0';
        printf("----- log of wpd\n%s-----\n", text);
}

/* For the report of a failure. */
static void show_log(void)
{
        char path[128];

        snprintf(path, sizeof(path), "%s/log", directory);
        harness_show_tail(path);
}

int harness_run(const struct harness_test *test, char message[HARNESS_MAX_MESSAGE])
{
        pid_t runner = getpid(), pid;
        int status;

        atomic_flag_clear(&verdict->taken);
        verdict->message[0] = '\0';
        snprintf(directory, sizeof(directory), "/tmp/wpd-test-XXXXXX");
        if (!mkdtemp(directory) || chmod(directory, 0755) < 0) {
                snprintf(message, HARNESS_MAX_MESSAGE, "%s: %s", directory, strerror(errno));
                return EXIT_FAILURE;
        }
        fflush(stdout);
        pid = fork();
        if (!pid)
                run_in_child(test, runner);
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
                status = -1;
        kill_children();
        snprintf(message, HARNESS_MAX_MESSAGE, "%s", verdict->message);
        if (WIFSIGNALED(status) && !message[0])
                snprintf(message, HARNESS_MAX_MESSAGE, "%s",
                         WTERMSIG(status) == SIGALRM ? "it hangs" : strsignal(WTERMSIG(status)));
        status = WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILURE;
        if (status != EXIT_SUCCESS && status != SKIPPED)
                show_log();
        nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        return status == EXIT_SUCCESS || status == SKIPPED ? status : EXIT_FAILURE;
}

static bool wanted(const struct harness_test *test, int n_names, char **names)
{
        for (int i = 0; i < n_names; i++)
                if (!strcmp(names[i], test->name))
                        return true;
        return !n_names;
}

/*
 * On a machine with several NUMA nodes, programs whose memory lies on different ones would not be merged: all that a test starts
 * takes its memory from the first node, unless it says otherwise (test_numa.c).
 */
static void stay_on_first_node(void)
{
        char list[64];

        if (numa_list(list, sizeof(list)) >= 0)
                (void)!numa_prefer((int)strtol(list, NULL, 10));
}

bool harness_setup(int argc, char **argv, int *ret_status)
{
        if (argc < 3) {
                fprintf(stderr, "usage: %s WPD WPCTL [TEST...]\n", argv[0]);
                *ret_status = EXIT_FAILURE;
                return false;
        }
        wpd_path = argv[1];
        wpctl_path = argv[2];
        setvbuf(stdout, NULL, _IOLBF, 0);
        stay_on_first_node();
        if (getuid() != 0) {
                puts("SKIP: needs root");
                *ret_status = SKIPPED;
                return false;
        }
        verdict = mmap(NULL, sizeof(*verdict), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (verdict == MAP_FAILED || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
                perror(argv[0]);
                *ret_status = EXIT_FAILURE;
                return false;
        }
        return true;
}

static const char *result_name(int result)
{
        return result == EXIT_SUCCESS ? "ok  " : result == SKIPPED ? "SKIP" : "FAIL";
}

int harness_main(int argc, char **argv, const struct harness_test *tests, size_t n_tests)
{
        char message[HARNESS_MAX_MESSAGE];
        unsigned results[SKIPPED + 1] = {0};
        int status;

        if (!harness_setup(argc, argv, &status))
                return status;
        for (size_t i = 0; i < n_tests; i++) {
                if (!wanted(&tests[i], argc - 3, argv + 3))
                        continue;
                status = harness_run(&tests[i], message);
                results[status]++;
                printf("%s %s%s%s\n", result_name(status), tests[i].name, message[0] ? ": " : "", message);
        }
        printf("%u passed, %u failed, %u skipped\n", results[EXIT_SUCCESS], results[EXIT_FAILURE],
               results[SKIPPED]);
        if (results[EXIT_FAILURE])
                return EXIT_FAILURE;
        return results[EXIT_SUCCESS] ? EXIT_SUCCESS : SKIPPED;
}
