/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libwp: connecting, disconnecting, and the conversation with the daemon. */

#include "libwp/client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/clock.h"

#define DEFAULT_SOCKET "/run/wpd/client.sock"

/* After so long a call takes a daemon that says nothing for dead. */
#define CALL_TIMEOUT_SECONDS 30

/* How long a call waits for room in the socket before it looks whether there still is a connection. */
#define ROOM_MILLISECS 100

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

        if (memory == MAP_FAILED)
                return NULL;
        /* Tables are larger than what is used of them. EINVAL: a kernel without huge pages. */
        (void)!madvise(memory, bytes, MADV_NOHUGEPAGE);
        return memory;
}

void client_unmap(void *memory, size_t bytes)
{
        if (memory)
                munmap(memory, bytes);
}

void client_ring(int event_fd)
{
        uint64_t one = 1;

        (void)!write(event_fd, &one, sizeof(one)); /* a full counter is readable, which is all that matters */
}

void client_silence(int event_fd)
{
        uint64_t count;

        (void)!read(event_fd, &count, sizeof(count));
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

/* Lets the agent hang up. */
static void give_up_daemon(struct wp_client *client)
{
        atomic_store(&client->dropping, true);
        client_ring(client->agent_fd);
}

/*
 * A daemon that has said nothing for so long is given up; giving memory back may take a while. Memory does not wait
 * for it, only calls of this library do.
 */
static int request_wait(struct wp_client *client, struct client_request *request)
{
        struct timespec deadline;

        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += CALL_TIMEOUT_SECONDS;
        while (!request->done)
                if (pthread_cond_timedwait(&client->changed, &client->lock, &deadline) == ETIMEDOUT) {
                        give_up_daemon(client);
                        deadline.tv_sec += CALL_TIMEOUT_SECONDS; /* the agent answers in its place */
                }
        if (request->error < 0)
                client_fail(request->error, "the daemon went away during the call; the memory is intact");
        return request->error;
}

/* Waits for room in the socket without the lock, which the agent needs meanwhile. */
static int send_request(struct wp_client *client, struct wire_header *message)
{
        struct pollfd polled = {.fd = client->socket_fd, .events = POLLOUT};
        uint64_t deadline_ns = clock_now() + CALL_TIMEOUT_SECONDS * NSEC_PER_SEC;
        int r;

        while (client->connected) {
                r = wire_send(client->socket_fd, message, NULL, 0, false);
                if (r != -EAGAIN)
                        return r;
                if (clock_now() >= deadline_ns)
                        give_up_daemon(client);
                pthread_mutex_unlock(&client->lock);
                (void)!poll(&polled, 1, ROOM_MILLISECS);
                pthread_mutex_lock(&client->lock);
        }
        return -ENOTCONN;
}

static int call_locked(struct wp_client *client, struct wire_header *message, struct wire_reply *ret_reply)
{
        struct client_request *request;
        int r;

        if (!client->connected)
                return client_fail(-ENOTCONN, "the daemon is gone; the memory is intact");
        request = request_new(client);
        if (!request)
                return client_fail(-EMFILE, "too many calls of this process at once");
        message->serial = request->serial;
        r = send_request(client, message);
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

int client_call(struct wp_client *client, struct wire_header *message, struct wire_reply *ret_reply)
{
        int r;

        pthread_mutex_lock(&client->lock);
        r = call_locked(client, message, ret_reply);
        pthread_mutex_unlock(&client->lock);
        return r;
}

int client_run_errand(struct wp_client *client, const struct client_errand *errand)
{
        int r;

        pthread_mutex_lock(&client->lock);
        while (client->errand.state != ERRAND_NONE)
                pthread_cond_wait(&client->changed, &client->lock);
        client->errand = *errand;
        client->errand.state = ERRAND_WAITS;
        client_ring(client->agent_fd);
        while (client->errand.state != ERRAND_DONE)
                pthread_cond_wait(&client->changed, &client->lock);
        r = client->errand.error;
        client->errand.state = ERRAND_NONE;
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
        return r;
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

void client_close_all(struct wp_client *client)
{
        int *fds[] = {&client->socket_fd,  &client->pool_fd,       &client->pagemap_fd, &client->mem_fd,
                      &client->maps_fd,    &client->event_fd,      &client->agent_fd,   &client->watcher_fd,
                      &client->channel_fd, &client->channel_end_fd};

        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
                *fds[i] = fd_close(*fds[i]);
        for (unsigned i = 0; i < N_CONTEXTS; i++)
                client->context_fds[i] = fd_close(client->context_fds[i]);
        for (unsigned i = 0; i < WIRE_FILES; i++)
                client->files[i] = fd_close(client->files[i]);
}

/*
 * A child that is forked while a run is frozen gets its pages from the agent, afterwards; if the process ended before
 * that, the child would never have them. So fork(3) waits for the end of the run, and the next run for the end of
 * fork(3). A child that is made in other ways relies on events alone (run.c).
 */
static sigset_t before_fork_mask; /* guarded by clients_lock */

/* A signal handler must not run in the child before it has all of its memory (filerun.c). */
static void before_fork(void)
{
        sigset_t all;

        pthread_mutex_lock(&clients_lock);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before_fork_mask);
        for (struct wp_client *client = clients; client; client = client->next) {
                pthread_mutex_lock(&client->running);
                filerun_before_fork(client);
        }
}

static void let_run(void)
{
        for (struct wp_client *client = clients; client; client = client->next)
                pthread_mutex_unlock(&client->running);
}

static void end_fork(void)
{
        sigset_t mask = before_fork_mask;

        pthread_mutex_unlock(&clients_lock);
        pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/*
 * The watcher has read the event of this fork by now; it passes the child's context on before it lets go of its lock.
 * Whoever forks in order to end must not take the context along.
 */
static void after_fork_parent(void)
{
        let_run();
        for (struct wp_client *client = clients; client; client = client->next) {
                pthread_mutex_lock(&client->serving);
                pthread_mutex_unlock(&client->serving);
        }
        end_fork();
}

static void after_fork_child(void)
{
        let_run();
        for (struct wp_client *client = clients; client; client = client->next) {
                filerun_after_fork_child(client);
                client_close_all(client);
        }
        clients = NULL;
        end_fork();
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

static int choose_address(struct wp_client *client, const char *path)
{
        struct sockaddr_un *address = &client->link.address;

        if (!path)
                path = secure_getenv("WPD_SOCKET");
        if (!path)
                path = DEFAULT_SOCKET;
        if (strlen(path) >= sizeof(address->sun_path))
                return client_fail(-EINVAL, "the socket's path is too long");
        address->sun_family = AF_UNIX;
        memcpy(address->sun_path, path, strlen(path));
        return 0;
}

static int make_bells(struct wp_client *client)
{
        int *fds[] = {&client->event_fd, &client->agent_fd, &client->watcher_fd}, ends[2];

        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
                *fds[i] = (int)error_from(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
                if (*fds[i] < 0)
                        return client_fail(*fds[i], "an eventfd cannot be made");
        }
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
                return client_fail(-errno, "a pair of sockets cannot be made");
        client->channel_fd = ends[0];
        client->channel_end_fd = ends[1];
        return 0;
}

static struct wp_client *client_new(void)
{
        struct wp_client *client = client_map(sizeof(*client));
        pthread_condattr_t attributes;

        if (!client)
                return NULL;
        client->regions = client_map(CLIENT_MAX_REGIONS * sizeof(struct wp_region));
        client->queue = client_map(QUEUE_BYTES);
        client->producer.ring = client->queue;
        client->pid = getpid();
        client->socket_fd = client->pool_fd = -EBADF;
        for (unsigned i = 0; i < WIRE_FILES; i++)
                client->files[i] = -EBADF;
        client->pagemap_fd = client->mem_fd = client->maps_fd = -EBADF;
        client->event_fd = client->agent_fd = client->watcher_fd = -EBADF;
        client->channel_fd = client->channel_end_fd = -EBADF;
        client->served.socket = client->served.spare = -EBADF;
        sem_init(&client->verdict, 0, 0);
        sem_init(&client->released, 0, 0);
        for (unsigned i = 0; i < N_CONTEXTS; i++)
                client->context_fds[i] = -EBADF;
        for (unsigned i = 0; i < N_SERVED; i++)
                client->served.contexts[i] = -EBADF;
        pthread_mutex_init(&client->lock, NULL);
        pthread_mutex_init(&client->queue_lock, NULL);
        pthread_mutex_init(&client->serving, NULL);
        pthread_mutex_init(&client->protecting, NULL);
        pthread_mutex_init(&client->running, NULL);
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&client->changed, &attributes);
        pthread_condattr_destroy(&attributes);
        client_remember(client);
        return client;
}

static void join_thread(pthread_t thread, void **stack)
{
        if (!*stack)
                return;
        pthread_join(thread, NULL);
        client_unmap(*stack, CLIENT_STACK_BYTES);
        *stack = NULL;
}

static void stop_agent(struct wp_client *client)
{
        atomic_store(&client->stopping, true);
        client_ring(client->agent_fd);
        join_thread(client->agent, &client->agent_stack);
}

static void client_close(struct wp_client *client)
{
        run_release(client);
        client_close_all(client);
        client_unmap(client->regions, CLIENT_MAX_REGIONS * sizeof(struct wp_region));
        client->regions = NULL;
        client->n_regions = 0;
}

/*
 * Memory that was merged once may stay a private mapping of the pool, even after it was given back; what the
 * program discards there reads zeros only as long as somebody serves hold and lazy. So in that case the watcher stays
 * behind until the last such mapping is gone; and with the contexts of forked children, until the last of those is
 * gone. Then all that is left is its own: false.
 */
static bool stop_watcher(struct wp_client *client)
{
        pthread_t watcher = client->watcher;

        if (!client->watcher_stack)
                return true;
        if (watcher_end(client)) {
                join_thread(watcher, &client->watcher_stack);
                return true;
        }
        client_close(client);
        pthread_detach(watcher);
        sem_post(&client->released);
        return false;
}

static struct wp_client *client_free(struct wp_client *client)
{
        if (!client)
                return NULL;
        client_forget(client);
        client_close(client);
        client_unmap(client->queue, QUEUE_BYTES);
        pthread_cond_destroy(&client->changed);
        pthread_mutex_destroy(&client->lock);
        client_unmap(client, sizeof(*client));
        return NULL;
}

/* The agent makes the connection; its first attempt decides. */
static int await_connection(struct wp_client *client)
{
        int r;

        pthread_mutex_lock(&client->lock);
        while (!client->tried)
                pthread_cond_wait(&client->changed, &client->lock);
        r = client->error;
        pthread_mutex_unlock(&client->lock);
        return r < 0 ? client_fail(r, client->detail) : 0;
}

static int client_start(struct wp_client *client, const char *socket_path)
{
        int r = choose_address(client, socket_path);

        if (r >= 0)
                r = make_bells(client);
        if (r < 0)
                return r;
        r = client_start_thread(&client->watcher, &client->watcher_stack, watcher_main, client);
        if (r >= 0)
                r = client_start_thread(&client->agent, &client->agent_stack, agent_main, client);
        return r < 0 ? client_fail(r, "the library's threads cannot be started") : await_connection(client);
}

wp_export int wp_connect(const char *socket_path, struct wp_client **ret_client)
{
        struct wp_client *client;
        int r;

        if (!ret_client)
                return client_fail(-EINVAL, "nowhere to put the client");
        client = client_new();
        if (!client || !client->regions || !client->queue) {
                client_free(client);
                return client_fail(-ENOMEM, "out of memory");
        }
        r = client_start(client, socket_path);
        if (r < 0) {
                stop_agent(client);
                stop_watcher(client);
                client_free(client);
                return r;
        }
        *ret_client = client;
        return 0;
}

static void say_goodbye(struct wp_client *client)
{
        struct wire_bye bye;

        /* A child's context behind it would not be read. */
        pthread_mutex_lock(&client->serving);
        atomic_store(&client->up, false);
        pthread_mutex_unlock(&client->serving);
        wire_init(&bye, WIRE_BYE, sizeof(bye), 0);
        if (client->link.state == LINK_UP && wire_send(client->socket_fd, &bye, NULL, 0, false) >= 0)
                shutdown(client->socket_fd, SHUT_WR);
        else
                shutdown(client->socket_fd, SHUT_RDWR);
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
        stop_agent(client);
        say_goodbye(client);
        return stop_watcher(client) ? client_free(client) : NULL;
}
