#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A connection to wpd's control socket: one Varlink call at a time, NUL-terminated JSON. */

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"

struct control;

/*
 * Connects, trying again until somebody listens and answers, at most `timeout_ms`. -ETIMEDOUT: nobody does.
 */
int control_open(const char *path, int timeout_ms, struct control **ret_control) wp_check;
struct control *control_close(struct control *control);

/* The process that listens at the other end. */
pid_t control_peer(const struct control *control);

/* Sends a call of io.wpd.Control; `parameters` is consumed and may be NULL. */
int control_send(struct control *control, const char *method, json_t *parameters) wp_check;

/*
 * Takes the reply: 1 and its parameters, or 0 when none has come within the time. -EREMOTEIO: the daemon
 * refused, and control_error() names the reason; -EPIPE: it hung up.
 */
int control_receive(struct control *control, int timeout_ms, json_t **ret_parameters) wp_check;
const char *control_error(const struct control *control);

/* The totals, one number a field. */
struct control_status {
        uint64_t pages_tracked, pages_shared, pages_sharing, zero_pages, pages_scanned, metadata_bytes,
                write_faults;
        uint64_t vmas;
        double cpu_control, cpu_fault, cpu_scan; /* seconds */
};

int control_status(struct control *control, struct control_status *ret_status) wp_check;
