/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Several NUMA nodes: who shares with whom, and where what is shared lies. */

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "kernel/numa.h"
#include "system/program.h"
#include "system/service.h"

#define N_PAGES   256
#define N_CLIENTS 4

static uint64_t content(long program, uint64_t page)
{
        return page + 1;
}

/* The first two nodes with memory. */
static void find_nodes(int nodes[2])
{
        char list[64] = "", *end;

        if (numa_list(list, sizeof(list)) < 0)
                harness_skip("this kernel knows no NUMA nodes");
        nodes[0] = (int)strtol(list, &end, 10);
        if (!*end)
                harness_skip("this machine has one NUMA node");
        nodes[1] = *end == '-' ? nodes[0] + 1 : (int)strtol(end + 1, &end, 10);
}

/* a: the node that memory comes from from now on. */
static long prefer(struct program *program, long a, long b, long c)
{
        return numa_prefer((int)a);
}

/* a: area, b: node. How many of its pages lie there. */
static long count_on_node(struct program *program, long a, long b, long c)
{
        const struct area *area = &program->areas[a];
        uint64_t addresses[N_PAGES];
        int nodes[N_PAGES];
        long n = 0;

        for (size_t i = 0; i < N_PAGES; i++) {
                addresses[i] = (uintptr_t)area->memory + i * PAGE_BYTES;
                (void)*(volatile char *)(area->memory + i * PAGE_BYTES);
        }
        CHECK_OK(numa_of_pages(0, addresses, N_PAGES, nodes));
        for (size_t i = 0; i < N_PAGES; i++)
                n += nodes[i] == b;
        return n;
}

struct scene {
        struct service service;
        struct client clients[N_CLIENTS];
        int homes[N_CLIENTS];
        long n_clients;
};

/* One client more, all of whose memory lies on the node. */
static void join(struct scene *scene, uid_t uid, int node)
{
        struct client *client = &scene->clients[scene->n_clients];

        client_start(client, uid);
        client_name(client, scene->n_clients);
        CHECK_OK(client_do(client, prefer, node, 0, 0));
        CHECK_OK(client_do(client, program_map, 0, N_PAGES, (long)content));
        CHECK(client_do(client, count_on_node, 0, node, 0) == N_PAGES, "its memory lies elsewhere");
        CHECK_OK(client_do(client, program_connect, (long)scene->service.client_path, 0, 0));
        CHECK_OK(client_do(client, program_register, 0, WP_MERGE, 0));
        scene->homes[scene->n_clients++] = node;
}

static void check_homes(const struct scene *scene, long first, long end, const int *nodes)
{
        for (long i = first; i < end; i++) {
                int node = nodes ? nodes[0] : scene->homes[i];
                long n = client_do(&scene->clients[i], count_on_node, 0, node, 0);

                CHECK(n == N_PAGES, "%ld of %d pages of client %ld lie on node %d", n, N_PAGES, i, node);
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
        }
}

static void check_shared(const struct scene *scene, int64_t shared, int64_t sharing)
{
        service_settle(&scene->service, "pages_sharing", sharing);
        CHECK(service_figure(&scene->service, "pages_shared") == shared, "%lld pages are shared",
              (long long)service_figure(&scene->service, "pages_shared"));
}

static void end(struct scene *scene)
{
        for (long i = 0; i < scene->n_clients; i++) {
                CHECK_OK(client_do(&scene->clients[i], program_unregister, 0, 0, 0));
                client_do(&scene->clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&scene->clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&scene->clients[i], program_disconnect, 0, 0, 0));
                client_stop(&scene->clients[i]);
        }
        service_stop(&scene->service);
}

/* Each node has its own canonical pages, and whoever is alone on a node is not merged. */
static void within_node(uid_t uid)
{
        struct scene scene = {.n_clients = 0};
        int nodes[2];

        find_nodes(nodes);
        service_start(&scene.service, NULL);
        join(&scene, uid, nodes[0]);
        join(&scene, uid, nodes[1]);
        service_scan(&scene.service);
        check_shared(&scene, 0, 0);
        join(&scene, uid, nodes[1]);
        check_shared(&scene, N_PAGES, N_PAGES);
        check_homes(&scene, 0, 3, NULL);
        join(&scene, uid, nodes[0]);
        check_shared(&scene, 2 * N_PAGES, 2 * N_PAGES);
        check_homes(&scene, 0, 4, NULL);
        end(&scene);
}

