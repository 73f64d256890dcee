#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A Varlink client: one connection to the daemon's control socket, one call at a time, blocking. */

#include <stdbool.h>

#include "serve/varlink.h"

/* The interface that wpd offers; its errors are CLIENT_INTERFACE ".Name". */
#define CLIENT_INTERFACE "io.wpd.Control"

struct client;

/* -errno of the socket calls, -ENAMETOOLONG for a path that no socket can have. */
int client_connect(const char *path, struct client **ret_client) wp_check;
struct client *client_free(struct client *client);

/*
 * Calls CLIENT_INTERFACE.`method`. Takes the parameters; NULL means that memory for them failed. Without
 * `patient` a daemon that is silent for CLIENT_TIMEOUT_S seconds is given up (-ETIMEDOUT). -ECONNRESET: it
 * hung up; -EBADMSG, -EMSGSIZE: it does not speak Varlink. A reply that is an error is a reply.
 */
int client_call(struct client *client, const char *method, json_t *parameters, bool patient,
                struct varlink_reply *ret_reply) wp_check;

#define CLIENT_TIMEOUT_S 30
