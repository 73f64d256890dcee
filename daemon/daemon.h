#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The daemon as a whole: puts the layers together and runs the loop. The only module that knows them all. */

#include "process/config.h"
#include "util/error.h"

struct daemon_options {
        const char *config_path;
        bool config_required; /* it was named: missing is an error */
        const char *runtime_dir;
        struct config config;
};

/* Serves until SIGTERM or SIGINT. 0 after a clean stop; a negative errno, logged, when it could not start. */
int daemon_run(const struct daemon_options *options) wp_check;
