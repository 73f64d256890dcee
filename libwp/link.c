/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The link: the connection to the daemon, and its coming back
 *
 * The agent makes the connection, the first as well as every later one, without ever waiting for the daemon: it
 * has guard to read meanwhile. When the connection ends, for whatever reason, calls that wait fail with -ENOTCONN
 * and the agent tries again, at first soon and then twice a second. A new daemon is given the contexts that are
 * in use already, and every region is registered again; what was merged before is found by the daemon itself
 * (WIRE_CONTEXTS_RESUMED). Only then may the program ask again.
 */

#include "libwp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define HANDSHAKE_NS (20 * NSEC_PER_SEC)
#define BACKLOG_NS   (10 * NSEC_PER_MSEC)
#define RETRY_NS     (50 * NSEC_PER_MSEC)
#define RETRY_MAX_NS (500 * NSEC_PER_MSEC)
#define PROTOCOL_NS  (60 * NSEC_PER_SEC)

/* ------------------------------------------------------------------ up and down */

static void fail_requests(struct wp_client *client)
{
        for (unsigned i = 0; i < CLIENT_MAX_REQUESTS; i++)
                if (client->requests[i].serial && !client->requests[i].done) {
                        client->requests[i].error = -ENOTCONN;
                        client->requests[i].done = true;
                }
        for (uint32_t i = 0; i < client->n_regions; i++) {
                client->regions[i].joined = false;
                client->regions[i].serial = 0;
        }
}

/* The connection ended or could not be made; `error` and `detail` are for wp_connect(). */
static void link_down(struct wp_client *client, int error, const char *detail)
{
        struct link *link = &client->link;
        bool was_up = link->state == LINK_UP;

        shutdown(client->socket_fd, SHUT_RDWR);
        link->state = LINK_DOWN;
        link->blocked = false;
        link->result_bytes = 0;
        link->delay_ns = was_up ? RETRY_NS : MIN(link->delay_ns * 2, RETRY_MAX_NS);
        if (error == -EPROTO) /* nothing but another daemon changes that */
                link->delay_ns = PROTOCOL_NS;
        link->deadline_ns = link->once ? UINT64_MAX : clock_now() + link->delay_ns;
        link->backlog_until_ns = link->deadline_ns + HANDSHAKE_NS;
        atomic_store(&client->up, false);
        pthread_mutex_lock(&client->lock);
        client->connected = false;
        link->epoch++;
        if (!client->tried) {
                client->tried = true;
                client->error = error;
                strncpy(client->detail, detail, sizeof(client->detail) - 1);
        }
        fail_requests(client);
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        if (was_up) {
                protect_break_all(client);
                filerun_restore_all(client);
                atomic_store(&client->hung_up, true);
                client_ring(client->watcher_fd);
        }
}

/*
 * Sends if there is room: true when it went out, or went wrong for good, which the reader of the socket notices.
 * The agent must not wait for a daemon that does not read.
 */
static bool send_now(struct wp_client *client, const void *message)
{
        bool sent = wire_send(client->socket_fd, message, NULL, 0, false) != -EAGAIN;

        client->link.blocked |= !sent;
        return sent;
}

/* Registers a region again; the answer finds it by its serial. */
static bool rejoin(struct wp_client *client, struct wp_region *region)
{
        struct wire_register message = {
                .address = region->start, .length = region->length, .flags = region->flags};

        wire_init(&message, WIRE_REGISTER, sizeof(message), client->next_serial + 1);
        if (!send_now(client, &message))
                return false;
        region->serial = ++client->next_serial;
        return true;
}

/* Excludes again what the program had excluded. Until the daemon knows, the agent refuses such runs (run.c). */
static bool exclude_again(struct wp_client *client, struct wp_region *region)
{
        const uint64_t *excluded = (const uint64_t *)region->excluded;
        size_t n_pages = region->length / PAGE_BYTES;

        while (region->n_repeated < n_pages) {
                size_t page = region->n_repeated, end = bitmap_run_end(excluded, page, n_pages);
                struct wire_range message = {.region = region->id,
                                             .offset = page * PAGE_BYTES,
                                             .length = (end - page) * PAGE_BYTES};

                wire_init(&message, WIRE_EXCLUDE, sizeof(message), 0);
                if (bitmap_get(excluded, page) && !send_now(client, &message))
                        return false;
                region->n_repeated = end;
        }
        return true;
}

