/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libwp: connecting, disconnecting, and the conversation with the daemon. */

#include "libwp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define DEFAULT_SOCKET "/run/wpd/client.sock"

/* A call gives up on a daemon that says nothing for this long; giving memory back may take a while. */
#define CALL_TIMEOUT_SECONDS 120

static __thread char thread_detail[WIRE_MAX_DETAIL];

int client_fail(int error, const char *detail)
{
        size_t length = strnlen(detail, sizeof(thread_detail) - 1);

        memcpy(thread_detail, detail, length);
        thread_detail[length] = '\0';
        return error;
}

wp_export const char *wp_strerror_detail(struct wp_client *client)
{
        return thread_detail;
}

wp_export const char *wp_version(void)
{
        return WPD_VERSION;
}

void *client_map(size_t bytes)
{
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        return memory == MAP_FAILED ? NULL : memory;
}

void client_unmap(void *memory, size_t bytes)
{
        if (memory)
                munmap(memory, bytes);
}

int client_check(struct wp_client *client)
{
        if (!client)
                return client_fail(-EINVAL, "no client");
        if (client->pid != getpid())
                return client_fail(-ENOTCONN, "a forked child has no connection: connect in the child");
        return 0;
}

/* ------------------------------------------------------------------ conversation */

static struct client_request *request_new(struct wp_client *client)
{
        for (unsigned i = 0; i < CLIENT_MAX_REQUESTS; i++)
                if (!client->requests[i].serial) {
                        client->requests[i] = (struct client_request){.serial = ++client->next_serial};
                        return &client->requests[i];
                }
        return NULL;
}

static int request_wait(struct wp_client *client, struct client_request *request)
{
        struct timespec deadline;

        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += CALL_TIMEOUT_SECONDS;
        while (!request->done)
                if (pthread_cond_timedwait(&client->replied, &client->lock, &deadline) == ETIMEDOUT)
                        return client_fail(-ETIMEDOUT, "the daemon does not answer");
        if (request->error < 0)
                client_fail(request->error, "the daemon went away during the call; the memory is intact");
        return request->error;
}

static int call_locked(struct wp_client *client, struct wire_header *message, const int *fds, unsigned n_fds,
                       struct wire_reply *ret_reply)
{
        struct client_request *request;
        int r;

        if (!client->connected)
                return client_fail(-ENOTCONN, "the daemon is gone; the memory is intact");
        request = request_new(client);
        if (!request)
                return client_fail(-EMFILE, "too many calls of this process at once");
        message->serial = request->serial;
        r = wire_send(client->socket_fd, message, fds, n_fds, true);
        if (r < 0)
                r = client_fail(-ENOTCONN, "the daemon is gone; the memory is intact");
        else
                r = request_wait(client, request);
        if (r >= 0) {
                r = request->reply.error;
                if (r < 0)
                        client_fail(r, request->reply.detail);
                else if (ret_reply)
                        *ret_reply = request->reply;
        }
        request->serial = 0;
        return r;
}

int client_call(struct wp_client *client, struct wire_header *message, const int *fds, unsigned n_fds,
                struct wire_reply *ret_reply)
{
        int r;

        pthread_mutex_lock(&client->lock);
        r = call_locked(client, message, fds, n_fds, ret_reply);
        pthread_mutex_unlock(&client->lock);
        return r;
}

void client_replied(struct wp_client *client, const struct wire_reply *reply)
{
        pthread_mutex_lock(&client->lock);
        for (unsigned i = 0; i < CLIENT_MAX_REQUESTS; i++) {
                struct client_request *request = &client->requests[i];

                if (request->serial && request->serial == reply->header.serial && !request->done) {
                        request->reply = *reply;
                        request->done = true;
                }
        }
        pthread_cond_broadcast(&client->replied);
        pthread_mutex_unlock(&client->lock);
}

void client_hung_up(struct wp_client *client)
{
        pthread_mutex_lock(&client->lock);
        client->connected = false;
        for (unsigned i = 0; i < CLIENT_MAX_REQUESTS; i++)
                if (client->requests[i].serial && !client->requests[i].done) {
                        client->requests[i].error = -ENOTCONN;
                        client->requests[i].done = true;
                }
        pthread_cond_broadcast(&client->replied);
        pthread_mutex_unlock(&client->lock);
}

