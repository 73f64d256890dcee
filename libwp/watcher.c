/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The watcher: serves the faults of merged memory, in the process whose memory it is
 *
 * A writer to memory under hold is let go at once, before anybody else hears of it; then the program's event is
 * queued, and the daemon is told, when there are many or a moment has passed: it only wants to know. A page that
 * was discarded becomes zeros. Neither needs the daemon, so that it may be stopped, killed or replaced at any
 * moment without anybody noticing; and a client that does not run delays nobody but itself.
 *
 * Forked children have contexts of their own, which come with the event of the fork. They are served here too, and
 * the daemon gets a duplicate of each: it serves them when this process cannot, because it is stopped or gone.
 * Serving is stateless (kernel/hold.h), so that both may do it. What a daemon had read and not answered when it was
 * killed is made up for by waking everybody (trap T2).
 *
 * The watcher must not be the agent: that blocks in mremap() until somebody reads hold.
 *
 * It has a descriptor table of its own (unshare(2), CLONE_FILES), in which there is nothing but what it serves. Contexts
 * of children are nowhere else in the process: a child that is made without fork(3) would have those of its siblings
 * otherwise, for which nobody answers any more once this process and the daemon are gone; and programs need not know of
 * them. What it needs it is sent.
 */

#include "libwp/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/uffd.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define BATCH_MESSAGES 16

/* How long the daemon may go without news, and folded events without another attempt. */
#define FLUSH_MILLISECS 5

/* How often a lingering watcher looks whether the last mapping of a pool is gone. */
#define LINGER_MILLISECS 5000

/* How soon children that the daemon could not be told of are tried again. */
#define TELL_MILLISECS 1

/* Bytes in the socket that the daemon has not read, as the kernel counts them. */
#define MAX_UNREAD (64 << 10)

/* With no more children than this, those that are gone do no harm. */
#define FEW_CHILDREN 8U

/* See serve_context(). */
#define MAX_READS   64
#define SPIN_NS     (20 * NSEC_PER_USEC)
#define SPIN_GAP_NS (80 * NSEC_PER_USEC)

/* ------------------------------------------------------------------ telling */

static struct wire_faults *faults_of(struct wp_client *client)
{
        return (struct wire_faults *)client->faults;
}

/* News of faults leave room for what matters: contexts of children, results, and what the program asks. */
static bool has_room(const struct wp_client *client)
{
        int unread = 0;

        return ioctl(client->served.socket, SIOCOUTQ, &unread) < 0 || unread < MAX_UNREAD;
}

/* What does not fit into the socket is lost: the next scan finds out the same. */
static void flush_faults(struct wp_client *client)
{
        struct wire_faults *faults = faults_of(client);

        if (!faults->n_faults)
                return;
        wire_init(faults, WIRE_FAULTS, sizeof(*faults) + faults->n_faults * sizeof(faults->faults[0]), 0);
        faults->cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - client->cpu_before_ns;
        if (atomic_load(&client->up) && has_room(client))
                (void)!wire_send(client->served.socket, faults, NULL, 0, false);
        faults->n_faults = 0;
}

static void tell_daemon(struct wp_client *client, uint64_t address, enum wire_fault_kind kind,
                        uint64_t began_ns)
{
        struct wire_faults *faults = faults_of(client);

        if (!faults->n_faults)
                client->first_fault_ns = began_ns;
        faults->faults[faults->n_faults++] = (struct wire_fault){
                .address = address,
                .kind = kind,
                .latency_ns = (uint32_t)MIN(clock_now() - began_ns, (uint64_t)UINT32_MAX),
        };
        if (faults->n_faults == WIRE_FAULTS_MAX ||
            began_ns - client->first_fault_ns > FLUSH_MILLISECS * NSEC_PER_MSEC)
                flush_faults(client);
}

static void tell_program(struct wp_client *client, const struct queue_event *event)
{
        if (!atomic_load(&client->lingering))
                client_tell(client, event);
}

static void tell_fault(struct wp_client *client, enum wp_event_type type, const struct uffd_msg *message)
{
        tell_program(client,
                     &(struct queue_event){
                             .type = type,
                             .address = message->arg.pagefault.address,
                             .length = PAGE_BYTES - (message->arg.pagefault.address & (PAGE_BYTES - 1)),
                             .time_ns = clock_now(),
                             .tid = (int32_t)message->arg.pagefault.feat.ptid,
                     });
}

/* ------------------------------------------------------------------ children */

static int served(const struct wp_client *client, enum client_context which)
{
        return client->served.contexts[which - CONTEXT_HOLD];
}

