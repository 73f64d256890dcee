/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The service manager (libsystemd). Nobody is told anything, and nothing fails, where there is no manager. */

#include "process/notify.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"

/* Names of pools in the descriptor store: this, and the uid. */
#define POOL_PREFIX "pool-"

static void free_names(char ***names)
{
        if (!*names)
                return;
        for (char **name = *names; *name; name++)
                free(*name);
        free(*names);
}

/* Takes a socket that listens, of the type that its name promises; anything else is closed and an error. */
static int take_listener(int fd, const char *name, int type, int *slot)
{
        _cleanup_fd_ int taken = fd;
        int r = sd_is_socket_unix(fd, type, 1, NULL, 0);

        if (r < 0)
                return r;
        if (r == 0) {
                log_error("The service manager passed as '%s' something that is not its listening socket",
                          name);
                return -EPROTOTYPE;
        }
        if (*slot >= 0) {
                log_error("The service manager passed more than one socket named '%s'", name);
                return -EEXIST;
        }
        *slot = fd_take(&taken);
        return 0;
}

static bool parse_pool_name(const char *name, uid_t *ret_uid)
{
        unsigned long uid;
        char *end;

        if (strncmp(name, POOL_PREFIX, strlen(POOL_PREFIX)))
                return false;
        name += strlen(POOL_PREFIX);
        if (*name < '0' || *name > '9' || (*name == '0' && name[1]))
                return false;
        errno = 0;
        uid = strtoul(name, &end, 10);
        if (errno || *end || uid > UINT32_MAX)
                return false;
        *ret_uid = (uid_t)uid;
        return true;
}

static void take_pool(int fd, uid_t uid, struct notify_pools *pools)
{
        if (pools->n < NOTIFY_MAX_POOLS)
                pools->pools[pools->n++] = (struct notify_pool){.uid = uid, .fd = fd};
        else {
                log_warning("The service manager passed more than %d pools; the one of uid %u is closed",
                            NOTIFY_MAX_POOLS, uid);
                fd_close(fd);
        }
}

static int take_passed(int fd, const char *name, int *client, int *control, struct notify_pools *pools)
{
        uid_t uid;

        if (!strcmp(name, "client"))
                return take_listener(fd, name, SOCK_SEQPACKET, client);
        if (!strcmp(name, "control"))
                return take_listener(fd, name, SOCK_STREAM, control);
        if (parse_pool_name(name, &uid)) {
                take_pool(fd, uid, pools);
                return 0;
        }
        log_warning(
                "The service manager passed a descriptor of a name that means nothing here; it is closed");
        fd_close(fd);
        return 0;
}

int notify_passed_fds(int *ret_client_fd, int *ret_control_fd, struct notify_pools *ret_pools)
{
        _cleanup_(free_names) char **names = NULL;
        _cleanup_fd_ int client = -EBADF, control = -EBADF;
        int n, r = 0;

        n = sd_listen_fds_with_names(true, &names);
        if (n < 0)
                return n;
        ret_pools->n = 0;
        for (int i = 0; i < n; i++) {
                int fd = SD_LISTEN_FDS_START + i;

                if (r >= 0)
                        r = take_passed(fd, names[i], &client, &control, ret_pools);
                else
                        fd_close(fd);
        }
        if (r < 0) {
                while (ret_pools->n > 0)
                        fd_close(ret_pools->pools[--ret_pools->n].fd);
                return r;
        }
        *ret_client_fd = fd_take(&client);
        *ret_control_fd = fd_take(&control);
        return 0;
}

/* A regular file tells the manager nothing by polling, so that it is asked not to. */
void notify_store_pool(uid_t uid, int fd)
{
        char text[96];

        snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=" POOL_PREFIX "%u\nFDPOLL=0", uid);
        (void)sd_pid_notify_with_fds(0, false, text, &fd, 1);
}

void notify_forget_pool(uid_t uid)
{
        sd_notifyf(false, "FDSTOREREMOVE=1\nFDNAME=" POOL_PREFIX "%u", uid);
}

void notify_ready(void)
{
        sd_notify(false, "READY=1");
}

void notify_reloading(void)
{
        sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu",
                   (unsigned long long)(clock_now() / NSEC_PER_USEC));
}

void notify_stopping(void)
{
        sd_notify(false, "STOPPING=1");
}

void notify_status(const char *format, ...)
{
        char text[256];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        /* A line end would begin another assignment. */
        text[strcspn(text, "\n")] = '\0';
        sd_notifyf(false, "STATUS=%s", text);
}

uint64_t notify_watchdog_interval(void)
{
        uint64_t timeout;

        /* Half of the time after which the manager loses patience, as sd_watchdog_enabled(3) recommends. */
        return sd_watchdog_enabled(false, &timeout) > 0 ? MAX(timeout / 2, 1) : 0;
}

void notify_watchdog(void)
{
        sd_notify(false, "WATCHDOG=1");
}
