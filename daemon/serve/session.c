/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Sessions: the client socket, and one connection each. */

#include "serve/session.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/poolfile.h"
#include "kernel/uffd.h"
#include "libwp/wire.h"
#include "serve/closer.h"
#include "util/cleanup.h"
#include "util/clock.h"
#include "util/log.h"
#include "wp.h"

/*
 * Messages that wait for a peer to read. A batch is answered before the next is sent, and what was found written is told to
 * those that have read all before; so only a peer that asks without reading gets here.
 */
#define MAX_OUTPUT_BYTES (512 << 10)

/* Forked children of one client that are served here, too; as many as it can serve itself, and more. */
#define MAX_CHILDREN 1536

/* Requests of one client that wait for their answers; libwp has at most 64. */
#define MAX_CALLS 256

/*
 * Connections of one user that have not finished the handshake, root's excepted, and how long that may take.
 */
#define MAX_STRANGERS 16
#define HANDSHAKE_NS  (5 * NSEC_PER_SEC)

enum session_state {
        SESSION_HELLO,    /* accepted; HELLO is expected */
        SESSION_CONTEXTS, /* welcomed; CONTEXTS is expected */
        SESSION_READY,    /* a member */
};

struct output {
        struct list link;
        size_t n_fds;
        int fds[WIRE_MAX_FDS];
        size_t size;
        uint64_t message[];
};

/* A request whose answer is still to come. */
struct call {
        struct list link;
        struct session *session;
        enum wire_type type;
        uint64_t serial;
        uint64_t address; /* of the range; STAT: 0 */
        uint64_t bytes;
};

struct session {
        struct list link;
        struct session_server *server;
        enum session_state state;
        int fd;
        pid_t pid;
        uid_t uid;
        uint64_t accepted_ns;
        char name[20];
        struct account_user *user;
        struct domain *domain;
        struct member *member; /* SESSION_READY */
        struct family *family; /* SESSION_READY */
        int pagemap_fd;        /* until the member takes them */
        int mem_fd;
        uint64_t watcher_cpu_ns; /* of the client's watcher, so far as it said */
        struct list calls;
        unsigned n_calls;
        unsigned n_registering; /* of them, REGISTER */
        struct list outputs;
        size_t output_bytes;
        struct ev_io reader;
        struct ev_io writer;
};

/* A client and the children that it forked. Lives for as long as any of them is served. */
struct family {
        struct list link;
        unsigned n_refs; /* the session, and each holder */
        int mem_fd;      /* of /proc/PID/mem: tells whether the client's address space still exists */
        int socket_fd;   /* the client's connection, for the fault service */
        bool orphaned;
};

/*
 * What a context that the fault service reads belongs to: a forked child that is served until its memory is gone. Lives
 * until the service no longer reads the context, which may be long after the session.
 */
struct holder {
        struct list link;
        struct family *family;
        struct fault_context *context;
        bool ending; /* removal was asked for */
};

struct session_server {
        struct session_context context;
        int listen_fd;
        struct ev_io listener;
        struct closer *closer;
        struct list sessions;
        struct list families;
        struct list holders;
        struct hist latency;     /* of faults that clients served */
        uint64_t watcher_cpu_ns; /* of clients that are gone */
        unsigned n_refusals;     /* ever */
        struct session_refusal refusals[SESSION_REFUSALS];
        uint64_t inbox[WIRE_MAX_MESSAGE / sizeof(uint64_t)];
};

/* ------------------------------------------------------------------ refusals */

static void refuse(struct session_server *server, pid_t pid, uint64_t address, uint64_t length,
                   const char *detail)
{
        struct session_refusal *refusal = &server->refusals[server->n_refusals++ % SESSION_REFUSALS];

        *refusal = (struct session_refusal){.pid = pid, .address = address, .length = length};
        snprintf(refusal->detail, sizeof(refusal->detail), "%s", detail);
}

unsigned session_refusals(const struct session_server *server,
                          struct session_refusal refusals[SESSION_REFUSALS])
{
        unsigned n = MIN(server->n_refusals, (unsigned)SESSION_REFUSALS);

        for (unsigned i = 0; i < n; i++)
                refusals[i] = server->refusals[(server->n_refusals - 1 - i) % SESSION_REFUSALS];
        return n;
}

const char *session_name(const void *session)
{
        return session ? ((const struct session *)session)->name : "";
}

/* ------------------------------------------------------------------ the end of a session */

static void output_free(struct output *output)
{
        for (size_t i = 0; i < output->n_fds; i++)
                fd_close(output->fds[i]);
        list_remove(&output->link);
        free(output);
}

static struct family *family_unref(struct session_server *server, struct family *family)
{
        if (!family || --family->n_refs)
                return NULL;
        closer_close(server->closer, family->mem_fd);
        closer_close(server->closer, family->socket_fd);
        list_remove(&family->link);
        free(family);
        return NULL;
}

static struct family *family_new(struct session_server *server, int mem_fd, int socket_fd)
{
        struct family *family = calloc(1, sizeof(*family));