/* Tells a new daemon, as far as there is room now, what the program wants. */
static void repeat_wishes(struct wp_client *client)
{
        bool sent = true;

        client->link.blocked = false;
        pthread_mutex_lock(&client->lock);
        for (uint32_t i = 0; i < client->n_regions && sent; i++) {
                struct wp_region *region = &client->regions[i];

                if (region->client && region->returning && !region->leaving && !region->joined &&
                    !region->serial)
                        sent = rejoin(client, region);
                else if (region->client && region->joined && region->excluded)
                        sent = exclude_again(client, region);
        }
        pthread_mutex_unlock(&client->lock);
}

static void link_up(struct wp_client *client)
{
        watcher_hand(client, WATCHER_SOCKET, &client->socket_fd, 1);
        client->link.state = LINK_UP;
        client->link.once = false;
        client->link.delay_ns = RETRY_NS;
        atomic_store(&client->up, true);
        pthread_mutex_lock(&client->lock);
        for (uint32_t i = 0; i < client->n_regions; i++) {
                client->regions[i].returning = true;
                client->regions[i].n_repeated = 0;
        }
        client->connected = true;
        client->tried = true;
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        repeat_wishes(client);
        atomic_store(&client->came_up, true);
        client_ring(client->watcher_fd);
}

/* ------------------------------------------------------------------ the handshake */

/* The socket keeps its number: threads of the program may be about to send on it. */
static int take_socket(struct wp_client *client, int fd)
{
        int r = 0;

        if (client->socket_fd < 0) {
                client->socket_fd = fd;
                return 0;
        }
        r = (int)error_from(dup3(fd, client->socket_fd, O_CLOEXEC));
        close(fd);
        return MIN(r, 0);
}

