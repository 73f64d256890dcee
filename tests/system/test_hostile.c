/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Clients that break the rules, each beside two that keep them and belong to the same user: these are merged, served
 * and right; the daemon lives on, with no descriptor more than before, and says why it dropped whom.
 */

#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "libwp/queue.h"
#include "system/pair.h"
#include "system/raw.h"
#include "util/cleanup.h"

#define N_PAGES 256
#define BYTES   (N_PAGES * PAGE_BYTES)

static struct raw raw; /* a client's own */

/* ------------------------------------------------------------------ a scene with two good clients */

struct scene {
        struct pair pair;
        size_t n_fds; /* of the daemon with the two clients alone */
        long n_steps;
};

static void begin(struct scene *scene, uid_t uid)
{
        *scene = (struct scene){.n_steps = 0};
        pair_begin(&scene->pair, uid, NULL, N_PAGES, WP_MERGE | WP_NOTIFY);
        scene->n_fds = harness_settled_fds(scene->pair.service.pid);
}

/* The good clients are right, and their writes are served and told. */
static void check_good(struct scene *scene)
{
        const struct client *clients = scene->pair.clients;

        pair_verify(&scene->pair);
        if (scene->n_steps < N_PAGES) {
                long writer = scene->n_steps % 2;

                CHECK_OK(client_do(&clients[writer], program_store, 0, scene->n_steps * (long)PAGE_BYTES + 9,
                                   0));
                CHECK(client_do(&clients[writer], program_wait_event, 0, 0, 0) == WP_EVENT_WRITE,
                      "another event");
                pair_verify(&scene->pair);
        }
        scene->n_steps++;
}

/* What the good clients register anew is merged. */
static void check_merging(const struct scene *scene)
{
        const struct client *clients = scene->pair.clients;

        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&clients[i], program_map, 1, N_PAGES, (long)pair_content));
                CHECK_OK(client_do(&clients[i], program_register, 1, WP_MERGE, 0));
        }
        for (long i = 0; i < 2; i++) {
                CHECK_SOON(
                        (json_decref(service_call(&scene->pair.service, "Scan",
                                                  json_pack("{s:i, s:b}", "pid", clients[i].pid, "wait", 1))),
                         client_do(&clients[i], program_stat, 1, PROGRAM_STAT(pages_merged), 0) == N_PAGES),
                        "%ld pages are merged",
                        client_do(&clients[i], program_stat, 1, PROGRAM_STAT(pages_merged), 0));
                client_do(&clients[i], program_verify, 1, 0, 0);
        }
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&clients[i], program_unregister, 1, 0, 0));
                client_do(&clients[i], program_verify, 1, 0, 0);
                CHECK_OK(client_do(&clients[i], program_unmap, 1, 0, 0));
        }
}

static void end(struct scene *scene)
{
        service_check_fds(&scene->pair.service, scene->n_fds);
        check_merging(scene);
        service_check_fds(&scene->pair.service, scene->n_fds);
        pair_end(&scene->pair);
}

/* A process that does one wrong thing; a: the socket's path. When it has done it, doctor says so in these words. */
static void attack(struct scene *scene, uid_t uid, const char *name, program_function function, long b,
                   long c, const char *words)
{
        struct client attacker;
        long r;

        client_start(&attacker, uid);
        r = client_do(&attacker, function, (long)scene->pair.service.client_path, b, c);
        CHECK(!r, "%s: %s", name, strerror((int)-r));
        if (words)
                CHECK_SOON(service_doctor_says(&scene->pair.service, attacker.pid, words),
                           "%s: doctor does not say '%s'", name, words);
        check_good(scene);
        client_stop(&attacker);
}

/* ------------------------------------------------------------------ malformed messages */

union message {
        struct wire_header header;
        struct wire_hello hello;
        struct wire_register registration;
        struct wire_range range;
        struct wire_result result;
        char bytes[2 * WIRE_MAX_MESSAGE];
};

static union message message;

static size_t make(enum wire_type type, size_t size)
{
        memset(&message, 0, sizeof(message));
        wire_init(&message, type, size, 1);
        return size;
}

static size_t make_garbage(size_t length)
{
        uint64_t value = 88172645463325252u;

        for (size_t i = 0; i < length; i++) {
                value ^= value << 13;
                value ^= value >> 7;
                value ^= value << 17;
                message.bytes[i] = (char)value;
        }
        return length;
}

static size_t one_byte(void)
{
        return make_garbage(1);
}

static size_t less_than_header(void)
{
        return make_garbage(sizeof(struct wire_header) - 1);
}

static size_t garbage(void)
{
        return make_garbage(1000);
}

static size_t much_garbage(void)
{
        return make_garbage(WIRE_MAX_MESSAGE);
}

static size_t oversized(void)
{
        make(WIRE_HELLO, WIRE_MAX_MESSAGE + 1);
        return WIRE_MAX_MESSAGE + 1;
}

static size_t very_oversized(void)
{
        make(WIRE_RESULT, sizeof(message));
        return sizeof(message);
}

static size_t type_zero(void)
{
        return make((enum wire_type)0, sizeof(struct wire_header));
}

static size_t type_unknown(void)
{
        return make(WIRE_N_TYPES, sizeof(struct wire_header));
}

