#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Client programs: processes of their own that do what the test asks, one thing after the other
 *
 * A client is forked from the test and carries out functions of the test, called by their address; so a test reads like
 * one program although it acts in several processes. `struct program` is what such a process has: its connection and its areas.
 *
 * An area is memory with known content. Whatever the test does to it is done to its shadow as well, and every byte is
 * compared.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "system/harness.h"
#include "wp.h"

#define PROGRAM_AREAS 8

struct area {
        char *memory;
        char *shadow; /* what the memory must hold; never registered */
        size_t n_pages;
        struct wp_region *region;
};

struct program {
        int socket; /* to the test */
        long name;  /* the test's number for it */
        struct wp_client *wp;
        struct area areas[PROGRAM_AREAS];
        struct wp_event event; /* the last that was taken */
        pid_t child;
        int child_socket;
        int fd;
        struct program_belongings {
                size_t n_fds;
                size_t n_threads;
        } before; /* connecting */
};

typedef long (*program_function)(struct program *program, long a, long b, long c);

/* ------------------------------------------------------------------ the test's side */

struct client {
        pid_t pid;
        int socket;
};

void client_start(struct client *client, uid_t uid);
void client_name(struct client *client, long name);

/* Lets the client call the function and returns what it returned. */
long client_do(const struct client *client, program_function function, long a, long b, long c);

/* The same in two steps, for what several clients are to do at the same time. */
void client_begin(const struct client *client, program_function function, long a, long b, long c);
long client_finish(const struct client *client);

/* Ends the client: it must not have failed. */
void client_stop(struct client *client);
/* Ends it with SIGKILL. */
void client_kill(struct client *client);

/* Lets the client fork: the child is a client as well, with a copy of what its parent has. */
void client_fork(const struct client *parent, struct client *ret_child);
/* Ends the child that the client forked last: it must not have failed. One whose parent is gone is ended by client_stop(). */
void client_stop_child(const struct client *parent, struct client *child);

/* ------------------------------------------------------------------ the client's side */

/* The content of a page is a number: equal numbers, equal pages; PAGE_OF_ZEROS for zeros. */
#define PAGE_OF_ZEROS 0
typedef uint64_t (*page_content)(long program, uint64_t page);

void program_fill_page(void *page, uint64_t content);

/* Functions to be called with client_do(). What they return follows the error law. */

/* a: the socket's path. */
long program_connect(struct program *program, long a, long b, long c);
/* Leaves neither descriptor nor thread behind, unless a watcher has to linger (a: that is allowed). */
long program_disconnect(struct program *program, long a, long b, long c);
/* a: area, b: pages, c: a page_content. Maps and fills. */
long program_map(struct program *program, long a, long b, long c);
/* Unmaps. */
long program_unmap(struct program *program, long a, long b, long c);
/* a: area, b: flags. Of the whole area. */
long program_register(struct program *program, long a, long b, long c);
long program_unregister(struct program *program, long a, long b, long c);
/* a: area, b: first page, c: pages. */
long program_exclude(struct program *program, long a, long b, long c);
long program_include(struct program *program, long a, long b, long c);
/* a: area. Compares every byte. */
long program_verify(struct program *program, long a, long b, long c);
/* a: area, b: offset of a member of struct wp_region_stat. */
long program_stat(struct program *program, long a, long b, long c);
/* a: area, b: offset in bytes. One store that changes one byte. */
long program_store(struct program *program, long a, long b, long c);
/* a: area, b: first page, c: pages. MADV_DONTNEED. */
long program_discard(struct program *program, long a, long b, long c);
/* a: area, b: first page. Writes, discards and does both to every 16th page, and compares every byte meanwhile. */
long program_use(struct program *program, long a, long b, long c);
/* The same in four children, one after the other, from page b, b + 1 ... on. c: how deep they do so in turn. */
long program_use_forks(struct program *program, long a, long b, long c);
/* Waits for an event and keeps it in program->event: its type. */
long program_wait_event(struct program *program, long a, long b, long c);
/* The same until one of this type comes; before it come only those that writes make. a: the type. */
long program_await_event(struct program *program, long a, long b, long c);
/* How many events wait; takes them all. */
long program_drain_events(struct program *program, long a, long b, long c);

#define PROGRAM_STAT(_member) ((long)offsetof(struct wp_region_stat, _member))

/* Changes one byte of the memory in the shadow: what it is to be. */
char program_next_byte(struct area *area, size_t offset);
void program_check_area(const struct area *area, const char *when);
