#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The client protocol: what libwp and wpd say to each other over client.sock
 *
 * SOCK_SEQPACKET, one message per packet, host byte order (both ends are on one machine). Every message
 * starts with a header; fixed-size bodies follow, and for lists a counted array. Descriptors travel as
 * SCM_RIGHTS with the message that names them. doc/protocol.md has the conversation as a whole.
 *
 *   client                                        daemon
 *   HELLO     + pagemap, mem                  ->
 *                                             <-  WELCOME  + /dev/userfaultfd, pool
 *   CONTEXTS  + track, guard, stage, hold, lazy, watch, crowds ->
 *                                             <-  REPLY
 *   REGISTER, UNREGISTER, EXCLUDE, INCLUDE, PROTECT, RELEASE,
 *   MERGE, UNMERGE, STAT                      ->
 *                                             <-  REPLY
 *                                             <-  BATCH    runs to merge, zero or give back
 *   RESULT                                    ->
 *                                             <-  WRITTEN  pages of lazy regions that a scan found written
 *   FAULTS, CHILD + its context               ->           what the watcher saw; no reply
 *                                             <-  GRANDCHILD + its context   of which we heard first
 *                                             <-  FILE + it, FILE_GONE       that regions are mappings of
 *   BYE                                       ->           no reply: the client hangs up
 *
 * Both ends treat what they receive as untrusted: wire_check() bounds sizes and counts, and everything else
 * is checked where it is used.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/bits.h"
#include "util/error.h"

#define WIRE_VERSION     4
#define WIRE_MAX_MESSAGE 65536
#define WIRE_MAX_FDS     8
#define WIRE_MAX_DETAIL  192

/* A run is carried out as one unit, so its length bounds how long a writer may wait for a merge. */
#define WIRE_RUN_PAGES  512
#define WIRE_BATCH_RUNS 128

/* Faults in one message, and ranges in one. */
#define WIRE_FAULTS_MAX 256
#define WIRE_RANGES_MAX 256

enum wire_type {
        WIRE_HELLO = 1,
        WIRE_WELCOME,
        WIRE_CONTEXTS,
        WIRE_REGISTER,
        WIRE_UNREGISTER,
        WIRE_EXCLUDE,
        WIRE_INCLUDE,
        WIRE_PROTECT,
        WIRE_RELEASE,
        WIRE_MERGE,
        WIRE_UNMERGE,
        WIRE_STAT,
        WIRE_REPLY,
        WIRE_BATCH,
        WIRE_RESULT,
        WIRE_WRITTEN,
        WIRE_FAULTS,
        WIRE_CHILD,
        WIRE_GRANDCHILD,
        WIRE_BYE,
        WIRE_FILE,
        WIRE_FILE_GONE,
        WIRE_N_TYPES,
};

struct wire_header {
        uint32_t type;
        uint32_t size;   /* of the whole message, header included; equals the packet's length */
        uint64_t serial; /* chosen by the asking side; an answer (REPLY, RESULT) repeats it */
};

struct wire_hello {
        struct wire_header header;
        uint32_t version;
        uint32_t reserved;
};

struct wire_welcome {
        struct wire_header header;
        uint32_t version;
        uint32_t reserved;
        uint64_t pool_bytes; /* where the pool file ends at most */
};

/*
 * RESUMED: the contexts are those of an earlier connection of this address space, in use already. Memory that was
 * merged then is still under their protection, and is recognised when it is registered again.
 */
#define WIRE_CONTEXTS_RESUMED UINT32_C(1)

struct wire_contexts {
        struct wire_header header;
        uint32_t flags;
        uint32_t reserved;
};

/* In the flags of REGISTER: some of the memory has a policy of its own (mbind(2)), as only its owner can tell. */
#define WIRE_REGISTER_POLICY (UINT64_C(1) << 63)

struct wire_register {
        struct wire_header header;
        uint64_t address; /* bytes */
        uint64_t length;  /* bytes */
        uint64_t flags;   /* WP_MERGE, WP_NOTIFY, WP_LAZY, WP_EXEC; WIRE_REGISTER_POLICY */
};

