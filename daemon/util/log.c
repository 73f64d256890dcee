/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Logging to standard error. One write per message, so that lines of several threads never mix. */

#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "util/bits.h"

static int log_max_level = LOG_INFO;

static const char *const level_names[] = {
        [LOG_ERR] = "err",   [LOG_WARNING] = "warning", [LOG_NOTICE] = "notice",
        [LOG_INFO] = "info", [LOG_DEBUG] = "debug",
};

void log_set_level(int priority)
{
        log_max_level = priority;
}

int log_level_from_name(const char *name, int *ret_priority)
{
        for (size_t i = 0; i < ARRAY_SIZE(level_names); i++)
                if (level_names[i] && !strcmp(level_names[i], name)) {
                        *ret_priority = (int)i;
                        return 0;
                }
        return -EINVAL;
}

void log_message(int priority, const char *format, ...)
{
        char line[1024];
        int prefix = 0, body;
        size_t length;
        va_list args;

        if (priority > log_max_level)
                return;
        if (!isatty(STDERR_FILENO))
                prefix = snprintf(line, sizeof(line), "<%d>", priority);
        va_start(args, format);
        body = vsnprintf(line + prefix, sizeof(line) - (size_t)prefix - 1, format, args);
        va_end(args);
        if (body < 0)
                return;
        length = MIN((size_t)(prefix + body), sizeof(line) - 2);
        line[length++] = '\n';
        if (write(STDERR_FILENO, line, length) < 0)
                return; /* nobody is left to be told */
}