static int open_proc_files(struct wp_client *client)
{
        if (client->pagemap_fd < 0)
                client->pagemap_fd = (int)error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
        if (client->mem_fd < 0)
                client->mem_fd = (int)error_from(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
        if (client->maps_fd < 0)
                client->maps_fd = (int)error_from(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        return MIN(MIN(client->pagemap_fd, client->mem_fd), client->maps_fd);
}

static void say_hello(struct wp_client *client)
{
        struct wire_hello hello = {.version = WIRE_VERSION};
        int r = open_proc_files(client);

        if (r < 0) {
                link_down(client, r,
                          "/proc/self/{pagemap,mem,maps} cannot be opened: is the process undumpable?");
                return;
        }
        wire_init(&hello, WIRE_HELLO, sizeof(hello), 0);
        r = wire_send(client->socket_fd, &hello, (int[]){client->pagemap_fd, client->mem_fd}, 2, true);
        /* -EPIPE: it hung up already; what it said before is still there to be read. */
        if (r < 0 && r != -EPIPE) {
                link_down(client, -ENOTCONN, "the daemon ended the connection");
                return;
        }
        client->link.state = LINK_HELLO;
        client->link.deadline_ns = clock_now() + HANDSHAKE_NS;
}

static void connect_daemon(struct wp_client *client)
{
        int fd = (int)error_from(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const char *detail = "no daemon listens on the socket";
        int r = fd;

        if (fd >= 0)
                r = (int)error_from(
                        connect(fd, (struct sockaddr *)&client->link.address, sizeof(client->link.address)));
        /* Many are connecting at this moment. */
        if (r == -EAGAIN && clock_now() < client->link.backlog_until_ns) {
                fd_close(fd);
                client->link.deadline_ns = clock_now() + BACKLOG_NS;
                return;
        }
        if (r >= 0)
                r = take_socket(client, fd_take(&fd));
        fd_close(fd);
        if (r == -EACCES || r == -EPERM) {
                detail = "the socket may not be opened: is the user in group wpd?";
                r = -EACCES;
        } else if (r < 0 && fd >= 0) {
                r = -ENOTCONN;
        }
        if (r < 0)
                link_down(client, r, detail);
        else
                say_hello(client);
}

/* Contexts that no daemon has enabled are of no use to the next one. */
static int make_contexts(struct wp_client *client, int device_fd)
{
        for (unsigned i = 0; i < N_CONTEXTS; i++) {
                fd_close(client->context_fds[i]);
                client->context_fds[i] = uffd_create(device_fd);
                if (client->context_fds[i] < 0)
                        return client->context_fds[i];
        }
        return 0;
}

static int say_contexts(struct wp_client *client)
{
        struct wire_contexts contexts = {.flags = client->contexts_ready ? WIRE_CONTEXTS_RESUMED : 0};

        wire_init(&contexts, WIRE_CONTEXTS, sizeof(contexts), 0);
        return wire_send(client->socket_fd, &contexts, client->context_fds, N_CONTEXTS, true);
}

static void take_welcome(struct wp_client *client, const struct wire_welcome *welcome, int device_fd,
                         int pool_fd)
{
        _cleanup_fd_ int device = device_fd, pool = pool_fd;
        int r = pools_add(client, pool);

        if (welcome->version != WIRE_VERSION) {
                link_down(client, -EPROTO, "library and daemon are of different versions");
                return;
        }
        fd_close(client->pool_fd);
        client->pool_fd = fd_take(&pool);
        client->pool_bytes = welcome->pool_bytes;
        if (r >= 0 && !client->contexts_ready)
                r = make_contexts(client, device);
        if (r < 0) {
                link_down(client, r, "a userfaultfd cannot be created");
                return;
        }
        if (say_contexts(client) < 0)
                link_down(client, -ENOTCONN, "the daemon ended the connection");
        else
                client->link.state = LINK_CONTEXTS;
}

static void take_accepted(struct wp_client *client)
{
        int r = client->contexts_ready ? 0 : run_prepare(client);

        if (r < 0) {
                link_down(client, r, "the agent cannot be prepared");
                return;
        }
        if (!client->contexts_ready)
                watcher_hand(client, WATCHER_CONTEXTS, &client->context_fds[CONTEXT_HOLD], N_SERVED);
        client->contexts_ready = true;
        link_up(client);
}

/* ------------------------------------------------------------------ messages */

/* A region that the program gave up meanwhile is not to be known to the daemon either. */
static void leave_again(struct wp_client *client, uint32_t id)
{
        struct wire_range message = {.region = id};

        wire_init(&message, WIRE_UNREGISTER, sizeof(message), 0);
        (void)!wire_send(client->socket_fd, &message, NULL, 0, false);
}

/* The answer to rejoin(): true if it was one. Called with the lock held. */
static bool rejoined(struct wp_client *client, const struct wire_reply *reply)
{
        for (uint32_t i = 0; i < client->n_regions; i++) {
                struct wp_region *region = &client->regions[i];

                if (!region->client || region->serial != reply->header.serial)
                        continue;
                region->serial = 0;
                region->returning = false;
                region->joined = reply->error >= 0;
                region->id = reply->region;
                region->file = (uint32_t)reply->stat[WIRE_REGISTERED_FILE];
                return true;
        }
        return false;
}

static bool answered(struct wp_client *client, const struct wire_reply *reply)
{
        for (unsigned i = 0; i < CLIENT_MAX_REQUESTS; i++) {
                struct client_request *request = &client->requests[i];

                if (request->serial != reply->header.serial || request->done)
                        continue;
                request->reply = *reply;
                request->done = true;
                return true;
        }
        return false;
}

static void take_reply(struct wp_client *client, const struct wire_reply *reply)
{
        if (!reply->header.serial)
                return; /* to what was sent without waiting */
        pthread_mutex_lock(&client->lock);
        if (!rejoined(client, reply) && !answered(client, reply) && reply->error >= 0 && reply->region)
                leave_again(client, reply->region);
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        repeat_wishes(client);
}

/* What a scan found written in lazy regions; when, and by whom, nobody knows. */
static void take_written(struct wp_client *client, const struct wire_written *written)
{
        for (uint32_t i = 0; i < written->n_ranges; i++)
                client_tell(client,
                            &(struct queue_event){
                                    .type = WP_EVENT_WRITE,
                                    .flags = written->ranges[i].length > PAGE_BYTES ? WP_EVENT_F_FOLDED : 0,
                                    .address = written->ranges[i].address,
                                    .length = written->ranges[i].length,
                                    .time_ns = clock_now(),
                            });
}

static void close_all(const int *fds, unsigned n_fds)
{
        for (unsigned i = 0; i < n_fds; i++)
                close(fds[i]);
}

/* What is expected in this state: true when the message is a batch. */
static bool handle_message(struct wp_client *client, const int *fds, unsigned n_fds)
{
        const struct wire_header *header = (const struct wire_header *)client->inbox;
        const struct wire_reply *reply = (const struct wire_reply *)client->inbox;
        enum link_state state = client->link.state;

        if (state == LINK_HELLO && header->type == WIRE_WELCOME)
                take_welcome(client, (const struct wire_welcome *)client->inbox, fds[0], fds[1]);
        else if (state != LINK_UP && header->type == WIRE_REPLY && reply->error < 0)
                link_down(client, reply->error, reply->detail);
        else if (state == LINK_CONTEXTS && header->type == WIRE_REPLY)
                take_accepted(client);
        else if (state == LINK_UP && header->type == WIRE_REPLY)
                take_reply(client, reply);
        else if (state == LINK_UP && header->type == WIRE_WRITTEN)
                take_written(client, (const struct wire_written *)client->inbox);
        else if (state == LINK_UP && header->type == WIRE_GRANDCHILD) {
                watcher_hand(client, WATCHER_GRANDCHILD, fds, 1);
                close(fds[0]);
        } else if (state == LINK_UP && (header->type == WIRE_FILE || header->type == WIRE_FILE_GONE)) {
                filerun_take_file(client, ((const struct wire_file *)client->inbox)->file,
                                  n_fds ? fds[0] : -EBADF);
        } else if (state == LINK_UP && header->type == WIRE_BATCH)
                return true;
        else {
                close_all(fds, n_fds);
                link_down(client, -EPROTO, "the daemon speaks another language");
        }
        return false;
}

bool link_receive(struct wp_client *client)
{
        int fds[WIRE_MAX_FDS];
        unsigned n_fds = 0;
        const char *reason;
        int r;

        r = wire_receive(client->socket_fd, client->inbox, fds, &n_fds, false);
        if (r == -EAGAIN)
                return false;
        if (r <= 0) {
                link_down(client, -ENOTCONN, "the daemon ended the connection");
                return false;
        }
        if (wire_check(client->inbox, (size_t)r, n_fds, WIRE_FROM_DAEMON, &reason) < 0) {
                close_all(fds, n_fds);
                link_down(client, -EPROTO, reason);
                return false;
        }
        return handle_message(client, fds, n_fds);
}

void link_flush(struct wp_client *client)
{
        struct link *link = &client->link;

        if (link->result_bytes && wire_send(client->socket_fd, client->outbox, NULL, 0, false) == -EAGAIN)
                return;
        link->result_bytes = 0;
        if (link->state == LINK_UP)
                repeat_wishes(client);
}

bool link_blocked(const struct wp_client *client)
{
        return client->link.result_bytes || client->link.blocked;
}

void link_drop(struct wp_client *client)
{
        if (client->link.state == LINK_UP)
                link_down(client, -ENOTCONN, "the daemon does not answer");
}

void link_start(struct wp_client *client)
{
        client->link.once = true;
        client->link.delay_ns = RETRY_NS;
        client->link.deadline_ns = 0;
        client->link.backlog_until_ns = clock_now() + HANDSHAKE_NS;
}

uint64_t link_tick(struct wp_client *client, uint64_t now_ns)
{
        struct link *link = &client->link;

        if (link->state == LINK_UP)
                return UINT64_MAX;
        if (now_ns >= link->deadline_ns) {
                if (link->state == LINK_DOWN)
                        connect_daemon(client);
                else
                        link_down(client, -ETIMEDOUT, "the daemon does not answer");
        }
        return link->state == LINK_UP ? UINT64_MAX : link->deadline_ns;
}