        if (!family)
                return NULL;
        family->n_refs = 1;
        list_init(&family->link);
        list_append(&server->families, &family->link);
        family->mem_fd = (int)error_from(fcntl(mem_fd, F_DUPFD_CLOEXEC, 0));
        family->socket_fd = (int)error_from(fcntl(socket_fd, F_DUPFD_CLOEXEC, 0));
        return family->mem_fd >= 0 && family->socket_fd >= 0 ? family : family_unref(server, family);
}

/* Reading the memory of an address space that is gone finds its end (mem_read(), fs/proc/base.c). */
static bool family_alive(const struct family *family)
{
        char byte;

        return pread(family->mem_fd, &byte, 1, 0) != 0;
}

static void holder_end(struct session_server *server, struct holder *holder)
{
        holder->ending = true;
        fault_remove(server->context.fault, holder->context);
}

/* Once the client's address space is gone, nobody but us serves its children. */
static void look_after_children(struct session_server *server, struct family *family)
{
        if (family->orphaned || family_alive(family))
                return;
        family->orphaned = true;
        list_for_each(link, &server->holders) {
                struct holder *holder = list_entry(link, struct holder, link);

                if (holder->family == family && !holder->ending)
                        fault_orphan(server->context.fault, holder->context);
        }
}

static void session_free(struct session *session)
{
        struct session_server *server = session->server;

        ev_io_stop(server->context.loop, &session->reader);
        ev_io_stop(server->context.loop, &session->writer);
        list_for_each_safe(link, next, &session->calls) {
                struct call *call = list_entry(link, struct call, link);

                if (call->type == WIRE_REGISTER)
                        account_release_region(session->user, call->bytes);
                free(call);
        }
        if (session->member)
                merger_hang_up(server->context.merger, session->member);
        if (session->family)
                look_after_children(server, session->family);
        session->family = family_unref(server, session->family);
        server->watcher_cpu_ns += session->watcher_cpu_ns;
        list_for_each_safe(link, next, &session->outputs)
                output_free(list_entry(link, struct output, link));
        /* What a member holds is charged until it is gone: it may have work under way that outlasts the session. */
        if (!session->member)
                account_release_client(server->context.account, session->user);
        closer_close(server->closer, session->pagemap_fd);
        closer_close(server->closer, session->mem_fd);
        /* Other descriptors of it may be open still: this is the end for the client. */
        shutdown(session->fd, SHUT_RDWR);
        closer_close(server->closer, session->fd);
        list_remove(&session->link);
        free(session);
        server->context.changed(server->context.callback_context);
}

/* Ends the session of a client that broke a rule. */
static void session_drop(struct session *session, const char *reason)
{
        log_warning("client %d (%s, uid %u) dropped: %s", session->pid, session->name, session->uid, reason);
        refuse(session->server, session->pid, 0, 0, reason);
        session_free(session);
}

/* ------------------------------------------------------------------ sending */

static int queue_output(struct session *session, const struct wire_header *message, const int *fds,
                        unsigned n_fds)
{
        struct output *output;

        if (session->output_bytes + message->size > MAX_OUTPUT_BYTES)
                return -ENOBUFS;
        output = calloc(1, sizeof(*output) + message->size);
        if (!output)
                return -ENOMEM;
        list_init(&output->link);
        for (; output->n_fds < n_fds; output->n_fds++) {
                output->fds[output->n_fds] = (int)error_from(fcntl(fds[output->n_fds], F_DUPFD_CLOEXEC, 0));
                if (output->fds[output->n_fds] < 0) {
                        output_free(output);
                        return -EMFILE;
                }
        }
        output->size = message->size;
        memcpy(output->message, message, message->size);
        list_append(&session->outputs, &output->link);
        session->output_bytes += message->size;
        ev_io_start(session->server->context.loop, &session->writer);
        return 0;
}

/*
 * Sends now, or when the peer has room. A message that cannot be delivered ends the session: the socket is
 * shut down, so that whoever reads it next finds the end, behind what the peer sent before. The session itself lives on
 * until then.
 */
static int session_send(struct session *session, const void *message, const int *fds, unsigned n_fds)
{
        int r = -EAGAIN;

        if (list_empty(&session->outputs))
                r = wire_send(session->fd, message, fds, n_fds, false);
        if (r == -EAGAIN)
                r = queue_output(session, message, fds, n_fds);
        if (r < 0)
                shutdown(session->fd, SHUT_RDWR);
        return r;
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct session *session = watcher->data;

        while (!list_empty(&session->outputs)) {
                struct output *output = list_entry(list_first(&session->outputs), struct output, link);
                int r = wire_send(session->fd, output->message, output->fds, (unsigned)output->n_fds, false);

                if (r == -EAGAIN)
                        return;
                if (r < 0) {
                        shutdown(session->fd, SHUT_RDWR);
                        break;
                }
                session->output_bytes -= output->size;
                output_free(output);
        }
        ev_io_stop(loop, watcher);
}

static int send_batch(void *context, const struct wire_batch *batch)
{
        return session_send(context, batch, NULL, 0);
}

static int send_written(void *context, const struct wire_written *written)
{
        return session_send(context, written, NULL, 0);
}