void client_add_child(struct wp_client *client, int fd)
{
        for (int pass = 0; fd >= 0 && pass < 2; pass++)
                for (unsigned i = 0; fd >= 0 && i < CLIENT_MAX_CHILDREN; i++) {
                        int old = atomic_load(&client->child_fds[i]);

                        /* Second pass: the place of a child that is dead may be used again. */
                        if (old >= 0 && (!pass || uffd_alive(old)))
                                continue;
                        if (atomic_compare_exchange_strong(&client->child_fds[i], &old, fd)) {
                                fd_close(old);
                                fd = -EBADF;
                        }
                }
        fd_close(fd);
}

int client_start_thread(pthread_t *ret_thread, void **ret_stack, void *(*entry)(void *), void *argument)
{
        void *stack = client_map(CLIENT_STACK_BYTES);
        pthread_attr_t attributes;
        sigset_t all, old;
        int r;

        if (!stack)
                return -ENOMEM;
        /* Not MADV_DONTFORK: fork(3) visits the stacks of all threads in the child. */
        pthread_attr_init(&attributes);
        pthread_attr_setstack(&attributes, stack, CLIENT_STACK_BYTES);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = -pthread_create(ret_thread, &attributes, entry, argument);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        pthread_attr_destroy(&attributes);
        if (r < 0) {
                client_unmap(stack, CLIENT_STACK_BYTES);
                return r;
        }
        *ret_stack = stack;
        return 0;
}

/* ------------------------------------------------------------------ forking */

/*
 * A forked child must not keep the parent's descriptors: as long as it has them, a context of a process that
 * is gone - the parent's own, or another child's - lives on, and whoever writes to memory under it waits for
 * an answer that nobody gives.
 */
static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t clients_once = PTHREAD_ONCE_INIT;
static struct wp_client *clients;

static void close_descriptors(struct wp_client *client)
{
        int *fds[] = {&client->socket_fd, &client->pool_fd,       &client->pagemap_fd,     &client->event_fd,
                      &client->bell_fd,   &client->agent_stop_fd, &client->watcher_stop_fd};

        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                *fds[i] = fd_close(*fds[i]);
        for (unsigned i = 0; i < N_CONTEXTS; i++)
                client->context_fds[i] = fd_close(client->context_fds[i]);
        for (unsigned i = 0; i < CLIENT_MAX_CHILDREN; i++)
                client->child_fds[i] = fd_close(client->child_fds[i]);
}

static void before_fork(void)
{
        pthread_mutex_lock(&clients_lock);
}

static void after_fork_parent(void)
{
        pthread_mutex_unlock(&clients_lock);
}

static void after_fork_child(void)
{
        for (struct wp_client *client = clients; client; client = client->next)
                close_descriptors(client);
        clients = NULL;
        pthread_mutex_unlock(&clients_lock);
}

