/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The watcher: serves the hold contexts when there is no daemon to do it
 *
 * It sleeps until the daemon's end of the socket closes - whatever the reason - and then wakes everybody who
 * waits in this address space: a fault that the daemon had read but not answered would otherwise sleep for
 * ever (trap T2). Woken threads look again and, if need be, fault again; from then on the watcher answers. It
 * serves this process and the forked children whose contexts it was given.
 *
 * It must not be the agent: that blocks in mremap() until somebody reads hold.
 */

#include "libwp/client.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define BATCH_MESSAGES 16

/* How often a lingering watcher looks whether the last mapping of the pool is gone. */
#define LINGER_MILLISECS 5000

/* The lowest and highest addresses that UFFDIO_WAKE takes; vm.mmap_min_addr is at most this in practice. */
#define LOWEST_ADDRESS  ((uint64_t)1 << 16)
#define HIGHEST_ADDRESS (((uint64_t)1 << 47) - PAGE_BYTES)

bool watcher_pool_mapped(struct wp_client *client)
{
        char needle[64], text[4096 + sizeof(needle)];
        size_t kept = 0;
        _cleanup_fd_ int fd = -EBADF;
        struct stat st;
        ssize_t n;

        if (fstat(client->pool_fd, &st) < 0)
                return true;
        /* "MAJOR:MINOR INODE " as proc_pid_maps(5) prints it; by hand, since stdio may allocate. */
        snprintf(needle, sizeof(needle), " %02x:%02x %lu ", major(st.st_dev), minor(st.st_dev),
                 (unsigned long)st.st_ino);
        fd = (int)error_from(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        if (fd < 0)
                return true;
        while ((n = read(fd, text + kept, 4096)) > 0) {
                size_t length = kept + (size_t)n;

                if (memmem(text, length, needle, strlen(needle)))
                        return true;
                kept = MIN(length, strlen(needle));
                memmove(text, text + length - kept, kept);
        }
        return n < 0;
}

/* Tells the program what the daemon can no longer report. */
static void report(struct wp_client *client, const struct queue_event *event)
{
        if (!atomic_load(&client->lingering) && queue_push(&client->own_producer, event))
                client_ring_bell(client);
}

static void report_write(struct wp_client *client, const struct uffd_msg *message)
{
        report(client, &(struct queue_event){
                               .type = WP_EVENT_WRITE,
                               .address = message->arg.pagefault.address,
                               .length = PAGE_BYTES - (message->arg.pagefault.address & (PAGE_BYTES - 1)),
                               .time_ns = clock_now(),
                               .tid = (int32_t)message->arg.pagefault.feat.ptid,
                       });
}

static int answer_fault(struct wp_client *client, int hold_fd, const struct uffd_msg *message)
{
        uint64_t address = message->arg.pagefault.address;
        uint64_t flags = message->arg.pagefault.flags;
        int r;

        if (flags & UFFD_PAGEFAULT_FLAG_MINOR)
                return hold_answer_minor(hold_fd, address);
        r = hold_answer_write(hold_fd, address);
        if (r >= 0 && hold_fd == client->context_fds[CONTEXT_HOLD])
                report_write(client, message);
        return r;
}

/*
 * Reads and answers all that waits on one context. A fault that cannot be answered because an event must be
 * read first stays where it is: waking it makes it come back behind the event.
 */
static void serve_context(struct wp_client *client, int hold_fd)
{
        struct uffd_msg messages[BATCH_MESSAGES];
        int n;

        while ((n = uffd_read(hold_fd, messages, BATCH_MESSAGES)) > 0)
                for (int i = 0; i < n; i++) {
                        const struct uffd_msg *message = &messages[i];

                        if (message->event == UFFD_EVENT_FORK)
                                client_add_child(client, (int)message->arg.fork.ufd);
                        else if (message->event == UFFD_EVENT_PAGEFAULT &&
                                 answer_fault(client, hold_fd, message) < 0)
                                (void)!uffd_wake(hold_fd, page_down(message->arg.pagefault.address),
                                                 PAGE_BYTES);
                }
}

/* Fills `polled` with what is to be served; returns how many. */
static unsigned list_contexts(struct wp_client *client, struct pollfd *polled)
{
        unsigned n = 0;

        polled[n++] = (struct pollfd){.fd = client->watcher_stop_fd, .events = POLLIN};
        polled[n++] = (struct pollfd){.fd = client->context_fds[CONTEXT_HOLD], .events = POLLIN};
        for (unsigned i = 0; i < CLIENT_MAX_CHILDREN; i++)
                if (client->child_fds[i] >= 0)
                        polled[n++] = (struct pollfd){.fd = client->child_fds[i], .events = POLLIN};
        return n;
}

static void take_over(struct wp_client *client)
{
        (void)!uffd_wake(client->context_fds[CONTEXT_HOLD], LOWEST_ADDRESS, HIGHEST_ADDRESS - LOWEST_ADDRESS);
        for (unsigned i = 0; i < CLIENT_MAX_CHILDREN; i++)
                if (client->child_fds[i] >= 0)
                        (void)!uffd_wake(client->child_fds[i], LOWEST_ADDRESS,
                                         HIGHEST_ADDRESS - LOWEST_ADDRESS);
        client->own_producer =
                (struct queue_producer){.ring = client->queue, .head = atomic_load(&client->queue->head)};
        report(client, &(struct queue_event){.type = WP_EVENT_DISCONNECTED, .time_ns = clock_now()});
}

static void serve(struct wp_client *client)
{
        struct pollfd polled[2 + CLIENT_MAX_CHILDREN];

        for (;;) {
                bool lingering = atomic_load(&client->lingering);
                unsigned n = list_contexts(client, polled);

                if (poll(polled, n, LINGER_MILLISECS) == 0 && lingering && !watcher_pool_mapped(client))
                        return;
                if (polled[0].revents)
                        return;
                for (unsigned i = 1; i < n; i++)
                        if (polled[i].revents & POLLIN)
                                serve_context(client, polled[i].fd);
                        else if (polled[i].revents & (POLLERR | POLLHUP | POLLNVAL))
                                (void)!poll(NULL, 0, 1); /* a child that is going away */
        }
}

/* Sleeps until the daemon is gone: true; false when the program disconnects. */
static bool daemon_gone(struct wp_client *client)
{
        struct pollfd polled[] = {
                {.fd = client->watcher_stop_fd, .events = POLLIN},
                {.fd = client->socket_fd, .events = POLLRDHUP},
        };

        for (;;) {
                (void)!poll(polled, ARRAY_SIZE(polled), -1);
                if (polled[1].revents)
                        return true;
                if (polled[0].revents)
                        return false;
        }
}

static void release_rest(struct wp_client *client)
{
        client_forget(client);
        for (unsigned i = 0; i < CLIENT_MAX_CHILDREN; i++)
                fd_close(client->child_fds[i]);
        fd_close(client->context_fds[CONTEXT_HOLD]);
        fd_close(client->socket_fd);
        fd_close(client->pool_fd);
        fd_close(client->bell_fd);
        fd_close(client->agent_stop_fd);
        fd_close(client->watcher_stop_fd);
        client_unmap(client->queue, QUEUE_BYTES);
        client_unmap(client, sizeof(*client));
}

void *watcher_main(void *argument)
{
        struct wp_client *client = argument;

        if (!daemon_gone(client))
                return NULL;
        take_over(client);
        serve(client);
        if (atomic_load(&client->lingering))
                release_rest(client);
        return NULL;
}
