/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The programs of examples/, which look themselves whether what they show is so. $WPD_EXAMPLES: where they are. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "system/harness.h"
#include "system/service.h"

static void run(uid_t uid, const char *name)
{
        const char *directory = getenv("WPD_EXAMPLES");
        struct service service;
        pid_t parent = getpid(), pid;
        char path[512];
        int status;

        if (!directory)
                harness_skip("WPD_EXAMPLES is not set: run it through meson");
        service_start(&service, NULL);
        snprintf(path, sizeof(path), "%s/%s", directory, name);
        pid = fork();
        CHECK(pid >= 0, "%m");
        if (!pid) {
                harness_become(uid, parent);
                execl(path, path, service.client_path, NULL);
                _exit(EXIT_FAILURE);
        }
        status = harness_reap(pid);
        CHECK(!status, "%s ended with status %#x", path, (unsigned)status);
        service_end(&service, SIGTERM);
}

#define EXAMPLE(_name)                                                                                       \
        static void _name(uid_t uid)                                                                         \
        {                                                                                                    \
                run(uid, #_name);                                                                            \
        }

EXAMPLE(hello)
EXAMPLE(writeback)
EXAMPLE(snapshot)
EXAMPLE(exclusive)
EXAMPLE(replica)

static const struct harness_test tests[] = {
        HARNESS_BOTH(hello),     HARNESS_USER(writeback), HARNESS_USER(snapshot),
        HARNESS_USER(exclusive), HARNESS_USER(replica),
};

HARNESS_MAIN(tests)