static size_t type_huge(void)
{
        make(WIRE_BYE, sizeof(struct wire_header));
        message.header.type = UINT32_MAX;
        return sizeof(struct wire_header);
}

static size_t from_daemon(void)
{
        return make(WIRE_REPLY, sizeof(struct wire_reply));
}

static size_t batch_from_client(void)
{
        return make(WIRE_BATCH, sizeof(struct wire_batch) + sizeof(struct wire_run));
}

static size_t truncated(void)
{
        make(WIRE_REGISTER, sizeof(struct wire_register));
        return sizeof(struct wire_register) - 8;
}

static size_t truncated_honestly(void)
{
        return make(WIRE_REGISTER, sizeof(struct wire_register) - 8);
}

static size_t surplus_bytes(void)
{
        return make(WIRE_REGISTER, sizeof(struct wire_register) + 8);
}

static size_t size_lies(void)
{
        make(WIRE_REGISTER, sizeof(struct wire_register));
        message.header.size = UINT32_MAX;
        return sizeof(struct wire_register);
}

static size_t result_without_runs(void)
{
        return make(WIRE_RESULT, sizeof(struct wire_result));
}

static size_t result_count_lies(void)
{
        size_t size = make(WIRE_RESULT, sizeof(struct wire_result) + sizeof(struct wire_run_result));

        message.result.n_runs = 7;
        return size;
}

static size_t result_count_huge(void)
{
        size_t size = make(WIRE_RESULT, sizeof(struct wire_result) + sizeof(struct wire_run_result));

        message.result.n_runs = UINT32_MAX;
        return size;
}

static size_t range_reserved(void)
{
        size_t size = make(WIRE_STAT, sizeof(struct wire_range));

        message.range.reserved = 1;
        return size;
}

static size_t (*const malformed[])(void) = {
        one_byte,           less_than_header,  garbage,           much_garbage,
        oversized,          very_oversized,    type_zero,         type_unknown,
        type_huge,          from_daemon,       batch_from_client, truncated,
        truncated_honestly, surplus_bytes,     size_lies,         result_without_runs,
        result_count_lies,  result_count_huge, range_reserved,
};

/* b: which message, c: in which state. */
static long send_malformed(struct program *program, long a, long b, long c)
{
        size_t length;

        raw_open(&raw, (const char *)a, (enum raw_state)c);
        length = malformed[b]();
        raw_send(&raw, message.bytes, length, NULL, 0);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static void malformed_messages(uid_t uid)
{
        struct scene scene;
        char name[64];

        begin(&scene, uid);
        for (long state = 0; state < RAW_N_STATES; state++)
                for (long i = 0; i < (long)ARRAY_SIZE(malformed); i++) {
                        snprintf(name, sizeof(name), "malformed message %ld in state %ld", i, state);
                        attack(&scene, uid, name, send_malformed, i, state, "dropped");
                }
        end(&scene);
}

/* ------------------------------------------------------------------ well-formed, but not now */

static long send_out_of_place(struct program *program, long a, long b, long c)
{
        static const struct {
                enum wire_type type;
                size_t size;
                unsigned n_fds;
        } messages[] = {
                {WIRE_HELLO, sizeof(struct wire_hello), 2},
                {WIRE_CONTEXTS, sizeof(struct wire_contexts), RAW_N_CONTEXTS},
                {WIRE_REGISTER, sizeof(struct wire_register), 0},
                {WIRE_UNREGISTER, sizeof(struct wire_range), 0},
                {WIRE_EXCLUDE, sizeof(struct wire_range), 0},
                {WIRE_STAT, sizeof(struct wire_range), 0},
                {WIRE_RESULT, sizeof(struct wire_result) + sizeof(struct wire_run_result), 0},
        };
        int fds[RAW_N_CONTEXTS] = {STDIN_FILENO}; /* the others, too: 0 */
        size_t size;

        if (b >= (long)ARRAY_SIZE(messages))
                return -ERANGE;
        /* What belongs there is no attack. */
        if (messages[b].type == (c == RAW_CONNECTED ? WIRE_HELLO : WIRE_CONTEXTS) && c != RAW_READY)
                return 1;
        if (c == RAW_READY && messages[b].type >= WIRE_REGISTER && messages[b].type <= WIRE_STAT)
                return 1;
        raw_open(&raw, (const char *)a, (enum raw_state)c);
        size = make(messages[b].type, messages[b].size);
        message.result.n_runs = messages[b].type == WIRE_RESULT;
        if (messages[b].type == WIRE_HELLO)
                message.hello.version = WIRE_VERSION;
        raw_send(&raw, message.bytes, size, fds, messages[b].n_fds);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static void out_of_place(uid_t uid)
{
        struct client attacker;
        struct scene scene;
        long r;

        begin(&scene, uid);
        for (long state = 0; state < RAW_N_STATES; state++)
                for (long i = 0;; i++) {
                        client_start(&attacker, uid);
                        r = client_do(&attacker, send_out_of_place, (long)scene.pair.service.client_path, i,
                                      state);
                        if (!r)
                                CHECK_SOON(service_doctor_says(&scene.pair.service, attacker.pid, "dropped"),
                                           "message %ld in state %ld: doctor does not say why", i, state);
                        client_stop(&attacker);
                        check_good(&scene);
                        if (r == -ERANGE)
                                break;
                }
        end(&scene);
}

/* Another version of the protocol, and what is not a known flag or a real address. */
static long send_wrong_values(struct program *program, long a, long b, long c)
{
        static const struct {
                uint64_t address;
                uint64_t length;
                uint64_t flags;
        } wrong[] = {
                {4096, 4096, UINT64_MAX},
                {4097, 4096, 1},
                {4096, 4095, 1},
                {4096, 0, 1},
                {UINT64_MAX - 4095, 4096, 1},
                {UINT64_MAX - 4095, 8192, 1},
                {0, UINT64_MAX - 4095, 1},
                {UINT64_C(1) << 47, 4096, 1},
                {0, UINT64_C(1) << 47, 1},
                {4096, UINT64_C(1) << 46, 1},
        };
        enum wire_type types[] = {WIRE_UNREGISTER, WIRE_STAT,    WIRE_EXCLUDE, WIRE_INCLUDE,
                                  WIRE_PROTECT,    WIRE_RELEASE, WIRE_MERGE,   WIRE_UNMERGE};

        raw_open(&raw, (const char *)a, RAW_READY);
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                size_t size = make(WIRE_REGISTER, sizeof(message.registration));
                int r;

                message.registration.address = wrong[i].address;
                message.registration.length = wrong[i].length;
                message.registration.flags = wrong[i].flags;
                raw_send(&raw, message.bytes, size, NULL, 0);
                r = raw_reply(&raw);
                CHECK(r == -EINVAL || r == -EOPNOTSUPP || r == -EDQUOT, "registration %zu: %s", i,
                      strerror(-r));
        }
        /* Regions of nobody, and of the good clients, whose ids are small. */
        for (uint32_t id = 0; id < 8; id++)
                for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
                        size_t size = make(types[i], sizeof(message.range));

                        message.range.region = id == 7 ? UINT32_MAX : id;
                        message.range.length =
                                types[i] == WIRE_UNREGISTER || types[i] == WIRE_STAT ? 0 : PAGE_BYTES;
                        raw_send(&raw, message.bytes, size, NULL, 0);
                        CHECK_ERROR(raw_reply(&raw), EINVAL);
                }
        raw_close(&raw);
        return 0;
}

