/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Connections of the control socket, and the methods of io.wpd.Control
 *
 * A connection is in one of three conditions. *Reading*: bytes are taken from the socket. *Ready*: at least
 * one complete request is in its buffer; nothing more is read, and each turn of the loop answers one request
 * of each ready connection, so that nobody's pipeline holds up the others. *Waiting*: a request is answered
 * later, by call_finished(); bytes are read meanwhile, up to the bound of the buffer, because the end of the
 * stream is how a peer takes its request back.
 *
 * Functions that return a negative errno have not freed the connection; the event handlers at the end of the
 * file, and call_finished(), are the only ones that do.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "serve/control.h"
#include "serve/idl.h"
#include "serve/varlink.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/list.h"
#include "util/log.h"

#define INTERFACE           "io.wpd.Control"
#define E_PERMISSION_DENIED INTERFACE ".PermissionDenied"
#define E_NO_SUCH_CLIENT    INTERFACE ".NoSuchClient"
#define E_NO_SUCH_PAGE      INTERFACE ".NoSuchPage"
#define E_INVALID_SETTING   INTERFACE ".InvalidSetting"
#define E_BUSY              INTERFACE ".Busy"
#define E_REPLY_TOO_LARGE   INTERFACE ".ReplyTooLarge"

#define CHUNK_BYTES    16384
#define ACCEPTS_A_TURN 16
#define ACCEPT_PAUSE_S 1.0
#define PARAMETERS_MAX 2

struct control {
        struct ev_loop *loop;
        const struct control_ops *ops;
        void *context;
        struct control_limits limits;
        char *version;
        int listen_fd;
        unsigned n_connections;
        struct list connections;
        struct list ready; /* connections with a complete request, in the order of their turns */
        ev_io accept;
        ev_timer accept_pause; /* runs while no descriptor can be had */
        ev_check turn;
        ev_idle awake; /* keeps the loop from sleeping while a connection is ready */
};

struct connection {
        struct control *control;
        struct list link;
        struct list ready;
        int fd;
        pid_t pid;
        uid_t uid;
        void (*cancel)(void *context, void *connection); /* of what it waits for; NULL: for nothing */
        bool hung_up;                                    /* the peer will send nothing more, but may read */
        ev_io io;
        struct varlink_splitter input;
        struct varlink_buffer output;
};

enum parameter_type {
        PARAMETER_STRING,
        PARAMETER_BOOL,
        PARAMETER_PID,
        PARAMETER_ADDRESS,
};

struct parameter {
        const char *name;
        enum parameter_type type;
        bool required;
};

struct method {
        const char *name;
        int (*run)(struct connection *connection, const struct varlink_call *call);
        struct parameter parameters[PARAMETERS_MAX];
};

struct interface {
        const char *name;
        const char *description;
        const struct method *methods;
        size_t n_methods;
};

static int method_get_info(struct connection *connection, const struct varlink_call *call);
static int method_get_description(struct connection *connection, const struct varlink_call *call);
static int method_status(struct connection *connection, const struct varlink_call *call);
static int method_clients(struct connection *connection, const struct varlink_call *call);
static int method_regions(struct connection *connection, const struct varlink_call *call);
static int method_doctor(struct connection *connection, const struct varlink_call *call);
static int method_sharers(struct connection *connection, const struct varlink_call *call);
static int method_scan(struct connection *connection, const struct varlink_call *call);
static int method_pause(struct connection *connection, const struct varlink_call *call);
static int method_resume(struct connection *connection, const struct varlink_call *call);
static int method_get(struct connection *connection, const struct varlink_call *call);
static int method_set(struct connection *connection, const struct varlink_call *call);

static const struct method service_methods[] = {
        {"GetInfo", method_get_info, {}},
        {"GetInterfaceDescription", method_get_description, {{"interface", PARAMETER_STRING, true}}},
};

static const struct method control_methods[] = {
        {"Status", method_status, {}},
        {"Clients", method_clients, {}},
        {"Regions", method_regions, {{"pid", PARAMETER_PID, false}}},
        {"Doctor", method_doctor, {{"pid", PARAMETER_PID, false}}},
        {"Sharers", method_sharers, {{"pid", PARAMETER_PID, true}, {"address", PARAMETER_ADDRESS, true}}},
        {"Scan", method_scan, {{"pid", PARAMETER_PID, false}, {"wait", PARAMETER_BOOL, false}}},
        {"Pause", method_pause, {}},
        {"Resume", method_resume, {}},
        {"Get", method_get, {{"key", PARAMETER_STRING, false}}},
        {"Set", method_set, {{"key", PARAMETER_STRING, true}, {"value", PARAMETER_STRING, true}}},
};