static bool hears(void *context)
{
        return list_empty(&((struct session *)context)->outputs);
}

struct charge {
        struct account *account;
        struct account_user *user;
};

static void member_gone(void *context, uint64_t bytes)
{
        struct charge *charge = context;

        account_release_region(charge->user, bytes);
        account_release_client(charge->account, charge->user);
        free(charge);
}

static int send_file(void *context, uint32_t number, int fd)
{
        struct wire_file message = {.file = number};

        wire_init(&message, WIRE_FILE, sizeof(message), 0);
        return session_send(context, &message, &fd, 1);
}

static int send_file_gone(void *context, uint32_t number)
{
        struct wire_file message = {.file = number};

        wire_init(&message, WIRE_FILE_GONE, sizeof(message), 0);
        return session_send(context, &message, NULL, 0);
}

static void send_away(void *context, const char *reason)
{
        struct session *session = context;

        log_warning("client %d (%s, uid %u) sent away: %s", session->pid, session->name, session->uid,
                    reason);
        refuse(session->server, session->pid, 0, 0, reason);
        shutdown(session->fd, SHUT_RDWR);
}

const struct member_ops session_member_ops = {.send_batch = send_batch,
                                              .send_written = send_written,
                                              .hears = hears,
                                              .send_file = send_file,
                                              .send_file_gone = send_file_gone,
                                              .send_away = send_away,
                                              .gone = member_gone};

static uint64_t kept_of(const struct region *region)
{
        return (region->kept & VMA_NORESERVE ? WIRE_KEPT_NORESERVE : 0) |
               (region->kept & VMA_HUGEPAGE ? WIRE_KEPT_HUGEPAGE : 0) |
               (region->kept & VMA_NOHUGEPAGE ? WIRE_KEPT_NOHUGEPAGE : 0) |
               (region->shared ? WIRE_KEPT_SHARED : 0) |
               (region->protection & PROT_WRITE ? WIRE_KEPT_WRITABLE : 0) |
               (region->protection & PROT_EXEC ? WIRE_KEPT_EXECUTABLE : 0);
}

static int send_registered(struct session *session, uint64_t serial, const struct region *region)
{
        struct wire_reply reply = {.region = region->id, .stat = {kept_of(region), region->backing_number}};

        wire_init(&reply, WIRE_REPLY, sizeof(reply), serial);
        snprintf(reply.detail, sizeof(reply.detail), "%s", region->kept_name);
        return session_send(session, &reply, NULL, 0);
}

static int send_reply(struct session *session, uint64_t serial, int error, const char *detail)
{
        struct wire_reply reply = {.error = error};

        wire_init(&reply, WIRE_REPLY, sizeof(reply), serial);
        snprintf(reply.detail, sizeof(reply.detail), "%s", detail ? detail : "");
        return session_send(session, &reply, NULL, 0);
}

/* ------------------------------------------------------------------ the handshake */

/* Whether the descriptor is the file of that name in a proc file system: whose does not matter, see below. */
static bool is_proc_file(int fd, const char *name)
{
        char path[64], target[4096];
        struct statfs fs;
        const char *base;
        ssize_t length;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        length = readlink(path, target, sizeof(target) - 1);
        if (length < 0)
                return false;
        target[length] = '\0';
        base = strrchr(target, '/');
        /* The name first: asking a stranger's file system may block. */
        return base && !strcmp(base + 1, name) && fstatfs(fd, &fs) >= 0 && fs.f_type == PROC_SUPER_MAGIC;
}

static int send_welcome(struct session *session)
{
        struct session_context *context = &session->server->context;
        struct wire_welcome welcome = {.version = WIRE_VERSION, .pool_bytes = DOMAIN_POOL_BYTES};
        _cleanup_fd_ int pool_fd = -EBADF;
        int r = poolfile_reopen(session->domain->pool_fd, &pool_fd);

        if (r < 0)
                return r;
        wire_init(&welcome, WIRE_WELCOME, sizeof(welcome), 0);
        return session_send(session, &welcome, (int[]){context->uffd_device_fd, pool_fd}, 2);
}

/*
 * The client opened these files itself, so whatever they show it may see anyway; pages from elsewhere would
 * be compared with its own memory by its own agent, and differ. What must be certain is that reading them
 * cannot block.
 */
static void handle_hello(struct session *session, const struct wire_hello *hello, int *fds)
{
        struct session_context *context = &session->server->context;
        int r;

        session->pagemap_fd = fd_take(&fds[0]);
        session->mem_fd = fd_take(&fds[1]);
        if (hello->version != WIRE_VERSION) {
                (void)!send_reply(session, 0, -EPROTO, "library and daemon are of different versions");
                session_drop(session, "its library speaks another version of the protocol");
                return;
        }
        if (!is_proc_file(session->pagemap_fd, "pagemap") || !is_proc_file(session->mem_fd, "mem")) {
                session_drop(session, "HELLO came with the wrong descriptors");
                return;
        }
        r = merger_domain(context->merger, session->uid, context->pool_mount_fd, -EBADF, &session->domain);
        if (r > 0)
                context->keep_pool(context->callback_context, session->uid, session->domain->pool_fd);
        if (r >= 0)
                r = send_welcome(session);
        if (r < 0) {
                if (r == -EPIPE) /* it went away while it was greeted */
                        log_debug("client %d (%s) is gone", session->pid, session->name);
                else
                        log_error("client %d cannot be served: %s", session->pid, strerror(-r));
                session_free(session);
                return;
        }
        session->state = SESSION_CONTEXTS;
}

