/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The daemon is stopped, ends and comes back: programs do not wait, their merges survive, and they are merged on. */

#include <signal.h>

#include "system/pair.h"

#define N_PAGES  1024
#define NOTIFIED (WP_MERGE | WP_NOTIFY)

static uint64_t alone(long program, uint64_t page)
{
        return 100000 + page;
}

static void both(struct pair *pair, program_function function, long a, long b, long c)
{
        for (long i = 0; i < 2; i++)
                client_begin(&pair->clients[i], function, a, b, c);
        for (long i = 0; i < 2; i++)
                CHECK_OK(client_finish(&pair->clients[i]));
        pair_verify(pair);
}

static void replace_daemon(struct pair *pair, int signal)
{
        service_end(&pair->service, signal);
        both(pair, program_await_event, WP_EVENT_DISCONNECTED, 0, 0);
        both(pair, program_use, 0, 3, 0);
        service_restart(&pair->service);
        both(pair, program_await_event, WP_EVENT_RECONNECTED, 0, 0);
        CHECK_SOON(service_figure(&pair->service, "regions") == 2, "%lld regions",
                   (long long)service_figure(&pair->service, "regions"));
}

/* Nobody kept the pool: what was merged stays so, is accounted for, and fades out. */
static void without_store(uid_t uid)
{
        int64_t foreign;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        replace_daemon(&pair, SIGKILL);
        foreign = service_figure(&pair.service, "pages_foreign");
        CHECK(foreign > N_PAGES && foreign < 2 * N_PAGES, "%lld pages of the pool before",
              (long long)foreign);
        CHECK(service_doctor_says(&pair.service, pair.clients[0].pid, "foreign"), "doctor does not say so");
        both(&pair, program_use, 0, 7, 0);
        both(&pair, program_use_forks, 0, 8, 0);
        CHECK_SOON((service_scan(&pair.service), service_figure(&pair.service, "pages_foreign") < foreign),
                   "none of them fades out");
        replace_daemon(&pair, SIGTERM);
        /* Registered anew, what still is of that pool becomes ordinary memory, and is merged. */
        both(&pair, program_unregister, 0, 0, 0);
        both(&pair, program_register, 0, NOTIFIED, 0);
        CHECK(!service_figure(&pair.service, "pages_foreign"), "%lld pages of earlier pools",
              (long long)service_figure(&pair.service, "pages_foreign"));
        CHECK_SOON((service_scan(&pair.service), service_figure(&pair.service, "pages_sharing") > 0),
                   "nothing is merged again");
        pair_verify(&pair);
        pair_end(&pair);
}

/* The service manager kept the pool: the new daemon knows what is merged without merging anything. */
static void with_store(uid_t uid)
{
        static const int signals[] = {SIGKILL, SIGTERM, SIGKILL};
        int64_t sharing;
        struct fd_store store;
        struct pair pair;

        CHECK_OK(fd_store_open(&store, harness_directory()));
        service_start_stored(&pair.service, NULL, &store);
        pair_join(&pair, uid, N_PAGES, NOTIFIED);
        for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
                service_set(&pair.service, "max_cpu_percent", "100");
                replace_daemon(&pair, signals[i]);
                service_scan(&pair.service);
                sharing = service_figure(&pair.service, "pages_sharing");
                CHECK(sharing > N_PAGES / 2, "only %lld pages are shared still", (long long)sharing);
                CHECK(!service_figure(&pair.service, "merges"), "%lld pages were merged again",
                      (long long)service_figure(&pair.service, "merges"));
                CHECK(!service_figure(&pair.service, "pages_foreign"), "the pool is not known");
                both(&pair, program_use_forks, 0, 4 + (long)i, 0);
        }
        /* New memory shares the pages of the pool that was taken over. */
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair.clients[i], program_map, 1, N_PAGES, (long)pair_content));
                CHECK_OK(client_do(&pair.clients[i], program_register, 1, WP_MERGE, 0));
        }
        CHECK_SOON((service_scan(&pair.service),
                    client_do(&pair.clients[1], program_stat, 1, PROGRAM_STAT(pages_merged), 0) == N_PAGES),
                   "the new memory is not merged");
        for (long i = 0; i < 2; i++) {
                client_do(&pair.clients[i], program_verify, 1, 0, 0);
                CHECK_OK(client_do(&pair.clients[i], program_unregister, 1, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_unmap, 1, 0, 0));
        }
        pair_end(&pair);
        CHECK_OK(fd_store_collect(&store));
        CHECK(store.n == 2, "%u pools are kept, of two users", store.n);
        fd_store_close(&store);
}

/* Clients that ended while there was no daemon leave nothing in the pool. */
static void clients_gone_meanwhile(uid_t uid)
{
        struct fd_store store;
        struct pair pair;

        CHECK_OK(fd_store_open(&store, harness_directory()));
        service_start_stored(&pair.service, NULL, &store);
        pair_join(&pair, uid, N_PAGES, NOTIFIED);
        service_end(&pair.service, SIGKILL);
        for (long i = 0; i < 2; i++)
                client_kill(&pair.clients[i]);
        service_restart(&pair.service);
        CHECK_SOON(!service_figure(&pair.service, "pages_retired"), "%lld pages of nobody stay",
                   (long long)service_figure(&pair.service, "pages_retired"));
        pair_join(&pair, uid, N_PAGES, NOTIFIED);
        pair_end(&pair);
        fd_store_close(&store);
}