static const struct interface interfaces[] = {
        {VARLINK_SERVICE, idl_service, service_methods, ARRAY_SIZE(service_methods)},
        {INTERFACE, idl_control, control_methods, ARRAY_SIZE(control_methods)},
};

/* output */

static int connection_flush(struct connection *connection)
{
        size_t length;
        ssize_t n;

        while ((length = varlink_buffer_length(&connection->output))) {
                n = error_from(send(connection->fd, varlink_buffer_peek(&connection->output), length,
                                    MSG_NOSIGNAL | MSG_DONTWAIT));
                if (n == -EINTR)
                        continue;
                if (n == -EAGAIN)
                        return 0;
                if (n < 0)
                        return (int)n;
                varlink_buffer_pop(&connection->output, (size_t)n);
        }
        return 0;
}

static int connection_send(struct connection *connection, const char *bytes, size_t length)
{
        int r;

        r = connection_flush(connection);
        if (r < 0)
                return r;
        r = varlink_buffer_push(&connection->output, bytes, length);
        if (r < 0)
                return r;
        return connection_flush(connection);
}

/* Takes the parameters; NULL says that there was no memory for them. */
static int reply_error(struct connection *connection, const struct varlink_call *call, const char *error,
                       json_t *parameters)
{
        json_auto_t *owned = parameters;
        _cleanup_free_ char *bytes = NULL;
        size_t length;
        int r;

        if (!owned)
                return -ENOMEM;
        if (call->oneway)
                return 0;
        r = varlink_error_format(error, owned, &bytes, &length);
        if (r < 0)
                return r;
        return connection_send(connection, bytes, length);
}

static int reply_reason(struct connection *connection, const struct varlink_call *call, const char *error,
                        const char *reason)
{
        return reply_error(connection, call, error, json_pack("{s:s}", "reason", reason));
}

/* Takes the parameters; NULL says that there was no memory for them, which the peer is told. */
static int reply(struct connection *connection, const struct varlink_call *call, json_t *parameters)
{
        json_auto_t *owned = parameters;
        _cleanup_free_ char *bytes = NULL;
        size_t length;
        int r;

        if (!owned)
                return reply_reason(connection, call, E_BUSY, "wpd is short of memory");
        if (call->oneway)
                return 0;
        r = varlink_reply_format(owned, false, &bytes, &length);
        if (r < 0)
                return reply_reason(connection, call, E_BUSY, "wpd is short of memory");
        if (length > connection->control->limits.max_output)
                return reply_reason(connection, call, E_REPLY_TOO_LARGE,
                                    "the reply is longer than wpd sends: ask for one client");
        return connection_send(connection, bytes, length);
}

static int reply_invalid_parameter(struct connection *connection, const struct varlink_call *call,
                                   const char *name)
{
        return reply_error(connection, call, VARLINK_E_INVALID_PARAMETER,
                           json_pack("{s:s}", "parameter", name));
}

static int reply_no_such_client(struct connection *connection, const struct varlink_call *call, pid_t pid)
{
        return reply_error(connection, call, E_NO_SUCH_CLIENT, json_pack("{s:i}", "pid", (int)pid));
}

static int reply_invalid_setting(struct connection *connection, const struct varlink_call *call,
                                 const char *key, const char *reason)
{
        return reply_error(connection, call, E_INVALID_SETTING,
                           json_pack("{s:s,s:s}", "key", key, "reason", reason));
}

/* parameters, which were checked against the method's table before it runs */

static bool parameter_fits(const struct parameter *parameter, const json_t *value)
{
        switch (parameter->type) {
        case PARAMETER_STRING:
                return json_is_string(value);
        case PARAMETER_BOOL:
                return json_is_boolean(value);
        case PARAMETER_PID:
                return json_is_integer(value) && json_integer_value(value) > 0 &&
                       json_integer_value(value) <= INT_MAX;
        case PARAMETER_ADDRESS:
                return json_is_integer(value) && json_integer_value(value) >= 0;
        }
        return false;
}