/*
 * Contexts that an earlier connection brought are enabled already, and cannot be asked which features they have. One
 * that has others than it should harms its owner: the daemon rests nothing on them.
 */
static int enable_contexts(const int *fds, bool resumed, const char **ret_why)
{
        static const uint64_t features[] = {TRACK_FEATURES, GUARD_FEATURES, STAGE_FEATURES, HOLD_FEATURES,
                                            LAZY_FEATURES,  WATCH_FEATURES, WATCH_FEATURES, WATCH_FEATURES};

        for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
                int r;

                if (!uffd_is_context(fds[i])) {
                        *ret_why = "CONTEXTS came with the wrong descriptors";
                        return -EPROTO;
                }
                r = uffd_api(fds[i], features[i]);
                if (r == -EINVAL && resumed)
                        continue;
                if (r < 0) {
                        *ret_why = "this kernel lacks a userfaultfd feature: see wpd --check";
                        return r == -EINVAL ? -ENOSYS : r;
                }
        }
        return 0;
}

static int become_member(struct session *session, int *fds, bool resumed)
{
        struct session_context *context = &session->server->context;
        struct member_fds member_fds = {
                .pagemap = session->pagemap_fd, .mem = session->mem_fd, .track = fds[0], .watch = fds[5]};
        struct charge *charge;
        int r;

        session->family = family_new(session->server, session->mem_fd, session->fd);
        charge = calloc(1, sizeof(*charge));
        if (!session->family || !charge) {
                free(charge);
                return -ENOMEM;
        }
        *charge = (struct charge){.account = context->account, .user = session->user};
        r = member_new(session->domain, session->pid, session->uid, session, &member_fds, charge,
                       &session->member);
        if (r < 0) {
                free(charge);
                return r;
        }
        session->pagemap_fd = session->mem_fd = fds[0] = fds[5] = -EBADF;
        session->member->resumed = resumed;
        merger_add_member(context->merger, session->member);
        return 0;
}

static void handle_contexts(struct session *session, const struct wire_contexts *contexts, int *fds)
{
        bool resumed = contexts->flags & WIRE_CONTEXTS_RESUMED;
        const char *why = "out of resources";
        int r = enable_contexts(fds, resumed, &why);

        if (r >= 0)
                r = become_member(session, fds, resumed);
        if (send_reply(session, 0, r, r < 0 ? why : NULL) < 0 || r < 0) {
                session_drop(session, why);
                return;
        }
        session->state = SESSION_READY;
        log_debug("client %d (%s, uid %u) %s", session->pid, session->name, session->uid,
                  resumed ? "came back" : "connected");
}

/* ------------------------------------------------------------------ what the client's watcher says */

static void handle_faults(struct session *session, const struct wire_faults *faults)
{
        for (uint32_t i = 0; i < faults->n_faults; i++) {
                const struct wire_fault *fault = &faults->faults[i];

                hist_add(&session->server->latency, fault->latency_ns);
                merger_fault(session->member, fault->address, (enum wire_fault_kind)fault->kind);
        }
        /* No thread can have used more than all the time since. */
        session->watcher_cpu_ns = MIN(faults->cpu_ns, clock_now() - session->accepted_ns);
}

static struct holder *holder_new(struct session_server *server, struct family *family)
{
        struct holder *holder = calloc(1, sizeof(*holder));

        if (!holder)
                return NULL;
        holder->family = family;
        family->n_refs++;
        list_init(&holder->link);
        list_append(&server->holders, &holder->link);
        return holder;
}

static void holder_free(struct session_server *server, struct holder *holder)
{
        (void)family_unref(server, holder->family);
        list_remove(&holder->link);
        free(holder);
}

/* The service has the context; what its client had read and not answered, if that is gone, is to be read again. */
static void holder_begin(struct session_server *server, struct holder *holder, struct fault_context *context)
{
        holder->context = context;
        if (holder->family->orphaned)
                fault_orphan(server->context.fault, context);
}

/* A context of a child: it is served here as well. One that is beyond the limit is left to the client. */
static int handle_child(struct session *session, const struct wire_child *child, int *fd)
{
        struct session_server *server = session->server;
        struct fault_context *context;
        struct holder *holder;
        int r;

        if (!uffd_is_context(*fd))
                return -EPROTO;
        holder = session->family->n_refs <= MAX_CHILDREN ? holder_new(server, session->family) : NULL;
        if (!holder)
                return 0;
        r = fault_add(server->context.fault, *fd, child->flags & WIRE_CHILD_SOLE, session->family->socket_fd,
                      holder, &context);
        if (r < 0) {
                holder_free(server, holder);
                return 0;
        }
        holder_begin(server, holder, context);
        *fd = -EBADF;
        return 0;
}