/* All share one page, from the moment at which that is allowed. */
static void across_nodes(uid_t uid)
{
        struct scene scene = {.n_clients = 0};
        int nodes[2];

        find_nodes(nodes);
        service_start(&scene.service, NULL);
        join(&scene, uid, nodes[0]);
        join(&scene, uid, nodes[1]);
        service_scan(&scene.service);
        check_shared(&scene, 0, 0);
        service_set(&scene.service, "merge_across_nodes", "yes");
        check_shared(&scene, N_PAGES, N_PAGES);
        join(&scene, uid, nodes[0]);
        join(&scene, uid, nodes[1]);
        check_shared(&scene, N_PAGES, 3 * N_PAGES);
        for (long i = 0; i < 4; i++)
                client_do(&scene.clients[i], program_verify, 0, 0, 0);
        end(&scene);
}

/* What two share is hot; the third, of another node, gets a replica, which the fourth shares. */
static void replicas(uid_t uid)
{
        struct scene scene = {.n_clients = 0};
        int nodes[2];

        find_nodes(nodes);
        service_start(&scene.service, "[merge]\n"
                                      "merge_across_nodes = yes\n"
                                      "max_node_replicas = 2\n"
                                      "replica_min_sharers = 2\n");
        join(&scene, uid, nodes[0]);
        join(&scene, uid, nodes[0]);
        check_shared(&scene, N_PAGES, N_PAGES);
        join(&scene, uid, nodes[1]);
        service_scan(&scene.service);
        check_shared(&scene, 2 * N_PAGES, N_PAGES);
        join(&scene, uid, nodes[1]);
        check_shared(&scene, 2 * N_PAGES, 2 * N_PAGES);
        check_homes(&scene, 0, 4, NULL);
        end(&scene);
}

/* Nothing is hot: the pages of another node are shared. */
static void no_replicas(uid_t uid)
{
        struct scene scene = {.n_clients = 0};
        int nodes[2];

        find_nodes(nodes);
        service_start(&scene.service, "[merge]\n"
                                      "merge_across_nodes = yes\n"
                                      "max_node_replicas = 2\n"
                                      "replica_min_sharers = 3\n");
        join(&scene, uid, nodes[0]);
        join(&scene, uid, nodes[0]);
        check_shared(&scene, N_PAGES, N_PAGES);
        join(&scene, uid, nodes[1]);
        check_shared(&scene, N_PAGES, 2 * N_PAGES);
        check_homes(&scene, 0, 3, &nodes[0]);
        end(&scene);
}

/* A daemon that takes a pool over finds out on which node each page is. */
static void taken_over(uid_t uid)
{
        struct scene scene = {.n_clients = 0};
        struct fd_store store;
        int nodes[2];

        find_nodes(nodes);
        CHECK_OK(fd_store_open(&store, harness_directory()));
        service_start_stored(&scene.service, NULL, &store);
        for (long i = 0; i < 2; i++)
                join(&scene, uid, nodes[1]);
        check_shared(&scene, N_PAGES, N_PAGES);
        service_end(&scene.service, SIGKILL);
        service_restart(&scene.service);
        CHECK_SOON(service_figure(&scene.service, "regions") == 2, "%lld regions",
                   (long long)service_figure(&scene.service, "regions"));
        check_shared(&scene, N_PAGES, N_PAGES);
        join(&scene, uid, nodes[1]);
        check_shared(&scene, N_PAGES, 2 * N_PAGES);
        join(&scene, uid, nodes[0]);
        service_scan(&scene.service);
        check_shared(&scene, N_PAGES, 2 * N_PAGES);
        check_homes(&scene, 0, 4, NULL);
        end(&scene);
        fd_store_close(&store);
}

static const struct harness_test tests[] = {
        HARNESS_BOTH(within_node), HARNESS_USER(across_nodes), HARNESS_USER(replicas),
        HARNESS_USER(no_replicas), HARNESS_BOTH(taken_over),
};

HARNESS_MAIN(tests)
