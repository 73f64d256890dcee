/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What is merged: exactly the identical pages, and no byte changes. */

#include <stdlib.h>

#include "system/harness.h"
#include "system/program.h"
#include "system/service.h"

#define MEGABYTE_PAGES ((long)((1 << 20) / PAGE_BYTES))
#define RUN            64
#define TOLERANCE      50 /* of the saving, that the figures may differ: 1 / 50 */
#define MAX_CLIENTS    3
#define WARM_PAGES     (3 * 512)
/* What the daemon may take once, when it needs it first. A sanitizer keeps for a while what was freed. */
#ifdef WPD_SANITIZER
#define BUFFER_BYTES ((long)3 << 21)
#else
#define BUFFER_BYTES ((long)3 << 19)
#endif

static uint64_t unique(long program, uint64_t page)
{
        return (uint64_t)(program + 1) << 32 | (page + 1);
}

static uint64_t identical(long program, uint64_t page)
{
        return page + 1;
}

/* Runs of 64 pages, in turn identical and unique. */
static uint64_t half_identical(long program, uint64_t page)
{
        return page / RUN % 2 ? unique(program, page) : identical(program, page);
}

static uint64_t zeros(long program, uint64_t page)
{
        return PAGE_OF_ZEROS;
}

#define N_DISTINCT 256

/* The same 256 pages over and over. */
static uint64_t repeated(long program, uint64_t page)
{
        return page % N_DISTINCT + 1;
}

/* Every third page zeros, every third identical, every third unique. */
static uint64_t mixed(long program, uint64_t page)
{
        return page % 3 == 0   ? PAGE_OF_ZEROS
               : page % 3 == 1 ? identical(program, page)
                               : unique(program, page);
}

struct scene {
        struct service service;
        struct client clients[MAX_CLIENTS];
        long n_clients;
        long n_pages;
        uint64_t pss; /* of the clients, and of the daemon, before */
        uint64_t own_pss;
};

static uint64_t clients_pss(const struct scene *scene)
{
        uint64_t sum = 0;

        for (long i = 0; i < scene->n_clients; i++)
                sum += service_pss(scene->clients[i].pid);
        return sum;
}

/*
 * What the first merge costs once - buffers of the daemon, stacks and tables of the library - is not what is
 * measured: it is spent before, on memory that is gone again.
 */
static void warm_up(const struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++) {
                CHECK_OK(client_do(&scene->clients[i], program_map, 1, WARM_PAGES, (long)mixed));
                CHECK_OK(client_do(&scene->clients[i], program_register, 1, WP_MERGE, 0));
        }
        service_settle(&scene->service, "zero_pages", scene->n_clients * WARM_PAGES / 3);
        for (long i = 0; i < scene->n_clients; i++) {
                CHECK_OK(client_do(&scene->clients[i], program_unregister, 1, 0, 0));
                CHECK_OK(client_do(&scene->clients[i], program_unmap, 1, 0, 0));
        }
}

static void begin(struct scene *scene, uid_t uid, const char *config, long n_clients, long n_pages,
                  page_content content)
{
        *scene = (struct scene){.n_clients = n_clients, .n_pages = n_pages};
        service_start(&scene->service, config);
        for (long i = 0; i < n_clients; i++) {
                client_start(&scene->clients[i], uid);
                client_name(&scene->clients[i], i);
                CHECK_OK(client_do(&scene->clients[i], program_map, 0, n_pages, (long)content));
                CHECK_OK(client_do(&scene->clients[i], program_connect, (long)scene->service.client_path, 0,
                                   0));
        }
        warm_up(scene);
        scene->pss = clients_pss(scene);
        scene->own_pss = service_pss(scene->service.pid);
}

static void enlist(const struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++)
                CHECK_OK(client_do(&scene->clients[i], program_register, 0, WP_MERGE, 0));
}

static void verify(const struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++)
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
}

static long stat_of(const struct scene *scene, long client, long member)
{
        return client_do(&scene->clients[client], program_stat, 0, member, 0);
}