/* ------------------------------------------------------------------ requests */

static struct call *call_new(struct session *session, const struct wire_header *header)
{
        struct call *call = calloc(1, sizeof(*call));

        if (!call)
                return NULL;
        call->session = session;
        call->type = (enum wire_type)header->type;
        call->serial = header->serial;
        list_init(&call->link);
        list_append(&session->calls, &call->link);
        session->n_calls++;
        session->n_registering += call->type == WIRE_REGISTER;
        return call;
}

static void call_free(struct call *call)
{
        call->session->n_calls--;
        call->session->n_registering -= call->type == WIRE_REGISTER;
        list_remove(&call->link);
        free(call);
}

/* The answer to REGISTER, UNREGISTER, EXCLUDE or PROTECT. A session that cannot be told is dropped by its reader,
 * which sees the broken socket. */
static void call_done(void *context, int error, struct region *region, const char *detail)
{
        struct call *call = context;
        struct session *session = call->session;
        struct session_server *server = session->server;
        bool registered = call->type == WIRE_REGISTER && region;
        bool released =
                (call->type == WIRE_REGISTER && error < 0) || (call->type == WIRE_UNREGISTER && error >= 0);

        if (released)
                account_release_region(session->user, call->bytes);
        if (error < 0)
                refuse(server, session->pid, call->address, call->bytes,
                       detail && detail[0] ? detail : strerror(-error));
        if (registered)
                (void)!send_registered(session, call->serial, region);
        else
                (void)!send_reply(session, call->serial, error, detail);
        call_free(call);
        server->context.changed(server->context.callback_context);
}

/*
 * The process may have executed another program since it connected, and its id may belong to somebody else by
 * now. What a user may not look at himself - the file is not his then, as after executing a set-user-id
 * program - is not looked at for him.
 */