/* Whether it is one of ours, from this one on. */
static bool is_from(const struct wp_client *client, int fd, enum client_context first)
{
        bool is = false;

        for (enum client_context which = first; which < N_CONTEXTS; which++)
                is |= fd == served(client, which);
        return is;
}

static bool is_own(const struct wp_client *client, int fd)
{
        return is_from(client, fd, CONTEXT_HOLD);
}

/* Of what the program protects and is not merged. */
static bool is_watch(const struct wp_client *client, int fd)
{
        return is_from(client, fd, CONTEXT_WATCH);
}

/* True when the daemon has it now. */
static bool tell_child(struct wp_client *client, int fd, uint32_t flags)
{
        struct wire_child child = {.flags = flags};

        wire_init(&child, WIRE_CHILD, sizeof(child), 0);
        return atomic_load(&client->up) && wire_send(client->served.socket, &child, &fd, 1, false) >= 0;
}

/*
 * Closes the contexts of children that are gone, or execute another program. Only where no list of descriptors is in
 * use: their numbers may be the program's a moment later.
 */
static void forget_dead(struct wp_client *client)
{
        pthread_mutex_lock(&client->serving);
        for (unsigned i = client->n_children; i-- > 0;)
                if (!uffd_alive(client->children[i].fd)) {
                        fd_close(client->children[i].fd);
                        client->children[i] = client->children[--client->n_children];
                }
        client->forget_at = MAX(2 * client->n_children, FEW_CHILDREN);
        pthread_mutex_unlock(&client->serving);
}

/* Takes the context of a new child. One for which there is no room is the daemon's alone. */
static void add_child(struct wp_client *client, int fd)
{
        if (client->n_children == CLIENT_MAX_CHILDREN || client->served.spare < 0) {
                (void)tell_child(client, fd, WIRE_CHILD_SOLE);
                fd_close(fd);
                return;
        }
        client->children[client->n_children++] =
                (struct client_child){.fd = fd, .told = tell_child(client, fd, 0)};
}

void watcher_hand(struct wp_client *client, enum watcher_news what, const int *fds, unsigned n_fds)
{
        struct wire_header message;

        wire_init(&message, (enum wire_type)what, sizeof(message), 0);
        (void)!wire_send(client->channel_fd, &message, fds, n_fds, true);
        client_ring(client->watcher_fd);
}

/* In the place of what it replaces; both stay out of the program's sight. */
static void take_fd(int *slot, int fd)
{
        fd_close(*slot);
        *slot = fd;
}

/* Takes what the agent has sent. */
static void take_handed(struct wp_client *client)
{
        uint64_t buffer[WIRE_MAX_MESSAGE / sizeof(uint64_t)] = {0};
        const struct wire_header *message = (const struct wire_header *)buffer;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds = 0;

        while (wire_receive(client->channel_end_fd, buffer, fds, &n_fds, false) > 0) {
                pthread_mutex_lock(&client->serving);
                if (message->type == WATCHER_CONTEXTS) {
                        for (unsigned i = 0; i < N_SERVED; i++)
                                take_fd(&client->served.contexts[i], fds[i]);
                } else if (message->type == WATCHER_SOCKET) {
                        take_fd(&client->served.socket, fds[0]);
                } else if (client->n_children < CLIENT_MAX_CHILDREN) {
                        client->children[client->n_children++] =
                                (struct client_child){.fd = fds[0], .told = true};
                } else {
                        fd_close(fds[0]);
                }
                pthread_mutex_unlock(&client->serving);
        }
}

static bool tell_children(struct wp_client *client)
{
        bool all = true;

        pthread_mutex_lock(&client->serving);
        for (unsigned i = 0; i < client->n_children; i++) {
                struct client_child *child = &client->children[i];

                if (!child->told)
                        child->told = tell_child(client, child->fd, 0);
                all &= child->told;
        }
        pthread_mutex_unlock(&client->serving);
        return all || !atomic_load(&client->up);
}

/* ------------------------------------------------------------------ serving */

/*
 * Reading the event of a fork installs a descriptor. When the process can have no more, one that was kept for this
 * is given up, or else the fork would never return; the daemon serves that child.
 */
static int read_messages(struct wp_client *client, int fd, struct uffd_msg *messages)
{
        int n = uffd_read(fd, messages, BATCH_MESSAGES);

        if (n >= 0 || client->served.spare < 0)
                return n;
        client->served.spare = fd_close(client->served.spare);
        return uffd_read(fd, messages, BATCH_MESSAGES);
}