/* The name of a parameter that is unknown, missing or of the wrong type; NULL when all is well. */
static const char *wrong_parameter(const struct method *method, json_t *parameters)
{
        const struct parameter *known;
        const char *name;
        json_t *value;
        size_t i;

        json_object_foreach(parameters, name, value) {
                for (i = 0; i < PARAMETERS_MAX; i++) {
                        known = &method->parameters[i];
                        if (known->name && !strcmp(known->name, name))
                                break;
                }
                if (i == PARAMETERS_MAX || (!json_is_null(value) && !parameter_fits(known, value)))
                        return name;
        }
        for (i = 0; i < PARAMETERS_MAX; i++) {
                known = &method->parameters[i];
                value = known->required ? json_object_get(parameters, known->name) : NULL;
                if (known->required && (!value || json_is_null(value)))
                        return known->name;
        }
        return NULL;
}

static const char *parameter_string(const struct varlink_call *call, const char *name)
{
        return json_string_value(json_object_get(call->parameters, name));
}

static pid_t parameter_pid(const struct varlink_call *call)
{
        return (pid_t)json_integer_value(json_object_get(call->parameters, "pid"));
}

/* rights */

static bool is_root(const struct connection *connection)
{
        return connection->uid == 0;
}

static bool owns_client(const struct connection *connection, pid_t pid)
{
        const struct control *control = connection->control;
        uid_t uid;

        return control->ops->owner(control->context, pid, &uid) == 0 && uid == connection->uid;
}

static bool client_exists(const struct control *control, pid_t pid)
{
        uid_t uid;

        return control->ops->owner(control->context, pid, &uid) == 0;
}

/* Where a program's memory lies is a secret that its address space randomisation relies on. */
static void withhold_addresses(const struct connection *connection, json_t *rows)
{
        bool withhold = true;
        pid_t last = 0, pid;
        json_t *row;

        if (is_root(connection))
                return;
        for (size_t i = 0; i < json_array_size(rows); i++) {
                row = json_array_get(rows, i);
                pid = (pid_t)json_integer_value(json_object_get(row, "pid"));
                if (!i || pid != last)
                        withhold = !owns_client(connection, pid);
                last = pid;
                if (withhold)
                        json_object_del(row, "address");
        }
}

/* methods */

static int method_get_info(struct connection *connection, const struct varlink_call *call)
{
        json_t *names = json_array();

        for (size_t i = 0; i < ARRAY_SIZE(interfaces); i++)
                if (json_array_append_new(names, json_string(interfaces[i].name)) < 0) {
                        json_decref(names);
                        names = NULL;
                }
        return reply(connection, call,
                     json_pack("{s:s,s:s,s:s,s:s,s:o}", "vendor", "The wpd authors", "product", "wpd",
                               "version", connection->control->version, "url", "", "interfaces", names));
}

static int method_get_description(struct connection *connection, const struct varlink_call *call)
{
        const char *name = parameter_string(call, "interface");

        for (size_t i = 0; i < ARRAY_SIZE(interfaces); i++)
                if (!strcmp(interfaces[i].name, name))
                        return reply(connection, call,
                                     json_pack("{s:s}", "description", interfaces[i].description));
        return reply_error(connection, call, VARLINK_E_INTERFACE_NOT_FOUND,
                           json_pack("{s:s}", "interface", name));
}

static int method_status(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;

        return reply(connection, call, control->ops->status(control->context));
}

static int method_clients(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;

        return reply(connection, call,
                     json_pack("{s:o}", "clients", control->ops->clients(control->context)));
}

/* A process that is no client may still be known, as one that was refused. */
static int reply_rows(struct connection *connection, const struct varlink_call *call, const char *key,
                      json_t *(*rows_of)(void *context, pid_t pid))
{
        struct control *control = connection->control;
        pid_t pid = parameter_pid(call);
        json_auto_t *rows = rows_of(control->context, pid);

        if (rows && !json_array_size(rows) && pid && !client_exists(control, pid))
                return reply_no_such_client(connection, call, pid);
        withhold_addresses(connection, rows);
        return reply(connection, call, json_pack("{s:O}", key, rows));
}