static void check_stat(const struct scene *scene, long merged, long zero)
{
        for (long i = 0; i < scene->n_clients; i++) {
                long seen_merged = stat_of(scene, i, PROGRAM_STAT(pages_merged));
                long seen_zero = stat_of(scene, i, PROGRAM_STAT(pages_zero));
                long pages = stat_of(scene, i, PROGRAM_STAT(pages));
                long resident = stat_of(scene, i, PROGRAM_STAT(pages_resident));

                CHECK(seen_merged == merged, "client %ld: %ld pages merged instead of %ld", i, seen_merged,
                      merged);
                CHECK(seen_zero == zero, "client %ld: %ld pages zero instead of %ld", i, seen_zero, zero);
                CHECK(pages == scene->n_pages && resident == pages - zero,
                      "client %ld: %ld pages, %ld resident", i, pages, resident);
        }
}

static void check_figure(const struct scene *scene, const char *name, long value)
{
        long figure = (long)service_figure(&scene->service, name);

        CHECK(figure == value, "%s is %ld instead of %ld", name, figure, value);
}

/* The clients save what they share, and the daemon spends what it says. */
static void check_saving(const struct scene *scene, long saved_pages)
{
        long expected = saved_pages * (long)PAGE_BYTES;
        long metadata = (long)service_figure(&scene->service, "metadata_bytes");
        long own = (long)service_pss(scene->service.pid) - (long)scene->own_pss;
        long fallen = (long)scene->pss - (long)clients_pss(scene);

        CHECK(labs(fallen - expected) <= expected / TOLERANCE,
              "the clients' PSS fell by %ld KiB instead of %ld KiB", fallen >> 10, expected >> 10);
        CHECK(own <= metadata + BUFFER_BYTES,
              "the daemon's PSS grew by %ld KiB, of which %ld KiB are metadata", own >> 10, metadata >> 10);
}

/* Gives everything back: the memory is private again, and holds what it held. */
static void end(struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++) {
                CHECK_OK(client_do(&scene->clients[i], program_unregister, 0, 0, 0));
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
        }
        check_figure(scene, "pages_shared", 0);
        check_figure(scene, "pages_sharing", 0);
        check_figure(scene, "regions", 0);
        verify(scene);
        for (long i = 0; i < scene->n_clients; i++) {
                CHECK_OK(client_do(&scene->clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&scene->clients[i], program_disconnect, 0, 0, 0));
                client_stop(&scene->clients[i]);
        }
        service_stop(&scene->service);
}

static void two_half_identical(uid_t uid)
{
        long n_pages = 64 * MEGABYTE_PAGES;
        struct scene scene;

        begin(&scene, uid, NULL, 2, n_pages, half_identical);
        enlist(&scene);
        verify(&scene);
        service_settle(&scene.service, "pages_sharing", n_pages / 2);
        check_figure(&scene, "pages_shared", n_pages / 2);
        check_figure(&scene, "pages_unshared", n_pages);
        check_figure(&scene, "zero_pages", 0);
        check_figure(&scene, "bytes_registered", 2 * n_pages * (long)PAGE_BYTES);
        check_stat(&scene, n_pages / 2, 0);
        check_saving(&scene, n_pages / 2);
        verify(&scene);
        end(&scene);
}

static void three_identical(uid_t uid)
{
        long n_pages = 16 * MEGABYTE_PAGES;
        struct scene scene;

        begin(&scene, uid, NULL, 3, n_pages, identical);
        enlist(&scene);
        service_settle(&scene.service, "pages_sharing", 2 * n_pages);
        check_figure(&scene, "pages_shared", n_pages);
        check_figure(&scene, "pages_unshared", 0);
        check_stat(&scene, n_pages, 0);
        check_saving(&scene, 2 * n_pages);
        verify(&scene);
        end(&scene);
}

static void all_zeros(uid_t uid)
{
        long n_pages = 16 * MEGABYTE_PAGES;
        struct scene scene;

        begin(&scene, uid, NULL, 2, n_pages, zeros);
        enlist(&scene);
        service_settle(&scene.service, "zero_pages", 2 * n_pages);
        check_figure(&scene, "pages_shared", 0);
        check_figure(&scene, "pages_sharing", 0);
        check_stat(&scene, 0, n_pages);
        check_saving(&scene, 2 * n_pages);
        verify(&scene);
        end(&scene);
}