/* UNREGISTER and STAT (offset and length 0), EXCLUDE, INCLUDE, PROTECT, RELEASE, MERGE, UNMERGE */
struct wire_range {
        struct wire_header header;
        uint32_t region;
        uint32_t reserved;
        uint64_t offset; /* bytes from the region's start */
        uint64_t length; /* bytes */
};

struct wire_reply {
        struct wire_header header;
        int32_t error;    /* 0 or a negative errno */
        uint32_t region;  /* REGISTER: the new region's id */
        uint64_t stat[8]; /* STAT: enum wire_stat; REGISTER: enum wire_registered */
        char detail
                [WIRE_MAX_DETAIL]; /* NUL-terminated; empty when there is nothing to say; REGISTER: its name */
};

/* In the answer to REGISTER. */
enum wire_registered {
        WIRE_REGISTERED_KEPT, /* WIRE_KEPT_* */
        WIRE_REGISTERED_FILE, /* the number of the file that it is a mapping of, and 1; 0: none */
};

/* What the memory of a region has, and what takes the place of merged memory must have; so it is with its name. */
#define WIRE_KEPT_NORESERVE  (UINT64_C(1) << 0)
#define WIRE_KEPT_HUGEPAGE   (UINT64_C(1) << 1)
#define WIRE_KEPT_NOHUGEPAGE (UINT64_C(1) << 2)
#define WIRE_KEPT_SHARED     (UINT64_C(1) << 3) /* of a mapping of a file: shared, */
#define WIRE_KEPT_WRITABLE   (UINT64_C(1) << 4) /* writable, */
#define WIRE_KEPT_EXECUTABLE (UINT64_C(1) << 5) /* executable */

enum wire_stat {
        WIRE_STAT_PAGES,
        WIRE_STAT_RESIDENT,
        WIRE_STAT_MERGED,
        WIRE_STAT_ZERO,
        WIRE_STAT_VOLATILE,
        WIRE_STAT_EXCLUDED,
        WIRE_STAT_REFUSED,
};

/* In the answer to MERGE. */
enum wire_merge {
        WIRE_MERGE_EXAMINED,
        WIRE_MERGE_MERGED,
        WIRE_MERGE_ZERO,
        WIRE_MERGE_FAILED,
};

enum wire_run_kind {
        WIRE_RUN_MERGE = 1, /* replace by canonical pages, if equal */
        WIRE_RUN_ZERO,      /* drop, if all zeros */
        WIRE_RUN_UNMERGE,   /* make private again; what is a mapping of a file: the file's */
        WIRE_RUN_FILE,      /* as MERGE, of a read-only mapping of a file */
        WIRE_RUN_ALIAS,     /* the same, by pages of another file in the place of the pool's */
        WIRE_RUN_N_KINDS,
};

struct wire_run {
        uint32_t kind;
        uint32_t n_pages;     /* 1 ... WIRE_RUN_PAGES */
        uint64_t address;     /* bytes */
        uint64_t pool_offset; /* bytes into the pool file, MERGE and FILE; into the other file, ALIAS */
        uint32_t file;        /* ALIAS: that file's number */
        uint32_t reserved;
};

struct wire_batch {
        struct wire_header header;
        uint32_t n_runs;
        uint32_t reserved;
        struct wire_run runs[];
};

struct wire_run_result {
        int32_t error; /* 0: carried out, done[] says for which pages; else nothing was done for any page */
        uint32_t reserved;
        uint64_t done[BITMAP_WORDS(WIRE_RUN_PAGES)]; /* merged, zeroed or made ordinary memory again */
        /*
         * Not done: MERGE and ZERO: the kernel would not move it (pinned, shared by fork). FILE: is a private copy. UNMERGE:
         * was a private copy already and stays where it is, in a mapping of the pool.
         */
        uint64_t busy[BITMAP_WORDS(WIRE_RUN_PAGES)];
};

struct wire_result {
        struct wire_header header;
        uint32_t n_runs; /* as in the batch that it answers, in the same order */
        uint32_t reserved;
        struct wire_run_result runs[];
};