static void keep_spare(struct wp_client *client)
{
        if (client->served.spare < 0)
                client->served.spare = (int)error_from(fcntl(client->watcher_fd, F_DUPFD_CLOEXEC, 0));
}

/*
 * What the program protects: whether the writer is to go on now, of which it has been told by then. A page that it does not
 * protect was given up meanwhile if it was under watch, and may be somebody else's to protect: looking again is all.
 */
static bool goes_on(struct wp_client *client, int fd, const struct uffd_msg *message,
                    enum shield_verdict verdict)
{
        switch (verdict) {
        case SHIELD_UNKNOWN:
                if (is_watch(client, fd))
                        (void)!uffd_wake(fd, page_down(message->arg.pagefault.address), PAGE_BYTES);
                return !is_watch(client, fd);
        case SHIELD_WRITE:
                tell_fault(client, WP_EVENT_WRITE, message);
                return true;
        case SHIELD_HOLD:
                tell_fault(client, WP_EVENT_HELD, message);
                return false;
        case SHIELD_WAIT:
                return false;
        case SHIELD_CROWDED:
                tell_fault(client, WP_EVENT_BROKEN, message);
                return true;
        case SHIELD_STALE:
                return true;
        }
        return true;
}

static void serve_fault(struct wp_client *client, int fd, const struct uffd_msg *message, uint64_t began_ns)
{
        uint64_t address = message->arg.pagefault.address;
        bool write = hold_is_write(message), own = is_own(client, fd);
        enum shield_verdict verdict = SHIELD_UNKNOWN;
        int r;

        if (write && own) {
                verdict = shields_judge(&client->shields, address, began_ns);
                if (!goes_on(client, fd, message, verdict))
                        return;
        }
        /* A page that was discarded is protected as it was before, and whoever writes to it is met again. */
        r = hold_answer(fd, message, own && shields_armed(&client->shields, address));
        if (r < 0 || is_watch(client, fd))
                return;
        if (write)
                tell_daemon(client, address, own ? WIRE_FAULT_WRITE : WIRE_FAULT_CHILD, began_ns);
        else if (own && r > 0)
                tell_daemon(client, address, WIRE_FAULT_DISCARD, began_ns);
        if (write && own && verdict == SHIELD_UNKNOWN)
                tell_fault(client, WP_EVENT_WRITE, message);
}

/* Lets the writers of a protected page go on, in whichever context it is. If it cannot be unprotected now they come back. */
static void let_go(struct wp_client *client, uint64_t address)
{
        int place = shields_place(&client->shields, address);

        (void)!uffd_write_protect(served(client, CONTEXT_WATCH), address, PAGE_BYTES, false);
        (void)!uffd_wake(served(client, place < 0 ? CONTEXT_WATCH : CONTEXT_CROWD + place), address,
                         PAGE_BYTES);
        (void)!uffd_wake(served(client, CONTEXT_HOLD), address, PAGE_BYTES);
}

/* Writers that have waited for as long as they may. Returns until when the first of the others may wait. */
static uint64_t break_overdue(struct wp_client *client)
{
        uint64_t address, deadline_ns;

        pthread_mutex_lock(&client->serving);
        while (shields_overdue(&client->shields, clock_now(), &address)) {
                tell_program(client, &(struct queue_event){.type = WP_EVENT_BROKEN,
                                                           .address = address,
                                                           .length = PAGE_BYTES,
                                                           .time_ns = clock_now()});
                let_go(client, address);
        }
        deadline_ns = shields_deadline(&client->shields);
        pthread_mutex_unlock(&client->serving);
        return deadline_ns;
}

static void serve_messages(struct wp_client *client, int hold_fd, const struct uffd_msg *messages, int n)
{
        uint64_t began_ns = clock_now();

        /* Events first: faults can be answered only when they have been read. */
        for (int i = 0; i < n; i++)
                if (messages[i].event == UFFD_EVENT_FORK)
                        add_child(client, (int)messages[i].arg.fork.ufd);
        for (int i = 0; i < n; i++)
                if (messages[i].event == UFFD_EVENT_PAGEFAULT)
                        serve_fault(client, hold_fd, &messages[i], began_ns);
}

/*
 * Serves all that waits on one context. Waking a thread that sleeps on another CPU takes longer than everything
 * else that is done for a fault; so while faults come thick and fast this looks for the next one for a moment
 * before it sleeps. The moment is short, and a gap longer than it ends the habit: quiet memory costs nothing.
 */