static int method_regions(struct connection *connection, const struct varlink_call *call)
{
        return reply_rows(connection, call, "regions", connection->control->ops->regions);
}

static int method_doctor(struct connection *connection, const struct varlink_call *call)
{
        return reply_rows(connection, call, "findings", connection->control->ops->doctor);
}

static void call_finished(void *opaque, json_t *parameters);

static int method_sharers(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;
        json_int_t address = json_integer_value(json_object_get(call->parameters, "address"));
        pid_t pid = parameter_pid(call);
        json_t *document = NULL;
        int r;

        if (!client_exists(control, pid))
                return reply_no_such_client(connection, call, pid);
        if (!is_root(connection) && !owns_client(connection, pid))
                return reply_reason(connection, call, E_PERMISSION_DENIED,
                                    "only root and the owner of the client may see who shares its memory");
        if (call->oneway)
                return 0;
        r = control->ops->sharers(control->context, pid, (uint64_t)address, connection->uid, call_finished,
                                  connection, &document);
        if (r == -ENOENT)
                return reply_error(connection, call, E_NO_SUCH_PAGE,
                                   json_pack("{s:i,s:I}", "pid", (int)pid, "address", address));
        if (r < 0)
                return reply_reason(connection, call, E_BUSY, "who shares it cannot be found out now");
        if (r == 0)
                return reply(connection, call, document);
        connection->cancel = control->ops->sharers_cancel;
        return 0;
}

static int method_scan(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;
        bool wait = json_is_true(json_object_get(call->parameters, "wait")) && !call->oneway;
        pid_t pid = parameter_pid(call);
        int r;

        if (pid && !client_exists(control, pid))
                return reply_no_such_client(connection, call, pid);
        if (!is_root(connection) && !(pid && owns_client(connection, pid)))
                return reply_reason(connection, call, E_PERMISSION_DENIED,
                                    pid ? "only root and the owner of the client may have it scanned"
                                        : "only root may have everything scanned");
        r = control->ops->scan(control->context, pid, wait ? call_finished : NULL, wait ? connection : NULL);
        if (r == -ESRCH)
                return reply_no_such_client(connection, call, pid);
        if (r < 0)
                return reply_reason(connection, call, E_BUSY,
                                    r == -EBUSY ? "scanning is paused" : "a scan cannot be started now");
        if (!wait)
                return reply(connection, call, json_object());
        connection->cancel = control->ops->scan_cancel;
        return 0;
}

static int set_paused(struct connection *connection, const struct varlink_call *call, bool paused)
{
        struct control *control = connection->control;

        if (!is_root(connection))
                return reply_reason(connection, call, E_PERMISSION_DENIED,
                                    "only root may pause and resume scanning");
        control->ops->pause(control->context, paused);
        return reply(connection, call, json_object());
}

static int method_pause(struct connection *connection, const struct varlink_call *call)
{
        return set_paused(connection, call, true);
}

static int method_resume(struct connection *connection, const struct varlink_call *call)
{
        return set_paused(connection, call, false);
}

/* "key" and "section.key" are the same setting, whichever of them the daemon lists; returns the key as it is
 * listed. */
static const char *setting_find(json_t *settings, const char *key)
{
        const char *listed, *member = strrchr(key, '.'), *listed_member;
        json_t *value;

        json_object_foreach(settings, listed, value) {
                listed_member = strrchr(listed, '.');
                if (!strcmp(listed, key) || (member && !listed_member && !strcmp(member + 1, listed)) ||
                    (!member && listed_member && !strcmp(listed_member + 1, key)))
                        return listed;
        }
        return NULL;
}

static int method_get(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;
        const char *key = parameter_string(call, "key"), *listed;
        json_auto_t *settings = control->ops->settings(control->context);

        if (!settings || !key)
                return reply(connection, call, json_pack("{s:O}", "settings", settings));
        listed = setting_find(settings, key);
        if (!listed)
                return reply_invalid_setting(connection, call, key, "there is no such setting");
        return reply(connection, call,
                     json_pack("{s:{s:O}}", "settings", listed, json_object_get(settings, listed)));
}