struct wire_written_range {
        uint64_t address; /* bytes */
        uint64_t length;  /* bytes; whole pages, not empty */
};

struct wire_written {
        struct wire_header header;
        uint32_t n_ranges;
        uint32_t reserved;
        struct wire_written_range ranges[];
};

enum wire_fault_kind {
        WIRE_FAULT_WRITE = 1, /* a merged page was written: private now */
        WIRE_FAULT_DISCARD,   /* a merged page was discarded, and then touched: zeros now */
        WIRE_FAULT_CHILD,     /* a forked child wrote: only counted */
        WIRE_FAULT_N_KINDS,
};

struct wire_fault {
        uint64_t address;    /* bytes, as exact as the kernel gave it */
        uint32_t kind;       /* enum wire_fault_kind */
        uint32_t latency_ns; /* from having the message to having answered it */
};

struct wire_faults {
        struct wire_header header;
        uint32_t n_faults;
        uint32_t reserved;
        uint64_t cpu_ns; /* of the watcher, since the connection was made */
        struct wire_fault faults[];
};

/* SOLE: the client has no room for it, and the daemon alone serves it. */
#define WIRE_CHILD_SOLE UINT32_C(1)

struct wire_child {
        struct wire_header header;
        uint32_t flags;
        uint32_t reserved;
};

struct wire_grandchild {
        struct wire_header header;
};

/* Numbers of the files that a client has at once. */
#define WIRE_FILES 64

/*
 * FILE: with a descriptor for reading, which shares the daemon's lease: as long as somebody has it open nobody writes to the
 * file without the lease being given up. FILE_GONE: nothing refers to that number any more.
 */
struct wire_file {
        struct wire_header header;
        uint32_t file; /* its number, below WIRE_FILES */
        uint32_t reserved;
};

struct wire_bye {
        struct wire_header header;
};

enum wire_side {
        WIRE_FROM_CLIENT,
        WIRE_FROM_DAEMON,
};

/*
 * Checks a received packet of `length` bytes with `n_fds` descriptors: known type that this side may send,
 * exact size, counts within bounds, number of descriptors as the type wants it, runs and results well-formed,
 * strings terminated, reserved fields zero. Addresses and flags of a client's wishes are not judged here: a
 * wrong one is answered with a reply, not with a hang-up. The message needs no alignment. Returns 0, or
 * -EBADMSG with a constant sentence in *ret_reason.
 */
int wire_check(const void *message, size_t length, unsigned n_fds, enum wire_side sender,
               const char **ret_reason) wp_check;

/* Fills the header of a message of `size` bytes. */
void wire_init(void *message, enum wire_type type, size_t size, uint64_t serial);

/*
 * Sends one message with descriptors, without blocking unless `wait`. 0, or a negative errno; -EAGAIN when
 * the socket is full. Never raises SIGPIPE. The descriptors remain the caller's. Waiting works on O_NONBLOCK
 * sockets, too.
 */
int wire_send(int socket_fd, const void *message, const int *fds, unsigned n_fds, bool wait) wp_check;

/*
 * Receives one packet into `buffer` (WIRE_MAX_MESSAGE bytes) and its descriptors (O_CLOEXEC) into
 * fds[WIRE_MAX_FDS]. Returns its length, 0 at end of file, or a negative errno: -EAGAIN nothing there,
 * -EBADMSG oversized or with more descriptors than a message may have, -EMFILE descriptors for which this
 * process has no room. In every case of failure, and at end of file, all received descriptors have been
 * closed.
 */
int wire_receive(int socket_fd, void *buffer, int *fds, unsigned *ret_n_fds, bool wait) wp_check;

/*
 * The same, but descriptors that are refused go to `dispose`: the last close of a stranger's descriptor may
 * block.
 */
typedef void (*wire_dispose)(void *context, int fd);
int wire_receive_from_stranger(int socket_fd, void *buffer, int *fds, unsigned *ret_n_fds, bool wait,
                               wire_dispose dispose, void *context) wp_check;