static void serve_context(struct wp_client *client, int hold_fd)
{
        struct uffd_msg messages[BATCH_MESSAGES];
        unsigned n_reads = 0;
        uint64_t last_ns = 0;
        int n;

        do {
                uint64_t now_ns;

                pthread_mutex_lock(&client->serving);
                n = read_messages(client, hold_fd, messages);
                now_ns = clock_now();
                if (n > 0)
                        serve_messages(client, hold_fd, messages, n);
                pthread_mutex_unlock(&client->serving);
                if (n > 0) {
                        client->spinning = now_ns - client->last_fault_ns < SPIN_GAP_NS;
                        client->last_fault_ns = last_ns = clock_now();
                } else {
                        __builtin_ia32_pause();
                }
        } while ((n > 0 && ++n_reads < MAX_READS) ||
                 (n == 0 && client->spinning && clock_now() - last_ns < SPIN_NS));
}

/* ------------------------------------------------------------------ the thread */

struct watched {
        unsigned n;
        struct pollfd polled[1 + N_SERVED + CLIENT_MAX_CHILDREN];
};

static void watch(struct watched *watched, int fd)
{
        watched->polled[watched->n++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

static void list_contexts(struct wp_client *client, struct watched *watched)
{
        watched->n = 0;
        watch(watched, client->watcher_fd);
        for (unsigned i = 0; i < N_SERVED; i++)
                watch(watched, client->served.contexts[i]);
        pthread_mutex_lock(&client->serving);
        for (unsigned i = 0; i < client->n_children; i++)
                watch(watched, client->children[i].fd);
        pthread_mutex_unlock(&client->serving);
}

static bool has_children(struct wp_client *client)
{
        bool any = false;

        pthread_mutex_lock(&client->serving);
        for (unsigned i = 0; i < client->n_children && !any; i++)
                any = uffd_alive(client->children[i].fd);
        pthread_mutex_unlock(&client->serving);
        return any;
}

/* Whether somebody needs hold or lazy to be served: this process, or a child of it that lives. */
static bool needed(struct wp_client *client)
{
        return atomic_load(&client->merged_ever) && (pools_mapped(client) || has_children(client));
}

/* What the daemon had read when it was killed, and not answered, is read again. */
static void wake_children(struct wp_client *client)
{
        pthread_mutex_lock(&client->serving);
        for (unsigned i = 0; i < client->n_children; i++)
                (void)!uffd_wake_all(client->children[i].fd);
        pthread_mutex_unlock(&client->serving);
}

/* Says that the connection ended, or is there again, when there is room for it: such news are not folded. */
static bool tell_notice(struct wp_client *client, enum wp_event_type type)
{
        struct queue_event event = {.type = type, .time_ns = clock_now()};
        int written;

        pthread_mutex_lock(&client->queue_lock);
        written = queue_push_whole(&client->producer, &event);
        pthread_mutex_unlock(&client->queue_lock);
        if (written)
                client_ring(client->event_fd);
        return written;
}

static void tell_notices(struct wp_client *client)
{
        if (atomic_load(&client->lingering))
                client->lost = client->found = false;
        if (client->lost && tell_notice(client, WP_EVENT_DISCONNECTED))
                client->lost = false;
        if (!client->lost && client->found && tell_notice(client, WP_EVENT_RECONNECTED))
                client->found = false;
}

/* A new daemon knows no child. */
static void forget_told(struct wp_client *client)
{
        pthread_mutex_lock(&client->serving);
        for (unsigned i = 0; i < client->n_children; i++)
                client->children[i].told = false;
        pthread_mutex_unlock(&client->serving);
}

/* News of the connection, from the agent. */
static void take_news(struct wp_client *client)
{
        if (atomic_exchange(&client->hung_up, false)) {
                wake_children(client);
                client->lost = true;
                client->found = false;
        }
        if (atomic_exchange(&client->came_up, false)) {
                forget_told(client);
                client->cpu_before_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
                client->found = client->connected_before;
                client->connected_before = true;
        }
        tell_notices(client);
}

static bool folded(struct wp_client *client)
{
        bool any;

        pthread_mutex_lock(&client->queue_lock);
        any = queue_folded(&client->producer);
        pthread_mutex_unlock(&client->queue_lock);
        return any;
}

/* How long there is nothing to do, but for `deadline_ns`: milliseconds, or -1. */
static int patience(struct wp_client *client, bool all_told, uint64_t deadline_ns)
{
        uint64_t now_ns, milliseconds = UINT64_MAX;

        if (faults_of(client)->n_faults || folded(client) || client->lost || client->found)
                milliseconds = FLUSH_MILLISECS;
        else if (!all_told)
                milliseconds = TELL_MILLISECS;
        else if (atomic_load(&client->lingering))
                milliseconds = LINGER_MILLISECS;
        if (deadline_ns != UINT64_MAX) {
                now_ns = clock_now();
                milliseconds = MIN(milliseconds,
                                   deadline_ns <= now_ns ? 0 : (deadline_ns - now_ns) / NSEC_PER_MSEC + 1);
        }
        return milliseconds == UINT64_MAX ? -1 : (int)milliseconds;
}

static void flush_folded(struct wp_client *client)
{
        int written;

        pthread_mutex_lock(&client->queue_lock);
        written = queue_flush(&client->producer, clock_now());
        pthread_mutex_unlock(&client->queue_lock);
        if (written)
                client_ring(client->event_fd);
}

static void watch_memory(struct wp_client *client)
{
        struct watched watched;
        bool all_told = true;

        for (;;) {
                int n_ready;

                if (client->n_children >= client->forget_at)
                        forget_dead(client);
                list_contexts(client, &watched);
                n_ready = poll(watched.polled, watched.n, patience(client, all_told, break_overdue(client)));
                if (watched.polled[0].revents) {
                        client_silence(client->watcher_fd);
                        take_handed(client);
                        take_news(client);
                }
                if (atomic_load(&client->stopping) && !atomic_load(&client->lingering)) {
                        atomic_store(&client->lingering, needed(client));
                        if (!atomic_load(&client->lingering))
                                return;
                        sem_post(&client->verdict);
                } else if (n_ready == 0 && atomic_load(&client->lingering) && !needed(client)) {
                        return;
                }
                for (unsigned i = 1; i < watched.n; i++)
                        if (watched.polled[i].revents & POLLIN)
                                serve_context(client, watched.polled[i].fd);
                if (n_ready == 0) {
                        flush_faults(client);
                        flush_folded(client);
                        tell_notices(client);
                }
                all_told = tell_children(client);
                keep_spare(client);
        }
}

bool watcher_end(struct wp_client *client)
{
        client_ring(client->watcher_fd);
        while (sem_wait(&client->verdict) < 0)
                ;
        return !atomic_load(&client->lingering);
}

/* ------------------------------------------------------------------ its own descriptors */

static void close_between(int low, int high)
{
        if (high - low > 1)
                (void)!syscall(SYS_close_range, low + 1, high - 1, 0);
}

static void sort_three(int *fds)
{
        for (int i = 0; i < 2; i++)
                for (int k = 0; k < 2 - i; k++)
                        if (fds[k] > fds[k + 1]) {
                                int fd = fds[k];

                                fds[k] = fds[k + 1];
                                fds[k + 1] = fd;
                        }
}

/*
 * Leaves the descriptors of the process behind, all but three. Those below them are not even copied; the others are
 * closed, which is nothing to the process. If that is not permitted, everything works but what is said above.
 */
static void isolate(struct wp_client *client)
{
        int kept[] = {client->watcher_fd, client->event_fd, client->channel_end_fd};

        sort_three(kept);
        if (kept[0] > 0 ? syscall(SYS_close_range, 0, kept[0] - 1, CLOSE_RANGE_UNSHARE) < 0
                        : unshare(CLONE_FILES) < 0)
                return;
        close_between(kept[0], kept[1]);
        close_between(kept[1], kept[2]);
        close_between(kept[2], INT_MAX);
}

static void close_served(struct wp_client *client)
{
        struct client_served *served = &client->served;

        for (unsigned i = 0; i < N_SERVED; i++)
                served->contexts[i] = fd_close(served->contexts[i]);
        served->socket = fd_close(served->socket);
        served->spare = fd_close(served->spare);
        while (client->n_children > 0)
                fd_close(client->children[--client->n_children].fd);
}

/* What a lingering watcher alone still has, once wp_disconnect() has released all else. */
static void release_rest(struct wp_client *client)
{
        while (sem_wait(&client->released) < 0)
                ;
        client_forget(client);
        client_unmap(client->queue, QUEUE_BYTES);
        client_unmap(client, sizeof(*client));
}

void *watcher_main(void *argument)
{
        struct wp_client *client = argument;

        isolate(client);
        keep_spare(client);
        watch_memory(client);
        close_served(client);
        if (atomic_load(&client->lingering))
                release_rest(client);
        else
                sem_post(&client->verdict);
        return NULL;
}