static int method_set(struct connection *connection, const struct varlink_call *call)
{
        struct control *control = connection->control;
        const char *key = parameter_string(call, "key"), *why = NULL;
        int r;

        if (!is_root(connection))
                return reply_reason(connection, call, E_PERMISSION_DENIED, "only root may change settings");
        r = control->ops->set(control->context, key, parameter_string(call, "value"), &why);
        if (r < 0)
                return reply_invalid_setting(connection, call, key, why ? why : "it cannot be set");
        return reply(connection, call, json_object());
}

/* requests */

static const struct method *interface_method(const struct interface *interface, const char *name)
{
        for (size_t i = 0; i < interface->n_methods; i++)
                if (!strcmp(interface->methods[i].name, name))
                        return &interface->methods[i];
        return NULL;
}

static const struct interface *interface_find(const char *name, size_t length)
{
        for (size_t i = 0; i < ARRAY_SIZE(interfaces); i++)
                if (strlen(interfaces[i].name) == length && !memcmp(interfaces[i].name, name, length))
                        return &interfaces[i];
        return NULL;
}

static int call_run(struct connection *connection, const struct varlink_call *call)
{
        const struct interface *interface;
        const struct method *method;
        const char *name, *wrong;
        size_t length;

        name = varlink_member(call->method, &length);
        interface = interface_find(call->method, length);
        if (!interface)
                return reply_error(connection, call, VARLINK_E_INTERFACE_NOT_FOUND,
                                   json_pack("{s:s%}", "interface", call->method, length));
        method = interface_method(interface, name);
        if (!method)
                return reply_error(connection, call, VARLINK_E_METHOD_NOT_FOUND,
                                   json_pack("{s:s}", "method", call->method));
        if (call->upgrade)
                return reply_error(connection, call, VARLINK_E_METHOD_NOT_IMPLEMENTED,
                                   json_pack("{s:s}", "method", call->method));
        wrong = wrong_parameter(method, call->parameters);
        if (wrong)
                return reply_invalid_parameter(connection, call, wrong);
        return method->run(connection, call);
}

/* Answers the oldest request, if there is one and its turn has come. */
static int connection_serve(struct connection *connection)
{
        struct varlink_call call = VARLINK_CALL_INIT;
        const char *message;
        size_t length;
        int r;

        r = varlink_splitter_next(&connection->input, &message, &length);
        if (r <= 0)
                return r;
        r = varlink_call_parse(message, length, &call);
        if (r < 0)
                return r;
        r = call_run(connection, &call);
        varlink_call_deinit(&call);
        return r;
}

static int connection_receive(struct connection *connection)
{
        size_t room = varlink_splitter_room(&connection->input);
        char chunk[CHUNK_BYTES];
        ssize_t n;

        n = error_from(recv(connection->fd, chunk, MIN(room, sizeof(chunk)), MSG_DONTWAIT));
        if (n == -EAGAIN || n == -EINTR)
                return 0;
        if (n < 0)
                return (int)n;
        if (n > 0)
                return varlink_splitter_push(&connection->input, chunk, (size_t)n);
        connection->hung_up = true;
        return 0;
}

/* connections */

static void connection_mark_ready(struct connection *connection, bool ready)
{
        struct control *control = connection->control;

        if (ready == list_linked(&connection->ready))
                return;
        if (ready)
                list_append(&control->ready, &connection->ready);
        else
                list_remove(&connection->ready);
        if (list_empty(&control->ready))
                ev_idle_stop(control->loop, &control->awake);
        else
                ev_idle_start(control->loop, &control->awake);
}

static void connection_free(struct connection *connection)
{
        struct control *control = connection->control;

        if (connection->cancel)
                connection->cancel(control->context, connection);
        connection_mark_ready(connection, false);
        list_remove(&connection->link);
        control->n_connections--;
        ev_io_stop(control->loop, &connection->io);
        fd_close(connection->fd);
        varlink_splitter_deinit(&connection->input);
        varlink_buffer_deinit(&connection->output);
        free(connection);
}

/* Misbehaviour is logged, once, for it costs the connection; leaving is not. */
static void connection_drop(struct connection *connection, int error)
{
        const char *why = NULL;

        if (error == -EBADMSG)
                why = "sent what is no Varlink call";
        else if (error == -EMSGSIZE)
                why = "sent more than fits";
        else if (error == -ENOBUFS)
                why = "does not read its replies";
        else if (error == -ENOMEM)
                why = "cannot be served for lack of memory";
        if (why)
                log_info("control: process %d of user %u %s, disconnected", (int)connection->pid,
                         (unsigned)connection->uid, why);
        connection_free(connection);
}