static int open_smaps(const struct session *session)
{
        _cleanup_fd_ int fd = -EBADF;
        char path[64];
        struct stat st;

        snprintf(path, sizeof(path), "/proc/%d/smaps", session->pid);
        fd = (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
        if (fd < 0)
                return fd_take(&fd);
        if (fstat(fd, &st) < 0)
                return -errno;
        return st.st_uid == session->uid || !session->uid ? fd_take(&fd) : -EACCES;
}

static const char *register_refused(const struct wire_register *message)
{
        if (!message->length || !page_aligned(message->address) || !page_aligned(message->length))
                return "address and length must be whole pages, and not empty";
        if (message->address + message->length < message->address ||
            message->address + message->length > UINT64_C(1) << 47)
                return "the range leaves the address space";
        if (message->flags & ~(WP_MERGE | WP_NOTIFY | WP_LAZY | WP_EXEC | WIRE_REGISTER_POLICY))
                return "unknown flags";
        if ((message->flags & WP_NOTIFY) && (message->flags & WP_LAZY))
                return "WP_NOTIFY and WP_LAZY contradict each other";
        return NULL;
}

static bool overlaps(const struct session *session, uint64_t start, uint64_t end)
{
        list_for_each(link, &session->member->space.regions) {
                const struct region *region = list_entry(link, struct region, link);

                if (region->start < end && start < region_end(region))
                        return true;
        }
        return false;
}

static int handle_register(struct session *session, const struct wire_register *message)
{
        struct session_context *context = &session->server->context;
        const char *why = register_refused(message);
        struct call *call;
        int r, smaps_fd;

        if (!why && overlaps(session, message->address, message->address + message->length))
                why = "it overlaps a region that is registered already";
        if (why) {
                refuse(session->server, session->pid, message->address, message->length, why);
                return send_reply(session, message->header.serial, -EINVAL, why);
        }
        r = account_charge_region(context->account, session->user,
                                  session->member->space.n_regions + session->n_registering, message->length,
                                  &why);
        if (r < 0) {
                refuse(session->server, session->pid, message->address, message->length, why);
                return send_reply(session, message->header.serial, r, why);
        }
        call = call_new(session, &message->header);
        smaps_fd = call ? open_smaps(session) : -ENOMEM;
        if (smaps_fd < 0) {
                account_release_region(session->user, message->length);
                if (call)
                        call_free(call);
                return send_reply(session, message->header.serial, smaps_fd, "its mappings cannot be read");
        }
        call->address = message->address;
        call->bytes = message->length;
        r = merger_register(context->merger, session->member, message->address, message->length,
                            message->flags, smaps_fd, call_done, call);
        if (r < 0) {
                fd_close(smaps_fd);
                call_done(call, r, NULL, r == -E2BIG ? "the range is too long" : "out of memory");
        }
        return 0;
}

static struct region *find_region(const struct session *session, uint32_t id)
{
        struct region *region = domain_region(session->domain, id);

        /* Ids belong to the domain: another client's region is none of this one's. */
        return region && region->space == &session->member->space ? region : NULL;
}

static int send_stat(struct session *session, uint64_t serial, const struct region *region)
{
        struct wire_reply reply = {.error = 0};
        const uint64_t *count = region->count;

        wire_init(&reply, WIRE_REPLY, sizeof(reply), serial);
        reply.stat[WIRE_STAT_PAGES] = region->n_pages;
        reply.stat[WIRE_STAT_RESIDENT] =
                region->n_pages - count[PAGE_EMPTY] - count[PAGE_ZERO] - count[PAGE_EXCLUDED];
        reply.stat[WIRE_STAT_MERGED] = count[PAGE_MERGED] + count[PAGE_ALIASED] + count[PAGE_FOREIGN];
        reply.stat[WIRE_STAT_ZERO] = count[PAGE_ZERO];
        reply.stat[WIRE_STAT_VOLATILE] = count[PAGE_VOLATILE];
        reply.stat[WIRE_STAT_EXCLUDED] = count[PAGE_EXCLUDED];
        reply.stat[WIRE_STAT_REFUSED] = count[PAGE_COPIED];
        return session_send(session, &reply, NULL, 0);
}

static bool range_fits(const struct region *region, const struct wire_range *message)
{
        uint64_t bytes = (uint64_t)region->n_pages << PAGE_SHIFT;

        return message->length && page_aligned(message->offset) && page_aligned(message->length) &&
               message->offset <= bytes && message->length <= bytes - message->offset;
}

static int start_task(struct session *session, struct region *region, const struct wire_range *message,
                      uint32_t page, uint32_t n_pages)
{
        struct merger *merger = session->server->context.merger;
        struct call *call = call_new(session, &message->header);
        int r;

        if (!call)
                return send_reply(session, message->header.serial, -ENOMEM, "out of memory");
        if (message->header.type == WIRE_PROTECT && region->backing) {
                call_free(call);
                return send_reply(session, message->header.serial, -EOPNOTSUPP,
                                  "the kernel cannot write-protect a mapping of a file");
        }
        call->address = region->start + message->offset;
        call->bytes = message->header.type == WIRE_UNREGISTER ? (uint64_t)region->n_pages << PAGE_SHIFT
                                                              : message->length;
        if (message->header.type == WIRE_UNREGISTER)
                r = merger_unregister(merger, region, call_done, call);
        else if (message->header.type == WIRE_EXCLUDE)
                r = merger_exclude(merger, region, page, n_pages, call_done, call);
        else if (message->header.type == WIRE_UNMERGE)
                r = merger_unmerge(merger, region, page, n_pages, call_done, call);
        else
                r = merger_protect(merger, region, page, n_pages, call_done, call);
        if (r < 0) {
                call_free(call);
                return send_reply(session, message->header.serial, r,
                                  r == -EALREADY ? "the region is being unregistered already"
                                                 : "out of memory");
        }
        return 0;
}

/* The answer to MERGE. */
static void merge_done(void *context, int error, const struct merger_merge_stat *stat)
{
        struct call *call = context;
        struct session_server *server = call->session->server;
        struct wire_reply reply = {.error = error};

        wire_init(&reply, WIRE_REPLY, sizeof(reply), call->serial);
        reply.stat[WIRE_MERGE_EXAMINED] = stat->examined;
        reply.stat[WIRE_MERGE_MERGED] = stat->merged;
        reply.stat[WIRE_MERGE_ZERO] = stat->zero;
        reply.stat[WIRE_MERGE_FAILED] = stat->failed;
        if (error < 0)
                snprintf(reply.detail, sizeof(reply.detail), "the region was unregistered meanwhile");
        (void)!session_send(call->session, &reply, NULL, 0);
        call_free(call);
        server->context.changed(server->context.callback_context);
}

static int start_merging(struct session *session, struct region *region, const struct wire_range *message,
                         uint32_t page, uint32_t n_pages)
{
        struct merger *merger = session->server->context.merger;
        struct call *call;
        int r;

        if (!(region->flags & WP_MERGE) || region->closing)
                return send_reply(session, message->header.serial, region->closing ? -EBUSY : -EINVAL,
                                  region->closing ? "the region is being changed by another call"
                                                  : "it was registered without WP_MERGE");
        call = call_new(session, &message->header);
        if (!call)
                return send_reply(session, message->header.serial, -ENOMEM, "out of memory");
        r = merger_merge(merger, region, page, n_pages, merge_done, call);
        if (r < 0) {
                call_free(call);
                return send_reply(session, message->header.serial, r,
                                  r == -EBUSY ? "scanning is paused: see wpctl resume" : "out of memory");
        }
        return 0;
}

static int handle_range(struct session *session, const struct wire_range *message)
{
        struct merger *merger = session->server->context.merger;
        struct region *region = find_region(session, message->region);
        uint32_t page = (uint32_t)(message->offset >> PAGE_SHIFT),
                 n_pages = (uint32_t)(message->length >> PAGE_SHIFT);
        uint64_t serial = message->header.serial;

        if (!region)
                return send_reply(session, serial, -EINVAL, "no such region");
        if (message->header.type == WIRE_STAT)
                return send_stat(session, serial, region);
        if (message->header.type != WIRE_UNREGISTER && !range_fits(region, message))
                return send_reply(session, serial, -EINVAL,
                                  "the range leaves the region, or is not whole pages");
        if (message->header.type == WIRE_INCLUDE)
                merger_include(merger, region, page, n_pages);
        else if (message->header.type == WIRE_RELEASE)
                merger_release(merger, region, page, n_pages);
        else if (message->header.type == WIRE_MERGE)
                return start_merging(session, region, message, page, n_pages);
        else
                return start_task(session, region, message, page, n_pages);
        return send_reply(session, serial, 0, NULL);
}

static bool asks(uint32_t type)
{
        return type != WIRE_RESULT && type != WIRE_FAULTS && type != WIRE_CHILD && type != WIRE_BYE;
}

/*
 * A negative errno: -ENOTCONN the client takes its leave, -EPROTO and -ENOBUFS it broke a rule. After others, which say that
 * it could not be answered, its reader finds the end of the session.
 */
static int handle_request(struct session *session, const struct wire_header *header, int *fds)
{
        if (session->n_calls >= MAX_CALLS && asks(header->type))
                return -EPROTO;
        switch (header->type) {
        case WIRE_REGISTER:
                return handle_register(session, (const struct wire_register *)header);
        case WIRE_UNREGISTER:
        case WIRE_EXCLUDE:
        case WIRE_INCLUDE:
        case WIRE_PROTECT:
        case WIRE_RELEASE:
        case WIRE_MERGE:
        case WIRE_UNMERGE:
        case WIRE_STAT:
                return handle_range(session, (const struct wire_range *)header);
        case WIRE_RESULT:
                return merger_result(session->server->context.merger, session->member,
                                     (const struct wire_result *)header);
        case WIRE_FAULTS:
                handle_faults(session, (const struct wire_faults *)header);
                return 0;
        case WIRE_CHILD:
                return handle_child(session, (const struct wire_child *)header, &fds[0]);
        case WIRE_BYE:
                return -ENOTCONN;
        default:
                return -EPROTO;
        }
}

static void handle_message(struct session *session, const struct wire_header *header, int *fds)
{
        int r;

        if (session->state == SESSION_HELLO && header->type == WIRE_HELLO) {
                handle_hello(session, (const struct wire_hello *)header, fds);
        } else if (session->state == SESSION_CONTEXTS && header->type == WIRE_CONTEXTS) {
                handle_contexts(session, (const struct wire_contexts *)header, fds);
        } else if (session->state != SESSION_READY) {
                session_drop(session, "it asked before the handshake was over");
        } else {
                struct session_server *server = session->server;

                r = handle_request(session, header, fds);
                if (r == -EPROTO)
                        session_drop(session, "it sent a message that does not belong there");
                else if (r == -ENOBUFS)
                        session_drop(session, "it asks without reading the answers");
                else if (r == -ENOTCONN)
                        session_free(session);
                server->context.changed(server->context.callback_context);
        }
}

static void dispose(void *context, int fd)
{
        closer_close(((struct session_server *)context)->closer, fd);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct session *session = watcher->data;
        struct session_server *server = session->server;
        int fds[WIRE_MAX_FDS];
        unsigned n_fds = 0;
        const char *reason;
        int r;

        r = wire_receive_from_stranger(session->fd, server->inbox, fds, &n_fds, false, dispose, server);
        if (r == -EAGAIN)
                return;
        if (r == -EBADMSG) {
                session_drop(session, "oversized message, or too many descriptors");
                return;
        }
        if (r <= 0) {
                log_debug("client %d (%s) is gone", session->pid, session->name);
                session_free(session);
                return;
        }
        if (wire_check(server->inbox, (size_t)r, n_fds, WIRE_FROM_CLIENT, &reason) < 0)
                session_drop(session, reason);
        else
                handle_message(session, (const struct wire_header *)server->inbox, fds);
        for (unsigned i = 0; i < n_fds; i++)
                dispose(server, fds[i]);
}

/* ------------------------------------------------------------------ accepting */

static void read_name(struct session *session)
{
        char path[64];
        _cleanup_fd_ int fd = -EBADF;
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/comm", session->pid);
        fd = (int)error_from(open(path, O_RDONLY | O_CLOEXEC));
        n = fd < 0 ? 0 : read(fd, session->name, sizeof(session->name) - 1);
        session->name[MAX(n, 0)] = '\0';
        /* What a client calls itself is shown to people: printable, one line. */
        for (char *c = session->name; *c; c++)
                if (*c == '\n')
                        *c = '\0';
                else if ((unsigned char)*c < ' ' || (unsigned char)*c > '~')
                        *c = '?';
}

static unsigned strangers(const struct session_server *server, uid_t uid)
{
        unsigned n = 0;

        list_for_each(link, &server->sessions) {
                const struct session *session = list_entry(link, struct session, link);

                n += session->uid == uid && session->state != SESSION_READY;
        }
        return n;
}

static int session_new(struct session_server *server, int fd, const struct ucred *peer)
{
        struct session *session = calloc(1, sizeof(*session));
        const char *why = "out of memory";
        int r;

        if (!session)
                return -ENOMEM;
        r = account_charge_client(server->context.account, peer->uid, &session->user, &why);
        if (r >= 0 && peer->uid && strangers(server, peer->uid) >= MAX_STRANGERS) {
                account_release_client(server->context.account, session->user);
                why = "this user has too many connections in the middle of the handshake";
                r = -EDQUOT;
        }
        if (r < 0) {
                struct wire_reply reply = {.error = r};

                wire_init(&reply, WIRE_REPLY, sizeof(reply), 0);
                snprintf(reply.detail, sizeof(reply.detail), "%s", why);
                (void)!wire_send(fd, &reply, NULL, 0, false);
                refuse(server, peer->pid, 0, 0, why);
                free(session);
                return r;
        }
        session->server = server;
        session->fd = fd;
        session->pid = peer->pid;
        session->uid = peer->uid;
        session->accepted_ns = clock_now();
        session->pagemap_fd = session->mem_fd = -EBADF;
        list_init(&session->link);
        list_init(&session->calls);
        list_init(&session->outputs);
        read_name(session);
        ev_io_init(&session->reader, on_readable, fd, EV_READ);
        ev_io_init(&session->writer, on_writable, fd, EV_WRITE);
        session->reader.data = session->writer.data = session;
        ev_io_start(server->context.loop, &session->reader);
        list_append(&server->sessions, &session->link);
        return 0;
}

static void on_connection(struct ev_loop *loop, struct ev_io *watcher, int revents)
{
        struct session_server *server = watcher->data;
        _cleanup_fd_ int fd = -EBADF;
        struct ucred peer;
        socklen_t length = sizeof(peer);

        fd = (int)error_from(accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
                return;
        if (session_new(server, fd, &peer) >= 0)
                fd_take(&fd);
}

int session_server_new(const struct session_context *context, int listen_fd,
                       struct session_server **ret_server)
{
        struct session_server *server = calloc(1, sizeof(*server));
        int r;

        if (!server)
                return -ENOMEM;
        server->context = *context;
        server->listen_fd = listen_fd;
        list_init(&server->sessions);
        list_init(&server->families);
        list_init(&server->holders);
        r = closer_new(&server->closer);
        if (r < 0) {
                free(server);
                return r;
        }
        ev_io_init(&server->listener, on_connection, listen_fd, EV_READ);
        server->listener.data = server;
        ev_io_start(context->loop, &server->listener);
        *ret_server = server;
        return 0;
}

struct session_server *session_server_free(struct session_server *server)
{
        if (!server)
                return NULL;
        ev_io_stop(server->context.loop, &server->listener);
        list_for_each_safe(link, next, &server->sessions)
                session_free(list_entry(link, struct session, link));
        list_for_each_safe(link, next, &server->holders)
                holder_free(server, list_entry(link, struct holder, link));
        closer_free(server->closer);
        fd_close(server->listen_fd);
        free(server);
        return NULL;
}

/* ------------------------------------------------------------------ what the fault service reports */

/* A child of a child, which we met first. One without a holder would be served for ever: it is given up. */
static void grandchild_came(struct session_server *server, const struct fault_report *report)
{
        const struct holder *parent = fault_owner(report->context);
        struct holder *child = parent ? holder_new(server, parent->family) : NULL;

        if (!child) {
                fault_remove(server->context.fault, report->child);
                return;
        }
        fault_set_owner(report->child, child);
        holder_begin(server, child, report->child);
}

static void context_removed(struct session_server *server, struct fault_context *context)
{
        struct holder *holder = fault_owner(context);

        if (holder)
                holder_free(server, holder);
        fault_release(server->context.fault, context);
}

void session_fault_report(struct session_server *server, const struct fault_report *report)
{
        if (report->kind == FAULT_CHILD)
                grandchild_came(server, report);
        else
                context_removed(server, report->context);
}

void session_fault_stat(const struct session_server *server, struct session_fault_stat *ret_stat)
{
        *ret_stat = (struct session_fault_stat){.latency = &server->latency,
                                                .watcher_cpu_ns = server->watcher_cpu_ns};
        list_for_each(link, &server->sessions)
                ret_stat->watcher_cpu_ns += list_entry(link, struct session, link)->watcher_cpu_ns;
}

/*
 * A process that is gone may leave its socket open in a forked child; and a handshake may not last for ever.
 */
static void reap_sessions(struct session_server *server)
{
        uint64_t now_ns = clock_now();

        list_for_each_safe(link, next, &server->sessions) {
                struct session *session = list_entry(link, struct session, link);

                if (session->member && member_dead(session->member))
                        shutdown(session->fd, SHUT_RDWR); /* what it said before is still read */
                else if (session->state != SESSION_READY && now_ns - session->accepted_ns > HANDSHAKE_NS)
                        session_drop(session, "it did not finish the handshake in time");
        }
}

void session_reap(struct session_server *server)
{
        reap_sessions(server);
        list_for_each(link, &server->families)
                look_after_children(server, list_entry(link, struct family, link));
        list_for_each(link, &server->holders) {
                struct holder *holder = list_entry(link, struct holder, link);

                if (!holder->ending && !uffd_alive(fault_fd(holder->context)))
                        holder_end(server, holder);
        }
}
