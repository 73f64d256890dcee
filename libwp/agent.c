/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The agent: the thread that changes the program's mappings
 *
 * It carries out what the daemon plans, batch by batch, and what the program asks for when there is no daemon. It
 * is the only reader of the socket and of guard. Guard is read between runs as well: a caller may have met the
 * guarded run and queue its event only now (trap T7). That goes on for as long as the client lives, daemon or not.
 */

#include "libwp/client.h"

#include <poll.h>
#include <string.h>
#include <time.h>

#include "util/clock.h"

/* How often it is looked after files. */
#define FILES_NS (2 * NSEC_PER_SEC)

static void handle_batch(struct wp_client *client, const struct wire_batch *batch)
{
        struct wire_result *result = (struct wire_result *)client->outbox;
        size_t size = sizeof(*result) + batch->n_runs * sizeof(result->runs[0]);

        memset(result, 0, size);
        wire_init(result, WIRE_RESULT, size, batch->header.serial);
        result->n_runs = batch->n_runs;
        for (uint32_t i = 0; i < batch->n_runs; i++)
                run_execute(client, &batch->runs[i], &result->runs[i]);
        client->link.result_bytes = size;
        link_flush(client);
}

/* ------------------------------------------------------------------ errands */

struct giving_back {
        struct wp_client *client;
        bool failed;
};

/* Gives back what is mapped from a pool in [start, end), in runs of the usual length. */
static int give_back_mapping(void *context, uintptr_t start, uintptr_t end)
{
        struct giving_back *giving_back = context;
        struct wire_run_result result;

        for (size_t bytes; start < end; start += bytes) {
                struct wire_run wire = {.kind = WIRE_RUN_UNMERGE, .address = start};

                bytes = MIN(end - start, WIRE_RUN_PAGES * PAGE_BYTES);
                wire.n_pages = (uint32_t)(bytes / PAGE_BYTES);
                memset(&result, 0, sizeof(result));
                run_execute(giving_back->client, &wire, &result);
                /* What is no longer there needs not be given back. */
                giving_back->failed |= result.error && result.error != -EFAULT && result.error != -EINVAL;
        }
        return 0;
}

static int give_back(struct wp_client *client, const struct client_errand *errand)
{
        struct giving_back giving_back = {.client = client};
        int r;

        if (errand->region->shadow)
                return filerun_give_back(client, errand->region, errand->start, errand->length);
        r = pools_walk(client, errand->start, errand->start + errand->length, give_back_mapping,
                       &giving_back);

        return r < 0 || giving_back.failed ? -ENOMEM : 0;
}

static void run_errand(struct wp_client *client)
{
        struct client_errand errand;

        pthread_mutex_lock(&client->lock);
        errand = client->errand;
        pthread_mutex_unlock(&client->lock);
        if (errand.state != ERRAND_WAITS)
                return;
        errand.error = errand.kind == ERRAND_GIVE_BACK ? give_back(client, &errand)
                                                       : protect_execute(client, &errand);
        errand.state = ERRAND_DONE;
        pthread_mutex_lock(&client->lock);
        client->errand = errand;
        pthread_cond_broadcast(&client->changed);
        pthread_mutex_unlock(&client->lock);
}

/* ------------------------------------------------------------------ the thread */

/* poll(2) in milliseconds, rounded up. */
static int timeout_until(uint64_t next_ns)
{
        uint64_t now_ns = clock_now();

        if (next_ns == UINT64_MAX)
                return -1;
        return next_ns <= now_ns ? 0 : (int)MIN((next_ns - now_ns) / NSEC_PER_MSEC + 1, (uint64_t)60000);
}

void *agent_main(void *argument)
{
        struct wp_client *client = argument;
        struct pollfd polled[] = {
                {.fd = client->agent_fd, .events = POLLIN},
                {.fd = -1, .events = POLLIN}, /* guard, once there is one */
                {.fd = -1, .events = POLLIN}, /* the socket, while it is connected */
        };

        uint64_t look_ns = 0;

        link_start(client);
        while (!atomic_load(&client->stopping)) {
                uint64_t now_ns = clock_now(), next_ns = link_tick(client, now_ns);

                if (client->n_files) {
                        if (now_ns >= look_ns) {
                                filerun_look_after(client);
                                look_ns = now_ns + FILES_NS;
                        }
                        next_ns = MIN(next_ns, look_ns);
                }

                polled[1].fd = client->contexts_ready ? client->context_fds[CONTEXT_GUARD] : -1;
                polled[2].fd = client->link.state == LINK_DOWN ? -1 : client->socket_fd;
                polled[2].events = (short)(POLLIN | (link_blocked(client) ? POLLOUT : 0));
                if (poll(polled, ARRAY_SIZE(polled), timeout_until(next_ns)) <= 0)
                        continue;
                if (polled[0].revents)
                        client_silence(client->agent_fd);
                if (polled[1].revents)
                        run_acknowledge(client);
                run_errand(client);
                if (atomic_exchange(&client->dropping, false))
                        link_drop(client);
                if (polled[2].revents & POLLOUT || atomic_exchange(&client->wishing, false))
                        link_flush(client);
                if (polled[2].revents & ~POLLOUT && link_receive(client))
                        handle_batch(client, (const struct wire_batch *)client->inbox);
        }
        return NULL;
}