/* Decides what the connection does next; called at the end of everything that happens to it. */
static int connection_update(struct connection *connection)
{
        struct control *control = connection->control;
        bool complete = varlink_splitter_complete(&connection->input);
        bool ready = complete && !connection->cancel;
        bool reading = !ready && !connection->hung_up;
        bool writing = varlink_buffer_length(&connection->output);
        int events = (reading ? EV_READ : 0) | (writing ? EV_WRITE : 0);

        /* All that it asked before has been answered, for nothing is read while a connection is ready. */
        if (connection->hung_up && (connection->cancel || !writing))
                return -ECONNRESET;
        if (reading && !varlink_splitter_room(&connection->input))
                return -EMSGSIZE;
        connection_mark_ready(connection, ready);
        if (events == (connection->io.events & (EV_READ | EV_WRITE)) &&
            (!events || ev_is_active(&connection->io)))
                return 0;
        ev_io_stop(control->loop, &connection->io);
        ev_io_set(&connection->io, connection->fd, events);
        if (events)
                ev_io_start(control->loop, &connection->io);
        return 0;
}

/* The end of an event handler: goes on, or frees the connection when something before failed. */
static void connection_settle(struct connection *connection, int r)
{
        if (r >= 0)
                r = connection_update(connection);
        if (r < 0)
                connection_drop(connection, r);
}

static void call_finished(void *opaque, json_t *parameters)
{
        static const struct varlink_call call = VARLINK_CALL_INIT;
        struct connection *connection = opaque;

        connection->cancel = NULL;
        connection_settle(connection, reply(connection, &call, parameters));
}

static void connection_event(struct ev_loop *loop, ev_io *io, int events)
{
        struct connection *connection = io->data;
        int r = 0;

        if (events & EV_ERROR)
                r = -EIO;
        if (r >= 0 && events & EV_WRITE)
                r = connection_flush(connection);
        if (r >= 0 && events & EV_READ)
                r = connection_receive(connection);
        connection_settle(connection, r);
}

/* One request of each connection that was ready when the turn began; each goes to the end of the queue. */
static void control_turn(struct ev_loop *loop, ev_check *turn, int events)
{
        struct control *control = turn->data;
        struct connection *connection;
        struct list *link;
        unsigned n = 0;

        list_for_each(pos, &control->ready)
                n++;
        while (n-- && (link = list_first(&control->ready))) {
                connection = list_entry(link, struct connection, ready);
                list_remove(link);
                list_append(&control->ready, link);
                connection_settle(connection, connection_serve(connection));
        }
}

static void control_awake(struct ev_loop *loop, ev_idle *awake, int events)
{
}

/* accepting */

static unsigned connections_of(const struct control *control, uid_t uid)
{
        unsigned n = 0;

        list_for_each(link, &control->connections)
                n += list_entry(link, struct connection, link)->uid == uid;
        return n;
}

/* Why this peer gets no connection now, or NULL. */
static const char *control_refusal(const struct control *control, uid_t uid)
{
        if (control->n_connections >= control->limits.max_connections)
                return "too many connections are open";
        if (uid != 0 && connections_of(control, uid) >= control->limits.max_connections_per_uid)
                return "too many connections of this user are open";
        return NULL;
}

/* The peer will take this for the reply to its first call. It fits into any socket buffer, so it is sent or
 * given up. */