static long send_wrong_version(struct program *program, long a, long b, long c)
{
        int fds[] = {open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC),
                     open("/proc/self/mem", O_RDONLY | O_CLOEXEC)};
        size_t size = make(WIRE_HELLO, sizeof(message.hello));

        raw_open(&raw, (const char *)a, RAW_CONNECTED);
        message.hello.version = WIRE_VERSION + 1;
        raw_send(&raw, message.bytes, size, fds, 2);
        CHECK_ERROR(raw_reply(&raw), EPROTO);
        raw_await_end(&raw);
        raw_close(&raw);
        close(fds[0]);
        close(fds[1]);
        return 0;
}

static void wrong_values(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        attack(&scene, uid, "wrong values", send_wrong_values, 0, 0, NULL);
        attack(&scene, uid, "wrong version", send_wrong_version, 0, 0, "version");
        end(&scene);
}

/* ------------------------------------------------------------------ wrong descriptors */

static int open_pipe(void)
{
        int ends[2];

        CHECK_OK(error_from(pipe2(ends, O_CLOEXEC)));
        return ends[0];
}

static int open_null(void)
{
        return open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int open_zero(void)
{
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
}

/* Reading it would block for ever. */
static int open_fifo(void)
{
        char name[] = "/tmp/wpd-test-fifo-XXXXXX";
        int fd;

        CHECK(mkdtemp(name) && !rmdir(name) && !mkfifo(name, 0600), "%s: %m", name);
        fd = open(name, O_RDWR | O_CLOEXEC);
        unlink(name);
        return fd;
}

/* Its name is the right one. */
static int open_named(const char *base)
{
        char directory[] = "/tmp/wpd-test-file-XXXXXX", name[64];
        int fd;

        CHECK(mkdtemp(directory), "%s: %m", directory);
        snprintf(name, sizeof(name), "%s/%s", directory, base);
        fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        unlink(name);
        rmdir(directory);
        return fd;
}

static int open_pagemap_file(void)
{
        return open_named("pagemap");
}

static int open_mem_file(void)
{
        return open_named("mem");
}

static int open_socket(void)
{
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int open_eventfd(void)
{
        return eventfd(0, EFD_CLOEXEC);
}

static int open_memfd(void)
{
        return memfd_create("pagemap", MFD_CLOEXEC);
}

static int open_directory(void)
{
        return open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int open_path(void)
{
        return open("/proc/self/mem", O_PATH | O_CLOEXEC);
}

static int open_pagemap(void)
{
        return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

static int open_mem(void)
{
        return open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
}

/* Of the process that started this one: the test's, if it is allowed. */
static int open_parents(const char *base)
{
        char path[64];
        int fd;

        snprintf(path, sizeof(path), "/proc/%d/%s", getppid(), base);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? open_null() : fd;
}

static int open_parents_status(void)
{
        return open_parents("status");
}

static int open_maps(void)
{
        return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
}

static const struct {
        int (*pagemap)(void);
        int (*mem)(void);
} wrong_files[] = {
        {open_pipe, open_pipe},
        {open_null, open_null},
        {open_zero, open_zero},
        {open_fifo, open_fifo},
        {open_socket, open_socket},
        {open_eventfd, open_eventfd},
        {open_memfd, open_memfd},
        {open_directory, open_directory},
        {open_maps, open_maps},
        {open_mem, open_pagemap},
        {open_pagemap, open_pagemap},
        {open_mem, open_mem},
        {open_pagemap_file, open_mem_file},
        {open_pagemap, open_zero},
        {open_pagemap, open_fifo},
        {open_null, open_mem},
        {open_parents_status, open_parents_status},
        {open_pagemap, open_mem_file},
};

static long hello_with_wrong_files(struct program *program, long a, long b, long c)
{
        int fds[] = {wrong_files[b].pagemap(), wrong_files[b].mem()};
        size_t size;

        CHECK(fds[0] >= 0 && fds[1] >= 0, "%m");
        raw_open(&raw, (const char *)a, RAW_CONNECTED);
        size = make(WIRE_HELLO, sizeof(message.hello));
        message.hello.version = WIRE_VERSION;
        raw_send(&raw, message.bytes, size, fds, 2);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

/* A descriptor that opens nothing: whatever the daemon makes of it, reading fails and nothing hangs. */
static long hello_with_path(struct program *program, long a, long b, long c)
{
        int fds[] = {open_pagemap(), open_path()};
        void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        size_t size;

        raw_open(&raw, (const char *)a, RAW_CONNECTED);
        size = make(WIRE_HELLO, sizeof(message.hello));
        message.hello.version = WIRE_VERSION;
        raw_send(&raw, message.bytes, size, fds, 2);
        if (recv(raw.socket, &message, 1, MSG_PEEK) > 0) {
                raw_take_welcome(&raw);
                raw_make_contexts(&raw);
                raw_say_contexts(&raw, 0);
                CHECK_OK(raw_reply(&raw));
                memset(memory, 1, BYTES);
                raw_say_register(&raw, memory, BYTES, 1);
                raw_reply(&raw);
        }
        return 0;
}

/* b: the number of descriptors, where two belong. */
static long hello_with_number_of_files(struct program *program, long a, long b, long c)
{
        int fds[16];
        size_t size;

        for (long i = 0; i < b; i++)
                fds[i] = i % 2 ? open_mem() : open_pagemap();
        raw_open(&raw, (const char *)a, RAW_CONNECTED);
        size = make(WIRE_HELLO, sizeof(message.hello));
        message.hello.version = WIRE_VERSION;
        raw_send(&raw, message.bytes, size, fds, (unsigned)b);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

/* b: what stands in the place of contexts; c: in which of the places, or in all. */
static long contexts_of_wrong_kind(struct program *program, long a, long b, long c)
{
        static int (*const openers[])(void) = {open_pipe,   open_null,    open_zero, open_fifo,
                                               open_socket, open_eventfd, open_mem};
        struct wire_contexts contexts = {.flags = 0};

        raw_open(&raw, (const char *)a, RAW_WELCOME);
        for (long i = 0; i < RAW_N_CONTEXTS; i++)
                if (c == i || c == RAW_N_CONTEXTS)
                        CHECK_OK(error_from(dup2(openers[b](), raw.contexts[i])));
        wire_init(&contexts, WIRE_CONTEXTS, sizeof(contexts), 0);
        raw_send(&raw, &contexts, sizeof(contexts), raw.contexts, RAW_N_CONTEXTS);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static long contexts_used_before(struct program *program, long a, long b, long c)
{
        raw_open(&raw, (const char *)a, RAW_WELCOME);
        if (b < RAW_N_CONTEXTS)
                CHECK_OK(uffd_api(raw.contexts[b], 0));
        else
                for (size_t i = 1; i < RAW_N_CONTEXTS; i++)
                        CHECK_OK(error_from(dup2(raw.contexts[0], raw.contexts[i])));
        raw_say_contexts(&raw, 0);
        CHECK(raw_reply(&raw) < 0, "used contexts were taken");
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static long contexts_number(struct program *program, long a, long b, long c)
{
        struct wire_contexts contexts = {.flags = 0};
        int fds[16];

        raw_open(&raw, (const char *)a, RAW_WELCOME);
        for (long i = 0; i < b; i++)
                fds[i] = i < RAW_N_CONTEXTS ? raw.contexts[i] : (int)CHECK_OK(uffd_create(raw.given[0]));
        wire_init(&contexts, WIRE_CONTEXTS, sizeof(contexts), 0);
        raw_send(&raw, &contexts, sizeof(contexts), fds, (unsigned)b);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

/* Descriptors with a message that has none. */
static long surplus_descriptors(struct program *program, long a, long b, long c)
{
        int fds[8];
        size_t size;

        raw_open(&raw, (const char *)a, RAW_READY);
        for (long i = 0; i < b; i++)
                fds[i] = open_null();
        size = make(WIRE_STAT, sizeof(message.range));
        raw_send(&raw, message.bytes, size, fds, (unsigned)b);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static void wrong_descriptors(uid_t uid)
{
        static const long numbers[] = {0, 1, 3, 4, 5, 6, 7, 8, 16};
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < (long)ARRAY_SIZE(wrong_files); i++)
                attack(&scene, uid, "files of the wrong kind", hello_with_wrong_files, i, 0, "descriptors");
        attack(&scene, uid, "O_PATH", hello_with_path, 0, 0, NULL);
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
                attack(&scene, uid, "number of files", hello_with_number_of_files, numbers[i], 0,
                       "descriptors");
                if (numbers[i] != RAW_N_CONTEXTS)
                        attack(&scene, uid, "number of contexts", contexts_number, numbers[i], 0,
                               "descriptors");
                if (numbers[i] > 0 && numbers[i] <= 8)
                        attack(&scene, uid, "surplus descriptors", surplus_descriptors, numbers[i], 0,
                               "descriptors");
        }
        for (long i = 0; i < 7; i++)
                for (long place = 0; place <= RAW_N_CONTEXTS; place += place ? 1 : 3)
                        attack(&scene, uid, "contexts of the wrong kind", contexts_of_wrong_kind, i, place,
                               "descriptors");
        for (long i = 0; i <= RAW_N_CONTEXTS; i++)
                attack(&scene, uid, "used contexts", contexts_used_before, i, 0, "dropped");
        end(&scene);
}

/* ------------------------------------------------------------------ silence and disappearance */

static char *known_pages(size_t n_pages)
{
        char *memory =
                mmap(NULL, n_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(memory != MAP_FAILED, "%m");
        for (size_t page = 0; page < n_pages; page++)
                program_fill_page(memory + page * PAGE_BYTES, pair_content(0, page));
        return memory;
}

enum step {
        STEP_CONNECTED,
        STEP_HELLO, /* said, the answer not read */
        STEP_WELCOME,
        STEP_CONTEXTS, /* said, the answer not read */
        STEP_READY,
        STEP_REGISTER, /* said, the answer not read */
        STEP_REGISTERED,
        STEP_BATCH, /* received, not answered */
        N_STEPS,
};

/* Goes so far, and no farther. */
static long go_to_step(struct program *program, long a, long b, long c)
{
        raw_open(&raw, (const char *)a,
                 b >= STEP_READY     ? RAW_READY
                 : b >= STEP_WELCOME ? RAW_WELCOME
                                     : RAW_CONNECTED);
        if (b == STEP_HELLO)
                raw_say_hello(&raw);
        if (b == STEP_CONTEXTS)
                raw_say_contexts(&raw, 0);
        if (b >= STEP_REGISTER)
                raw_say_register(&raw, known_pages(N_PAGES), BYTES, 1);
        if (b >= STEP_REGISTERED)
                CHECK_OK(raw_reply(&raw));
        if (b >= STEP_BATCH)
                raw_await(&raw, WIRE_BATCH);
        return 0;
}

static void disappear(uid_t uid)
{
        struct client attacker;
        struct scene scene;

        begin(&scene, uid);
        for (long step = 0; step < N_STEPS; step++)
                for (int how = 0; how < 2; how++) {
                        client_start(&attacker, uid);
                        CHECK_OK(client_do(&attacker, go_to_step, (long)scene.pair.service.client_path, step,
                                           0));
                        check_good(&scene);
                        if (how)
                                client_kill(&attacker);
                        else
                                client_stop(&attacker);
                        check_good(&scene);
                }
        end(&scene);
}

/* All at the same time, and they stay. */
static void silence(uid_t uid)
{
        struct client attackers[N_STEPS];
        struct scene scene;

        begin(&scene, uid);
        for (long step = 0; step < N_STEPS; step++) {
                client_start(&attackers[step], uid);
                CHECK_OK(client_do(&attackers[step], go_to_step, (long)scene.pair.service.client_path, step,
                                   0));
        }
        check_merging(&scene);
        check_good(&scene);
        for (long step = 0; step < N_STEPS; step++)
                client_stop(&attackers[step]);
        end(&scene);
}

static long connect_often(struct program *program, long a, long b, long c)
{
        struct rlimit limit = {.rlim_cur = 1024, .rlim_max = 1024};

        setrlimit(RLIMIT_NOFILE, &limit);
        for (long i = 0; i < b; i++) {
                struct raw one;

                raw_open(&one, (const char *)a, RAW_CONNECTED);
        }
        return 0;
}

/* One user's connections that say nothing keep nobody else away. */
static void strangers(uid_t uid)
{
        struct client attacker, other;
        struct scene scene;

        begin(&scene, uid);
        client_start(&attacker, uid);
        CHECK_OK(client_do(&attacker, connect_often, (long)scene.pair.service.client_path, 400, 0));
        check_good(&scene);
        client_start(&other, 0);
        CHECK_OK(client_do(&other, program_connect, (long)scene.pair.service.client_path, 0, 0));
        CHECK_OK(client_do(&other, program_disconnect, 0, 0, 0));
        client_stop(&other);
        client_stop(&attacker);
        check_good(&scene);
        end(&scene);
}

static uint64_t same(long program, uint64_t page)
{
        return page / 4 + 1;
}

/* Real clients, killed somewhere in the middle of merging. */
static void killed_while_merging(uid_t uid)
{
        struct client attacker;
        struct scene scene;

        begin(&scene, uid);
        for (int round = 0; round < 12; round++) {
                struct harness_patience patience = HARNESS_PATIENCE_INIT;

                client_start(&attacker, uid);
                CHECK_OK(client_do(&attacker, program_map, 0, 16 * N_PAGES, (long)same));
                CHECK_OK(client_do(&attacker, program_connect, (long)scene.pair.service.client_path, 0, 0));
                CHECK_OK(client_do(&attacker, program_register, 0, WP_MERGE, 0));
                for (int i = 0; i < 4 + round; i++)
                        harness_wait(&patience);
                client_kill(&attacker);
                check_good(&scene);
        }
        end(&scene);
}

/* An agent that does not answer: the others are merged meanwhile; when it goes on, so does its client. */
static void stopped(uid_t uid)
{
        struct client sleeper;
        struct scene scene;

        begin(&scene, uid);
        client_start(&sleeper, uid);
        CHECK_OK(client_do(&sleeper, program_map, 0, 16 * N_PAGES, (long)same));
        CHECK_OK(client_do(&sleeper, program_connect, (long)scene.pair.service.client_path, 0, 0));
        CHECK_OK(client_do(&sleeper, program_register, 0, WP_MERGE, 0));
        CHECK_OK(error_from(kill(sleeper.pid, SIGSTOP)));
        check_merging(&scene);
        check_good(&scene);
        CHECK_OK(error_from(kill(sleeper.pid, SIGCONT)));
        client_do(&sleeper, program_verify, 0, 0, 0);
        CHECK_SOON((service_scan(&scene.pair.service),
                    client_do(&sleeper, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == 16 * N_PAGES),
                   "%ld pages are merged",
                   client_do(&sleeper, program_stat, 0, PROGRAM_STAT(pages_merged), 0));
        client_do(&sleeper, program_verify, 0, 0, 0);
        CHECK_OK(client_do(&sleeper, program_unregister, 0, 0, 0));
        client_do(&sleeper, program_verify, 0, 0, 0);
        CHECK_OK(client_do(&sleeper, program_unmap, 0, 0, 0));
        CHECK_OK(client_do(&sleeper, program_disconnect, 0, 0, 0));
        client_stop(&sleeper);
        end(&scene);
}

/* ------------------------------------------------------------------ wrong results */

enum lie {
        LIE_SERIAL,
        LIE_COUNT_LESS,
        LIE_COUNT_MORE,
        LIE_TWICE,
        LIE_BOTH, /* done, and busy */
        LIE_POSITIVE_ERROR,
        DROPPED_LIES, /* those before are found out */
        LIE_NOTHING = DROPPED_LIES,
        LIE_ERROR,
        LIE_STRANGE_ERROR,
        LIE_DONE, /* although nothing was */
        N_LIES,
};

static void lie_about_run(struct wire_run_result *result, unsigned n_pages, long lie)
{
        result->error = lie == LIE_ERROR            ? -EIO
                        : lie == LIE_POSITIVE_ERROR ? 5
                        : lie == LIE_STRANGE_ERROR  ? INT32_MIN
                                                    : 0;
        for (unsigned page = 0; page < n_pages; page++) {
                if (lie == LIE_BOTH || lie == LIE_DONE)
                        bitmap_set(result->done, page);
                if (lie == LIE_BOTH)
                        bitmap_set(result->busy, page);
        }
}

/* Takes a batch and answers it with a lie. */
static long answer_wrongly(struct program *program, long a, long b, long c)
{
        static struct {
                struct wire_batch batch;
                struct wire_run runs[WIRE_BATCH_RUNS];
        } asked;
        size_t size;
        uint32_t n_runs;

        raw_open(&raw, (const char *)a, RAW_READY);
        raw_say_register(&raw, known_pages(N_PAGES), BYTES, 1);
        CHECK_OK(raw_reply(&raw));
        raw_await(&raw, WIRE_BATCH);
        memcpy(&asked, raw.inbox, sizeof(asked));
        n_runs = asked.batch.n_runs + (b == LIE_COUNT_MORE ? 1 : 0) - (b == LIE_COUNT_LESS ? 1 : 0);
        if (!n_runs)
                n_runs = 2;
        size = make(WIRE_RESULT, sizeof(struct wire_result) + n_runs * sizeof(struct wire_run_result));
        message.header.serial = asked.batch.header.serial + (b == LIE_SERIAL ? 77 : 0);
        message.result.n_runs = n_runs;
        for (uint32_t i = 0; i < n_runs; i++)
                lie_about_run(&message.result.runs[i], asked.runs[MIN(i, asked.batch.n_runs - 1)].n_pages, b);
        raw_send(&raw, message.bytes, size, NULL, 0);
        if (b == LIE_TWICE)
                raw_send(&raw, message.bytes, size, NULL, 0);
        if (b < DROPPED_LIES)
                raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

static void wrong_results(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long lie = 0; lie < N_LIES; lie++)
                attack(&scene, uid, "wrong result", answer_wrongly, lie, 0,
                       lie < DROPPED_LIES ? "dropped" : NULL);
        end(&scene);
}

/* Claims to have merged; then says nothing more but unregisters, and answers that with nothing. */
static long hang_in_unregister(struct program *program, long a, long b, long c)
{
        struct wire_result *result = &message.result;
        const struct wire_batch *batch;
        size_t size;
        uint32_t n_runs;
        uint64_t serial;

        raw_open(&raw, (const char *)a, RAW_READY);
        raw_say_register(&raw, known_pages(N_PAGES), BYTES, 1);
        CHECK_OK(raw_reply(&raw));
        batch = raw_await(&raw, WIRE_BATCH);
        n_runs = batch->n_runs;
        serial = batch->header.serial;
        size = make(WIRE_RESULT, sizeof(*result) + n_runs * sizeof(result->runs[0]));
        result->header.serial = serial;
        result->n_runs = n_runs;
        for (uint32_t i = 0; i < n_runs; i++)
                memset(result->runs[i].done, 0xff, sizeof(result->runs[i].done));
        raw_send(&raw, result, size, NULL, 0);
        for (uint32_t id = 0; id < 8; id++) {
                size = make(WIRE_UNREGISTER, sizeof(message.range));
                message.range.region = id;
                raw_send(&raw, message.bytes, size, NULL, 0);
        }
        return 0;
}

static void unregister_and_hang(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        attack(&scene, uid, "unregister and hang", hang_in_unregister, 0, 0, NULL);
        end(&scene);
}

/* ------------------------------------------------------------------ floods */

/* b: the kind of request. */
static long ask_without_reading(struct program *program, long a, long b, long c)
{
        ssize_t n;

        raw_open(&raw, (const char *)a, RAW_READY);
        do {
                size_t size = make((enum wire_type)b,
                                   b == WIRE_REGISTER ? sizeof(message.registration) : sizeof(message.range));

                n = send(raw.socket, &message, size, MSG_NOSIGNAL);
        } while (n > 0);
        CHECK(errno == EPIPE || errno == ECONNRESET, "%m");
        raw_close(&raw);
        return 0;
}

static void floods(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        attack(&scene, uid, "STAT without reading", ask_without_reading, WIRE_STAT, 0, "without reading");
        attack(&scene, uid, "REGISTER without reading", ask_without_reading, WIRE_REGISTER, 0,
               "without reading");
        attack(&scene, uid, "INCLUDE without reading", ask_without_reading, WIRE_INCLUDE, 0,
               "without reading");
        end(&scene);
}

/* Registers very many ranges at once, none of which is mapped, and does not wait for the answers. */
static long register_many(struct program *program, long a, long b, long c)
{
        raw_open(&raw, (const char *)a, RAW_READY);
        for (long i = 0; i < b; i++)
                raw_say_register(&raw,
                                 (const void *)(uintptr_t)((UINT64_C(1) << 40) + (uint64_t)i * PAGE_BYTES),
                                 PAGE_BYTES, (uint64_t)i + 1);
        return 0;
}

static void many_registrations(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        attack(&scene, uid, "many registrations", register_many, 3000, 0, NULL);
        end(&scene);
}

/* ------------------------------------------------------------------ lies */

static void say_fault(uint64_t address, uint32_t kind)
{
        struct {
                struct wire_faults head;
                struct wire_fault fault;
        } faults = {.head = {.n_faults = 1, .cpu_ns = UINT64_MAX},
                    .fault = {.address = address, .kind = kind, .latency_ns = UINT32_MAX}};

        wire_init(&faults, WIRE_FAULTS, sizeof(faults), 0);
        raw_send(&raw, &faults, sizeof(faults), NULL, 0);
}

/* Says of pages that were never merged, or are none, that they were written; b: how often. */
static long tell_of_faults(struct program *program, long a, long b, long c)
{
        static const uint64_t nonsense[] = {0, 1, UINT64_MAX, UINT64_C(1) << 47, UINT64_C(1) << 63};
        char *memory = known_pages(N_PAGES);

        raw_open(&raw, (const char *)a, RAW_READY);
        raw_say_register(&raw, memory, BYTES, 1);
        CHECK_OK(raw_reply(&raw));
        for (long i = 0; i < b; i++) {
                say_fault(nonsense[(size_t)i % ARRAY_SIZE(nonsense)], WIRE_FAULT_WRITE);
                say_fault((uintptr_t)memory + (size_t)i % BYTES, WIRE_FAULT_DISCARD);
                say_fault((uintptr_t)memory, WIRE_FAULT_CHILD);
        }
        raw_await(&raw, WIRE_BATCH);
        for (size_t page = 0; page < N_PAGES; page++)
                say_fault((uintptr_t)memory + page * PAGE_BYTES, WIRE_FAULT_WRITE);
        return 0;
}

/* Hands over as children's: b of its own contexts, each time the same one. */
static long tell_of_children(struct program *program, long a, long b, long c)
{
        struct wire_child child = {.flags = 0};

        raw_open(&raw, (const char *)a, RAW_READY);
        wire_init(&child, WIRE_CHILD, sizeof(child), 0);
        for (long i = 0; i < b; i++)
                raw_send(&raw, &child, sizeof(child), &raw.contexts[c], 1);
        return 0;
}

static long tell_of_wrong_child(struct program *program, long a, long b, long c)
{
        struct wire_child child = {.flags = 0};
        int fd = open_null();

        raw_open(&raw, (const char *)a, RAW_READY);
        wire_init(&child, WIRE_CHILD, sizeof(child), 0);
        raw_send(&raw, &child, sizeof(child), &fd, 1);
        raw_await_end(&raw);
        raw_close(&raw);
        return 0;
}

/* Claims to have been here before: with new contexts, or with others than these. */
static long claim_to_return(struct program *program, long a, long b, long c)
{
        char *memory = known_pages(N_PAGES);

        raw_open(&raw, (const char *)a, RAW_WELCOME);
        if (b)
                for (size_t i = 0; i < ARRAY_SIZE(raw.contexts); i++)
                        CHECK_OK(uffd_api(raw.contexts[i], 0));
        raw_say_contexts(&raw, WIRE_CONTEXTS_RESUMED);
        CHECK_OK(raw_reply(&raw));
        raw_say_register(&raw, memory, BYTES, 1);
        raw_reply(&raw);
        return 0;
}

/* Maps pages of the pool itself, which are said to be merged when they are registered. */
static long claim_pages(struct program *program, long a, long b, long c)
{
        char *memory;

        raw_open(&raw, (const char *)a, RAW_WELCOME);
        raw_say_contexts(&raw, WIRE_CONTEXTS_RESUMED);
        CHECK_OK(raw_reply(&raw));
        memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, raw.given[1], b * (long)PAGE_BYTES);
        CHECK(memory != MAP_FAILED, "%m");
        raw_say_register(&raw, memory, BYTES, 1);
        raw_reply(&raw);
        return 0;
}

static void lies(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        attack(&scene, uid, "faults", tell_of_faults, 300, 0, NULL);
        for (long i = 0; i < RAW_N_CONTEXTS; i++)
                attack(&scene, uid, "children", tell_of_children, 400, i, NULL);
        attack(&scene, uid, "a child of the wrong kind", tell_of_wrong_child, 0, 0, "dropped");
        attack(&scene, uid, "returning with new contexts", claim_to_return, 0, 0, NULL);
        attack(&scene, uid, "returning with other contexts", claim_to_return, 1, 0, NULL);
        attack(&scene, uid, "pages of the pool", claim_pages, 0, 0, NULL);
        attack(&scene, uid, "pages behind the pool", claim_pages, 1 << 20, 0, NULL);
        end(&scene);
}

/* A description that client and daemon share is made blocking: b, which of the contexts. */
static long block_contexts(struct program *program, long a, long b, long c)
{
        raw_open(&raw, (const char *)a, RAW_READY);
        for (size_t i = 0; i < RAW_N_CONTEXTS; i++)
                if (b == RAW_N_CONTEXTS || b == (long)i)
                        CHECK_OK(error_from(fcntl(raw.contexts[i], F_SETFL, 0)));
        raw_say_register(&raw, known_pages(N_PAGES), BYTES, 1);
        CHECK_OK(raw_reply(&raw));
        raw_await(&raw, WIRE_BATCH);
        return 0;
}

static void blocking_contexts(uid_t uid)
{
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i <= RAW_N_CONTEXTS; i++)
                attack(&scene, uid, "blocking contexts", block_contexts, i, 0, NULL);
        end(&scene);
}

/* Against the contract: registered memory is unmapped, and something else put there. */
static long replace_memory(struct program *program, long a, long b, long c)
{
        struct uffdio_api api = {.api = UFFD_API};
        struct uffdio_register registration = {.mode = UFFDIO_REGISTER_MODE_MISSING};
        char *memory = known_pages(N_PAGES);
        int fd;

        raw_open(&raw, (const char *)a, RAW_READY);
        raw_say_register(&raw, memory, BYTES, 1);
        CHECK_OK(raw_reply(&raw));
        munmap(memory, BYTES);
        if (b == 0)
                return 0;
        CHECK(mmap(memory, BYTES, b == 1 ? PROT_NONE : PROT_READ | PROT_WRITE,
                   MAP_FIXED | MAP_ANONYMOUS | (b == 2 ? MAP_SHARED : MAP_PRIVATE), -1, 0) == memory,
              "%m");
        if (b < 3)
                return 0;
        /* Nobody will ever answer for these pages. */
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
        if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
                return 0;
        registration.range.start = (uintptr_t)memory;
        registration.range.len = BYTES;
        CHECK_OK(error_from(ioctl(fd, UFFDIO_REGISTER, &registration)));
        return 0;
}

static void replaced_memory(uid_t uid)
{
        struct client attacker;
        struct scene scene;

        begin(&scene, uid);
        for (long i = 0; i < 4; i++) {
                client_start(&attacker, uid);
                CHECK_OK(client_do(&attacker, replace_memory, (long)scene.pair.service.client_path, i, 0));
                check_merging(&scene);
                check_good(&scene);
                client_stop(&attacker);
        }
        end(&scene);
}

static const struct harness_test tests[] = {
        HARNESS_USER(malformed_messages),
        HARNESS_USER(out_of_place),
        HARNESS_USER(wrong_values),
        HARNESS_USER(wrong_descriptors),
        HARNESS_USER(disappear),
        HARNESS_USER(silence),
        HARNESS_USER(strangers),
        HARNESS_USER(killed_while_merging),
        HARNESS_USER(stopped),
        HARNESS_USER(wrong_results),
        HARNESS_USER(unregister_and_hang),
        HARNESS_USER(floods),
        HARNESS_USER(many_registrations),
        HARNESS_USER(lies),
        HARNESS_USER(blocking_contexts),
        HARNESS_USER(replaced_memory),
};

HARNESS_MAIN(tests)
