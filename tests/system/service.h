#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The daemon under test, in the test's directory, and its control socket. Whatever goes wrong fails the test. */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/fd_store.h"

struct service {
        pid_t pid;
        char directory[80]; /* the runtime directory; nothing but the daemon's sockets is in it */
        char client_path[108];
        char control_path[108];
        char config_path[108];
        size_t n_fds; /* of the daemon without clients */
        size_t n_threads;
        struct fd_store *store; /* NULL: there is no service manager */
};

/* Starts a daemon that scans eagerly; `config` is added to its configuration and may be NULL. */
void service_start(struct service *service, const char *config);

/* The same under a service manager. */
void service_start_stored(struct service *service, const char *config, struct fd_store *store);

/* The same daemon again, when it has ended. With a store it gets back what the one before had kept there. */
void service_restart(struct service *service);

/* All clients are gone: the daemon is as it was when it started, and ends in good order. */
void service_stop(struct service *service);

/* Ends the daemon by a signal, whatever it is doing, and waits until it is gone. */
void service_end(struct service *service, int signal);

/* Its second process. */
pid_t service_helper(const struct service *service);

/* The daemon's descriptors come back to this number. */
void service_check_fds(const struct service *service, size_t n_fds);

void service_write_config(const struct service *service, const char *config);

/* Calls a method as this process: the reply's parameters, or NULL and the error's short name in *ret_error. Takes `parameters`. */
json_t *service_ask(const char *control_path, const char *method, json_t *parameters, char ret_error[64]);

/* The same, and the daemon must not refuse. */
json_t *service_call(const struct service *service, const char *method, json_t *parameters);

/* A figure of Status. */
int64_t service_figure(const struct service *service, const char *name);

/* A full pass over the memory of all clients, and what it planned carried out. */
void service_scan(const struct service *service);

/* Passes until the figure has this value; then passes do not change it any more. */
void service_settle(const struct service *service, const char *name, int64_t value);

void service_set(const struct service *service, const char *key, const char *value);

/* Whether doctor, asked for this client (0: all), says this somewhere: in a reason, a text or a remedy. */
bool service_doctor_says(const struct service *service, pid_t pid, const char *words);

/* How many lines of the log contain this. */
unsigned service_log_lines(const char *words);

/* Proportional set size in bytes (proc_pid_smaps_rollup). */
uint64_t service_pss(pid_t pid);