static void refuse(int fd, const char *reason)
{
        json_auto_t *parameters = json_pack("{s:s}", "reason", reason);
        _cleanup_free_ char *bytes = NULL;
        size_t length;

        if (parameters && varlink_error_format(E_BUSY, parameters, &bytes, &length) == 0 &&
            send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                log_debug("control: a refused peer is gone already");
}

static int connection_new(struct control *control, int fd, const struct ucred *peer)
{
        struct connection *connection;

        connection = calloc(1, sizeof(*connection));
        if (!connection)
                return -ENOMEM;
        connection->control = control;
        connection->fd = fd;
        connection->pid = peer->pid;
        connection->uid = peer->uid;
        connection->input = (struct varlink_splitter)VARLINK_SPLITTER_INIT(control->limits.max_message);
        connection->output = (struct varlink_buffer)VARLINK_BUFFER_INIT(control->limits.max_output);
        list_init(&connection->ready);
        list_append(&control->connections, &connection->link);
        control->n_connections++;
        ev_io_init(&connection->io, connection_event, fd, EV_READ);
        connection->io.data = connection;
        ev_io_start(control->loop, &connection->io);
        return 0;
}

static int control_admit(struct control *control, int accepted)
{
        _cleanup_fd_ int fd = accepted;
        socklen_t length = sizeof(struct ucred);
        struct ucred peer;
        const char *reason;
        int r;

        r = (int)error_from(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length));
        if (r < 0)
                return r;
        reason = control_refusal(control, peer.uid);
        if (reason) {
                log_info("control: process %d of user %u refused: %s", (int)peer.pid, (unsigned)peer.uid,
                         reason);
                refuse(fd, reason);
                return 0;
        }
        r = connection_new(control, fd, &peer);
        if (r < 0)
                return r;
        fd_take(&fd);
        return 0;
}

static void control_accept(struct ev_loop *loop, ev_io *io, int events)
{
        struct control *control = io->data;
        long r;

        for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
                r = error_from(accept4(control->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
                if (r == -EAGAIN)
                        return;
                if (r == -EINTR || r == -ECONNABORTED)
                        continue;
                if (r >= 0)
                        r = control_admit(control, (int)r);
                if (r >= 0)
                        continue;
                /* Without a descriptor or memory the peer stays in the backlog: asking again at once would
                 * spin. */
                log_warning("control: no connection can be accepted now: %s", strerror((int)-r));
                ev_io_stop(loop, io);
                ev_timer_again(loop, &control->accept_pause);
                return;
        }
}

static void control_accept_again(struct ev_loop *loop, ev_timer *timer, int events)
{
        struct control *control = timer->data;

        ev_timer_stop(loop, timer);
        ev_io_start(loop, &control->accept);
}

/* life */

static int check_listener(int fd)
{
        int type = 0, listening = 0, r;
        socklen_t length = sizeof(int);

        r = (int)error_from(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length));
        if (r < 0)
                return r;
        r = (int)error_from(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length));
        if (r < 0)
                return r;
        if (type != SOCK_STREAM || !listening)
                return -EINVAL;
        r = (int)error_from(fcntl(fd, F_GETFL));
        return r < 0 ? r : (int)error_from(fcntl(fd, F_SETFL, r | O_NONBLOCK));
}

int control_new(struct ev_loop *loop, int listen_fd, const struct control_ops *ops, void *context,
                const struct control_limits *limits, const char *version, struct control **ret_control)
{
        struct control *control;
        int r;

        if (!limits->max_message || !limits->max_output)
                return -EINVAL;
        r = check_listener(listen_fd);
        if (r < 0)
                return r;
        control = calloc(1, sizeof(*control));
        if (!control)
                return -ENOMEM;
        control->version = strdup(version);
        if (!control->version) {
                free(control);
                return -ENOMEM;
        }
        json_object_seed(0);
        control->loop = loop;
        control->ops = ops;
        control->context = context;
        control->limits = *limits;
        control->listen_fd = listen_fd;
        list_init(&control->connections);
        list_init(&control->ready);
        ev_timer_init(&control->accept_pause, control_accept_again, 0., ACCEPT_PAUSE_S);
        ev_idle_init(&control->awake, control_awake);
        ev_check_init(&control->turn, control_turn);
        ev_io_init(&control->accept, control_accept, listen_fd, EV_READ);
        control->accept_pause.data = control->turn.data = control->accept.data = control;
        ev_check_start(loop, &control->turn);
        ev_io_start(loop, &control->accept);
        *ret_control = control;
        return 0;
}

struct control *control_free(struct control *control)
{
        if (!control)
                return NULL;
        list_for_each_safe(link, next, &control->connections)
                connection_free(list_entry(link, struct connection, link));
        ev_io_stop(control->loop, &control->accept);
        ev_timer_stop(control->loop, &control->accept_pause);
        ev_check_stop(control->loop, &control->turn);
        fd_close(control->listen_fd);
        free(control->version);
        free(control);
        return NULL;
}