/* What had settled under the daemon before, alone with its content, finds its like under the next. */
static void settled_before(uid_t uid)
{
        struct client late;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK_OK(client_do(&pair.clients[0], program_map, 1, N_PAGES, (long)alone));
        CHECK_OK(client_do(&pair.clients[0], program_register, 1, WP_MERGE, 0));
        CHECK_SOON((service_scan(&pair.service), service_figure(&pair.service, "pages_unshared") == N_PAGES),
                   "%lld pages have settled", (long long)service_figure(&pair.service, "pages_unshared"));
        service_end(&pair.service, SIGKILL);
        service_restart(&pair.service);
        client_start(&late, uid);
        CHECK_OK(client_do(&late, program_map, 1, N_PAGES, (long)alone));
        CHECK_OK(client_do(&late, program_connect, (long)pair.service.client_path, 0, 0));
        CHECK_OK(client_do(&late, program_register, 1, WP_MERGE, 0));
        CHECK_SOON((service_scan(&pair.service),
                    client_do(&late, program_stat, 1, PROGRAM_STAT(pages_merged), 0) == N_PAGES),
                   "%ld pages are merged", client_do(&late, program_stat, 1, PROGRAM_STAT(pages_merged), 0));
        client_do(&pair.clients[0], program_verify, 1, 0, 0);
        client_do(&late, program_verify, 1, 0, 0);
        client_kill(&late);
        for (long i = 0; i < 2; i++)
                client_kill(&pair.clients[i]);
        service_stop(&pair.service);
}

/* What the program excluded stays so, without a daemon and with another one. */
static void exclusions(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        CHECK_OK(client_do(&pair.clients[0], program_exclude, 0, 100, 50));
        service_end(&pair.service, SIGKILL);
        both(&pair, program_await_event, WP_EVENT_DISCONNECTED, 0, 0);
        CHECK_OK(client_do(&pair.clients[0], program_exclude, 0, 200, 50));
        CHECK_OK(client_do(&pair.clients[0], program_include, 0, 125, 25));
        pair_verify(&pair);
        service_restart(&pair.service);
        both(&pair, program_await_event, WP_EVENT_RECONNECTED, 0, 0);
        CHECK_SOON(service_figure(&pair.service, "regions") == 2, "%lld regions",
                   (long long)service_figure(&pair.service, "regions"));
        CHECK_SOON(client_do(&pair.clients[0], program_stat, 0, PROGRAM_STAT(pages_excluded), 0) == 75,
                   "%ld pages are excluded",
                   client_do(&pair.clients[0], program_stat, 0, PROGRAM_STAT(pages_excluded), 0));
        pair_end(&pair);
}

/* A stopped daemon is not missed: writing, discarding and forking go on, in children, too. */
static void stopped(uid_t uid)
{
        struct client child;
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
        client_fork(&pair.clients[0], &child);
        CHECK_OK(error_from(kill(pair.service.pid, SIGSTOP)));
        both(&pair, program_use, 0, 1, 0);
        both(&pair, program_use_forks, 0, 2, 0);
        CHECK_OK(client_do(&child, program_use, 0, 3, 0));
        client_do(&child, program_verify, 0, 0, 0);
        CHECK_OK(error_from(kill(pair.service.pid, SIGCONT)));
        client_stop_child(&pair.clients[0], &child);
        pair_end(&pair);
}

/* A client that is stopped, or gone, delays nobody: the daemon serves its children. */
static void parent_away(uid_t uid)
{
        struct client child;
        struct pair pair;

        for (int gone = 0; gone < 2; gone++) {
                pair_begin(&pair, uid, NULL, N_PAGES, NOTIFIED);
                client_fork(&pair.clients[0], &child);
                if (gone)
                        client_kill(&pair.clients[0]);
                else
                        CHECK_OK(error_from(kill(pair.clients[0].pid, SIGSTOP)));
                CHECK_OK(client_do(&child, program_use, 0, 3, 0));
                CHECK_OK(client_do(&child, program_use_forks, 0, 4, 0));
                client_do(&child, program_verify, 0, 0, 0);
                CHECK_OK(client_do(&pair.clients[1], program_use, 0, 5, 0));
                if (!gone)
                        CHECK_OK(error_from(kill(pair.clients[0].pid, SIGCONT)));
                service_end(&pair.service, SIGKILL);
                client_do(&child, program_verify, 0, 0, 0);
                if (gone)
                        client_stop(&child);
                else
                        client_stop_child(&pair.clients[0], &child);
                for (long i = gone; i < 2; i++)
                        client_kill(&pair.clients[i]);
        }
}

static const struct harness_test tests[] = {
        HARNESS_USER(without_store),  HARNESS_BOTH(with_store), HARNESS_USER(clients_gone_meanwhile),
        HARNESS_USER(settled_before), HARNESS_USER(exclusions), HARNESS_USER(stopped),
        HARNESS_USER(parent_away),
};

HARNESS_MAIN(tests)
