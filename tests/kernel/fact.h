#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the programs of this folder share: each of them states one fact about the kernel and fails if it is
 * not so
 *
 * A program exits with 0 when the fact holds, 1 when it does not, 77 when this kernel or host lacks what is
 * needed to find out; the last line on standard output says why. A hang is a failure: the watchdog of
 * fact_begin() ends the program and says in which step it was.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kernel/hold.h"
#include "kernel/pagemap.h"
#include "kernel/poolfile.h"
#include "kernel/uapi.h"
#include "kernel/uffd.h"
#include "util/bits.h"
#include "util/cleanup.h"
#include "util/error.h"

#define FACT_NOBODY 65534 /* uid and gid of a client that is not root */

/* The condition must hold; the rest says in printf's way what was seen instead. Ends the process otherwise.
 */
#define FACT_CHECK(_condition, ...)                                                                          \
        do {                                                                                                 \
                if (!(_condition))                                                                           \
                        fact_failed(__FILE__, __LINE__, #_condition, __VA_ARGS__);                           \
        } while (0)

/* The result follows the error law: it must be no error, and is the value of the expression. */
#define FACT_OK(_result) fact_ok(__FILE__, __LINE__, #_result, (_result))

/* The result follows the error law: it must be this error (a positive errno). */
#define FACT_ERROR(_result, _errno) fact_error(__FILE__, __LINE__, #_result, (_result), (_errno))

/* The result follows the error law: it must be exactly this value, which is not an error. */
#define FACT_VALUE(_result, _value) fact_value(__FILE__, __LINE__, #_result, (_result), (_value))

void fact_failed(const char *file, int line, const char *expected, const char *format, ...)
        __attribute__((__noreturn__, __format__(__printf__, 4, 5)));
long fact_ok(const char *file, int line, const char *expression, long result);
void fact_error(const char *file, int line, const char *expression, long result, int expected);
void fact_value(const char *file, int line, const char *expression, long result, long expected);
void fact_skip(const char *format, ...) __attribute__((__noreturn__, __format__(__printf__, 1, 2)));

/* Starts the watchdog. */
void fact_begin(void);
/* Names what comes next, for the watchdog. */
void fact_step(const char *step);

/* /dev/userfaultfd; skips when it cannot be opened. */
int fact_device(void);
/* A context of this process with these features; skips when the kernel lacks one of them. */
int fact_context(int device, uint64_t features);
/* UFFDIO_API on a context, which may be another process's; skips when the kernel lacks one of the features.
 */
void fact_api(int device, int context, uint64_t features);

/* Private anonymous memory, nothing populated, never huge pages. */
char *fact_map(size_t n_pages);
/* Content that differs from page to page and from seed to seed. */
void fact_fill(char *pages, size_t n_pages, uint64_t seed);
bool fact_filled(const char *pages, size_t n_pages, uint64_t seed);
bool fact_zero(const char *pages, size_t n_pages);

/* A pool file of fact_fill(seed) content. */
struct fact_pool {
        int mount;
        int writable;
        int readonly;
        size_t n_pages;
};

/* Skips when the kernel has no tmpfs with noswap, or may not mount it. */
void fact_pool(struct fact_pool *pool, size_t n_pages, uint64_t seed);
bool fact_pool_intact(const struct fact_pool *pool, uint64_t seed);
/* A private mapping of pool pages, populated. */
char *fact_map_pool(const struct fact_pool *pool, size_t first, size_t n_pages);
/* As the agent prepares a run: fact_map_pool(), registered with hold, protected. */
char *fact_map_merged(int hold, const struct fact_pool *pool, size_t first, size_t n_pages);

/* /proc/self/pagemap; skips when the kernel lacks PAGEMAP_SCAN. */
int fact_pagemap(void);
/*
 * How many of the pages are populated and not the zero page, and belong to each of these categories. By an
 * ioctl of its own: what kernel/pagemap.h says can be compared with it.
 */
size_t fact_populated(int pagemap, const char *pages, size_t n_pages, uint64_t categories);
/* How many of the pages pagemap_survey() lists. */
size_t fact_written(int pagemap, const char *pages, size_t n_pages);
/* How many of the pages pagemap_survey_copied() lists. */
size_t fact_copied(int pagemap, const char *pages, size_t n_pages);
/* The page's entry in the pagemap, but for the soft-dirty bit: not 0 when it is populated, and when there is a marker in its place. */
uint64_t fact_entry(int pagemap, const char *page);

/* Waits until the context has a message, without reading it. */
void fact_wait_message(int context);
/* Waits for a message and reads it: it must be of this kind. */
struct uffd_msg fact_message(int context, uint8_t event);
/* Waits for a page fault and reads it: it must be in this page and have these UFFD_PAGEFAULT_FLAG_*. */
struct uffd_msg fact_fault(int context, const char *page, uint64_t flags);
bool fact_quiet(int context); /* no message waits */

/* One access of one byte, by a thread of its own. */
struct fact_access {
        volatile char *address;
        bool write;
        char value; /* to write, or what was read */
        pid_t tid;  /* valid once a fault of the thread was seen, or after the join */
        atomic_bool done;
        pthread_t thread;
};

void fact_access_start(struct fact_access *access, void *address, bool write, char value);
void fact_access_join(struct fact_access *access);
/* A little while, to give what must not happen an opportunity; nothing depends on its length. */
void fact_pause(void);

/* A thread that serves a context like the daemon does, until it is stopped. */
struct fact_server {
        int context;
        int stop;  /* eventfd */
        int child; /* the last forked child's context, or -EBADF; closed when another one comes */
        atomic_uint n_writes;
        atomic_uint n_minors;
        atomic_uint n_zeros; /* minor faults that were answered with a page of zeros */
        atomic_uint n_forks;
        atomic_uint n_remaps;
        pthread_t thread;
};

void fact_server_start(struct fact_server *server, int context);
void fact_server_stop(struct fact_server *server);

/*
 * Another process. Its body runs with the other end of a socket pair; it ends with exit status 0 when the
 * body returns, and is killed when this process ends.
 */
struct fact_client {
        pid_t pid;
        int socket;
};

void fact_client_start(struct fact_client *client, uid_t uid, void (*body)(int socket, void *context),
                       void *context);
/* Waits for the process: it must end by itself, with exit status 0. */
void fact_client_join(struct fact_client *client);

/* A number and at most one descriptor (fd < 0: none) to the other process, in lock step. */
void fact_send(int socket, uint64_t value, int fd);
/* *ret_fd may be left out when none is expected. */
uint64_t fact_receive(int socket, int *ret_fd);