static void zeros_as_pages(uid_t uid)
{
        long n_pages = MEGABYTE_PAGES;
        struct scene scene;

        begin(&scene, uid, NULL, 2, n_pages, zeros);
        service_set(&scene.service, "use_zero_pages", "no");
        enlist(&scene);
        service_settle(&scene.service, "pages_sharing", 2 * n_pages - 1);
        check_figure(&scene, "pages_shared", 1);
        check_figure(&scene, "zero_pages", 0);
        check_stat(&scene, n_pages, 0);
        verify(&scene);
        end(&scene);
}

static void duplicates_within(uid_t uid)
{
        long n_pages = 8 * MEGABYTE_PAGES;
        struct scene scene;

        begin(&scene, uid, NULL, 1, n_pages, repeated);
        enlist(&scene);
        service_settle(&scene.service, "pages_sharing", n_pages - N_DISTINCT);
        check_figure(&scene, "pages_shared", N_DISTINCT);
        check_stat(&scene, n_pages, 0);
        check_saving(&scene, n_pages - N_DISTINCT);
        verify(&scene);
        end(&scene);
}

static void mixed_contents(uid_t uid)
{
        long n_pages = 3 * 512;
        struct scene scene;

        begin(&scene, uid, NULL, 2, n_pages, mixed);
        enlist(&scene);
        service_settle(&scene.service, "pages_sharing", n_pages / 3);
        service_settle(&scene.service, "zero_pages", 2 * n_pages / 3);
        check_figure(&scene, "pages_shared", n_pages / 3);
        check_figure(&scene, "pages_unshared", 2 * n_pages / 3);
        check_stat(&scene, n_pages / 3, n_pages / 3);
        verify(&scene);
        end(&scene);
}

static void min_run_pages(uid_t uid)
{
        long n_pages = 3 * 512;
        struct scene scene;

        begin(&scene, uid, "[merge]\nmin_run_pages = 2\n", 2, n_pages, mixed);
        enlist(&scene);
        service_settle(&scene.service, "zero_pages", 2 * n_pages / 3);
        check_figure(&scene, "pages_sharing", 0);
        check_figure(&scene, "pages_shared", 0);
        verify(&scene);
        end(&scene);
}

/* Pages of one user are not merged with those of another. */
static void trust_domains(uid_t uid)
{
        long n_pages = MEGABYTE_PAGES;
        struct scene scene;
        struct client other;

        begin(&scene, uid, NULL, 2, n_pages, identical);
        enlist(&scene);
        client_start(&other, 0);
        CHECK_OK(client_do(&other, program_map, 0, n_pages, (long)identical));
        CHECK_OK(client_do(&other, program_connect, (long)scene.service.client_path, 0, 0));
        CHECK_OK(client_do(&other, program_register, 0, WP_MERGE, 0));
        service_settle(&scene.service, "pages_sharing", n_pages);
        check_stat(&scene, n_pages, 0);
        CHECK(client_do(&other, program_stat, 0, PROGRAM_STAT(pages_merged), 0) == 0,
              "root's pages were merged");
        client_do(&other, program_verify, 0, 0, 0);
        client_stop(&other);
        end(&scene);
}

/* Without WP_MERGE memory is left alone. */
static void not_asked_for(uid_t uid)
{
        long n_pages = MEGABYTE_PAGES, scanned;
        struct scene scene;

        begin(&scene, uid, NULL, 2, n_pages, identical);
        scanned = (long)service_figure(&scene.service, "pages_scanned");
        for (long i = 0; i < scene.n_clients; i++)
                CHECK_OK(client_do(&scene.clients[i], program_register, 0, 0, 0));
        service_settle(&scene.service, "pages_sharing", 0);
        check_figure(&scene, "pages_scanned", scanned);
        verify(&scene);
        CHECK(service_doctor_says(&scene.service, scene.clients[0].pid, "WP_MERGE"),
              "doctor does not say why");
        end(&scene);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(two_half_identical), HARNESS_BOTH(three_identical),   HARNESS_BOTH(all_zeros),
        HARNESS_USER(zeros_as_pages),     HARNESS_BOTH(duplicates_within), HARNESS_USER(mixed_contents),
        HARNESS_USER(min_run_pages),      HARNESS_USER(trust_domains),     HARNESS_USER(not_asked_for),
};

HARNESS_MAIN(tests)
