/* SPDX-License-Identifier: GPL-2.0-or-later */

/* varlinkctl, somebody else's Varlink client, introspects and calls ours; skipped where it is not installed.
 */

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake.h"

#define SKIP   77
#define HANG_S 60
#define BYTES  65536

/* Runs a command and checks that it succeeds and prints the text. */
static int expect(const char *command, const char *path, const char *rest, const char *text)
{
        char line[PATH_MAX + 256], *output = calloc(1, BYTES);
        FILE *pipe;
        int status;

        snprintf(line, sizeof(line), "%s %s %s", command, path, rest);
        pipe = popen(line, "re");
        if (!output || !pipe || (!fread(output, 1, BYTES - 1, pipe) && ferror(pipe)))
                abort();
        status = pclose(pipe);
        if (status || !strstr(output, text)) {
                fprintf(stderr, "`%s` ended with %#x and printed:\n%s\nexpected: %s\n", line,
                        (unsigned)status, output, text);
                status = 1;
        }
        free(output);
        return status;
}

int main(void)
{
        struct fake knobs = {.finish = true};
        int stop_fd, failed = 0, r;
        char path[PATH_MAX];
        pid_t pid;

        if (system("command -v varlinkctl >/dev/null 2>&1")) {
                fprintf(stderr, "skipped: varlinkctl is not installed\n");
                return SKIP;
        }
        alarm(HANG_S);
        r = fake_start(&knobs, path, &pid, &stop_fd);
        if (r < 0) {
                fprintf(stderr, "no server: %s\n", strerror(-r));
                return 1;
        }
        failed |= expect("varlinkctl info", path, "", "io.wpd.Control");
        failed |= expect("varlinkctl introspect", path, "io.wpd.Control", "method Status");
        failed |= expect("varlinkctl call", path, "io.wpd.Control.Status '{}'", "pages_sharing");
        failed |= expect("varlinkctl call", path, "io.wpd.Control.Get '{\"key\":\"use_zero_pages\"}'", "yes");
        return fake_stop(pid, stop_fd) || failed;
}
