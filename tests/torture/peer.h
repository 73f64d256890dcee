#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Peers: another process of the same user that reaches into a worker's memory on request
 *
 * Each worker of a client has one, forked before there is anything to torture. While it works the worker waits for its
 * answer, which is also when it may be stopped by ptrace(2).
 */

#include <stdint.h>
#include <sys/types.h>

#define PEER_BYTES 8192

enum peer_call {
        PEER_READ,     /* process_vm_readv(2) */
        PEER_WRITE,    /* process_vm_writev(2) */
        PEER_MEM_READ, /* /proc/PID/mem */
        PEER_MEM_WRITE,
        PEER_PEEK, /* ptrace(2); whole words */
        PEER_POKE,
};

struct client;

struct peer_request {
        enum peer_call call;
        pid_t pid;
        pid_t tid;
        uintptr_t address;
        size_t length;
        char bytes[PEER_BYTES];
};

struct peer_reply {
        ssize_t result; /* bytes done, or a negative errno */
        char bytes[PEER_BYTES];
};

/* Starts a peer: the worker's end of the connection. It ends when that is closed, or the client dies. */
int peer_start(const struct client *client);
