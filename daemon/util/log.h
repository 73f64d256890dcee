#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Logging to standard error: with the journal's <N> priorities when that is no terminal, plain otherwise.
 * Only daemon.c, serve/ and process/ log; core/, dedup/, fault/ and kernel/ count and return instead.
 */

#include <syslog.h>

/* Messages above this priority (LOG_ERR ... LOG_DEBUG) are dropped. */
void log_set_level(int priority);
int log_level_from_name(const char *name, int *ret_priority);

void log_message(int priority, const char *format, ...) __attribute__((__format__(printf, 2, 3)));

#define log_error(...)   log_message(LOG_ERR, __VA_ARGS__)
#define log_warning(...) log_message(LOG_WARNING, __VA_ARGS__)
#define log_notice(...)  log_message(LOG_NOTICE, __VA_ARGS__)
#define log_info(...)    log_message(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_message(LOG_DEBUG, __VA_ARGS__)