static void watch_forks(void)
{
        pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

static void client_remember(struct wp_client *client)
{
        pthread_once(&clients_once, watch_forks);
        pthread_mutex_lock(&clients_lock);
        client->next = clients;
        clients = client;
        pthread_mutex_unlock(&clients_lock);
}

void client_forget(struct wp_client *client)
{
        struct wp_client **link = &clients;

        pthread_mutex_lock(&clients_lock);
        while (*link && *link != client)
                link = &(*link)->next;
        if (*link)
                *link = client->next;
        pthread_mutex_unlock(&clients_lock);
}

/* ------------------------------------------------------------------ connecting */

static int connect_socket(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        _cleanup_fd_ int fd = -EBADF;

        if (!path)
                path = secure_getenv("WPD_SOCKET");
        if (!path)
                path = DEFAULT_SOCKET;
        if (strlen(path) >= sizeof(address.sun_path))
                return client_fail(-EINVAL, "the socket's path is too long");
        memcpy(address.sun_path, path, strlen(path));
        fd = (int)error_from(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        if (fd < 0)
                return client_fail(fd, "socket() failed");
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                if (errno == EACCES || errno == EPERM)
                        return client_fail(-EACCES,
                                           "the socket may not be opened: is the user in group wpd?");
                return client_fail(-ENOTCONN, "no daemon listens on the socket");
        }
        return fd_take(&fd);
}

/* Receives what the daemon says during the handshake, before there is an agent. */
static int receive_checked(struct wp_client *client, enum wire_type type, int *fds)
{
        struct wire_header *header = (struct wire_header *)client->inbox;
        const char *reason;
        unsigned n_fds = 0;
        int r;

        r = wire_receive(client->socket_fd, client->inbox, fds, &n_fds, true);
        /*
         * A daemon that refuses says why and hangs up; what we sent meanwhile makes that a reset, reported
         * first.
         */
        if (r == -ECONNRESET)
                r = wire_receive(client->socket_fd, client->inbox, fds, &n_fds, true);
        if (r <= 0)
                return client_fail(-ENOTCONN, "the daemon ended the connection");
        r = wire_check(client->inbox, (size_t)r, n_fds, WIRE_FROM_DAEMON, &reason);
        if (r >= 0 && header->type == type)
                return 0;
        if (r >= 0 && header->type == WIRE_REPLY) {
                struct wire_reply *reply = (struct wire_reply *)client->inbox;

                return client_fail(reply->error < 0 ? reply->error : -EPROTO, reply->detail);
        }
        for (unsigned i = 0; i < n_fds; i++)
                fd_close(fds[i]);
        return client_fail(-EPROTO, r < 0 ? reason : "the daemon speaks another language");
}

static int say_hello(struct wp_client *client)
{
        struct wire_hello hello = {.version = WIRE_VERSION};
        _cleanup_fd_ int mem = -EBADF;
        int r;

        client->pagemap_fd = (int)error_from(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
        mem = (int)error_from(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
        if (client->pagemap_fd < 0 || mem < 0)
                return client_fail(MIN(client->pagemap_fd, mem),
                                   "/proc/self/{pagemap,mem} cannot be opened: is the process undumpable?");
        wire_init(&hello, WIRE_HELLO, sizeof(hello), 0);
        r = wire_send(client->socket_fd, &hello, (int[]){client->pagemap_fd, mem}, 2, true);
        /* -EPIPE: it hung up already; what it said before is still there to be read. */
        return r < 0 && r != -EPIPE ? client_fail(-ENOTCONN, "the daemon ended the connection") : 0;
}

static int take_welcome(struct wp_client *client, int *ret_device_fd)
{
        struct wire_welcome *welcome = (struct wire_welcome *)client->inbox;
        int fds[WIRE_MAX_FDS] = {-EBADF, -EBADF, -EBADF, -EBADF, -EBADF};
        _cleanup_fd_ int queue_fd = -EBADF;
        void *queue;
        int r;

        r = receive_checked(client, WIRE_WELCOME, fds);
        if (r < 0)
                return r;
        *ret_device_fd = fds[0];
        client->pool_fd = fds[1];
        queue_fd = fds[2];
        client->event_fd = fds[3];
        client->bell_fd = fds[4];
        client->pool_bytes = welcome->pool_bytes;
        if (welcome->version != WIRE_VERSION || welcome->queue_entries != QUEUE_ENTRIES)
                return client_fail(-EPROTO, "library and daemon are of different versions");
        queue = mmap(NULL, QUEUE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, queue_fd, 0);
        if (queue == MAP_FAILED)
                return client_fail(-errno, "the event queue cannot be mapped");
        client->queue = queue;
        return 0;
}

static int hand_over_contexts(struct wp_client *client, int device_fd)
{
        struct wire_contexts contexts;
        int fds[WIRE_MAX_FDS];
        int r;

        for (unsigned i = 0; i < N_CONTEXTS; i++) {
                client->context_fds[i] = uffd_create(device_fd);
                if (client->context_fds[i] < 0)
                        return client_fail(client->context_fds[i], "a userfaultfd cannot be created");
        }
        wire_init(&contexts, WIRE_CONTEXTS, sizeof(contexts), 0);
        r = wire_send(client->socket_fd, &contexts, client->context_fds, N_CONTEXTS, true);
        if (r < 0)
                return client_fail(-ENOTCONN, "the daemon ended the connection");
        r = receive_checked(client, WIRE_REPLY, fds);
        if (r < 0)
                return r;
        r = ((struct wire_reply *)client->inbox)->error;
        return r < 0 ? client_fail(r, ((struct wire_reply *)client->inbox)->detail) : 0;
}

static struct wp_client *client_new(void)
{
        struct wp_client *client = client_map(sizeof(*client));
        pthread_condattr_t attributes;

        if (!client)
                return NULL;
        client->regions = client_map(CLIENT_MAX_REGIONS * sizeof(struct wp_region));
        client->pid = getpid();
        client->socket_fd = client->pool_fd = client->pagemap_fd = client->event_fd = client->bell_fd =
                -EBADF;
        client->agent_stop_fd = client->watcher_stop_fd = -EBADF;
        for (unsigned i = 0; i < N_CONTEXTS; i++)
                client->context_fds[i] = -EBADF;
        for (unsigned i = 0; i < CLIENT_MAX_CHILDREN; i++)
                client->child_fds[i] = -EBADF;
        pthread_mutex_init(&client->lock, NULL);
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&client->replied, &attributes);
        pthread_condattr_destroy(&attributes);
        client_remember(client);
        return client;
}

static void stop_thread(pthread_t thread, void **stack, int stop_fd)
{
        uint64_t one = 1;

        if (!*stack)
                return;
        while (write(stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
        pthread_join(thread, NULL);
        client_unmap(*stack, CLIENT_STACK_BYTES);
        *stack = NULL;
}

/* Releases everything but what a lingering watcher still serves. */
static void client_close(struct wp_client *client, bool keep_hold)
{
        agent_release(client);
        for (unsigned i = 0; i < N_CONTEXTS; i++)
                if (i != CONTEXT_HOLD || !keep_hold)
                        client->context_fds[i] = fd_close(client->context_fds[i]);
        client->event_fd = fd_close(client->event_fd);
        client->pagemap_fd = fd_close(client->pagemap_fd);
        client_unmap(client->regions, CLIENT_MAX_REGIONS * sizeof(struct wp_region));
        client->regions = NULL;
        client->n_regions = 0;
}

static struct wp_client *client_free(struct wp_client *client)
{
        if (!client)
                return NULL;
        client_forget(client);
        client_close(client, false);
        close_descriptors(client);
        client_unmap(client->queue, QUEUE_BYTES);
        pthread_cond_destroy(&client->replied);
        pthread_mutex_destroy(&client->lock);
        client_unmap(client, sizeof(*client));
        return NULL;
}

static int client_start(struct wp_client *client, const char *socket_path)
{
        _cleanup_fd_ int device_fd = -EBADF;
        int r;

        client->socket_fd = connect_socket(socket_path);
        if (client->socket_fd < 0)
                return client->socket_fd;
        r = say_hello(client);
        if (r >= 0)
                r = take_welcome(client, &device_fd);
        if (r >= 0)
                r = hand_over_contexts(client, device_fd);
        if (r < 0)
                return r;
        client->agent_stop_fd = (int)error_from(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        client->watcher_stop_fd = (int)error_from(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        r = MIN(client->agent_stop_fd, client->watcher_stop_fd);
        if (r >= 0)
                r = agent_prepare(client);
        if (r < 0)
                return client_fail(r, "the agent cannot be prepared");
        client->connected = true;
        r = client_start_thread(&client->watcher, &client->watcher_stack, watcher_main, client);
        if (r >= 0)
                r = client_start_thread(&client->agent, &client->agent_stack, agent_main, client);
        return r < 0 ? client_fail(r, "the library's threads cannot be started") : 0;
}

wp_export int wp_connect(const char *socket_path, struct wp_client **ret_client)
{
        struct wp_client *client;
        int r;

        if (!ret_client)
                return client_fail(-EINVAL, "nowhere to put the client");
        client = client_new();
        if (!client || !client->regions) {
                client_free(client);
                return client_fail(-ENOMEM, "out of memory");
        }
        r = client_start(client, socket_path);
        if (r < 0) {
                stop_thread(client->watcher, &client->watcher_stack, client->watcher_stop_fd);
                client_free(client);
                return r;
        }
        *ret_client = client;
        return 0;
}

static void say_goodbye(struct wp_client *client)
{
        struct wire_bye bye;

        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        pthread_mutex_lock(&client->lock);
        if (client->connected && wire_send(client->socket_fd, &bye, NULL, 0, true) >= 0)
                shutdown(client->socket_fd, SHUT_WR);
        pthread_mutex_unlock(&client->lock);
}

/*
 * Memory that was merged once stays a private mapping of the pool, even after it was given back; what the
 * program discards there reads zeros only as long as somebody serves hold. So in that case the watcher stays
 * behind, with the hold context, until the last such mapping is gone.
 */
static void linger(struct wp_client *client)
{
        pthread_t watcher = client->watcher;

        client_close(client, true);
        pthread_detach(watcher);
        atomic_store(&client->lingering, true);
}

/* A forked child has the memory of the client, and nothing else of it. */
static struct wp_client *child_free(struct wp_client *client)
{
        client->staging = NULL;
        return client_free(client);
}

wp_export struct wp_client *wp_disconnect(struct wp_client *client)
{
        if (!client)
                return NULL;
        if (client->pid != getpid())
                return child_free(client);
        for (uint32_t i = 0; i < client->n_regions; i++)
                if (client->regions[i].client)
                        (void)!wp_unregister(&client->regions[i]);
        say_goodbye(client);
        stop_thread(client->agent, &client->agent_stack, client->agent_stop_fd);
        if (atomic_load(&client->merged_ever) && watcher_pool_mapped(client)) {
                linger(client);
                return NULL;
        }
        stop_thread(client->watcher, &client->watcher_stack, client->watcher_stop_fd);
        return client_free(client);
}
