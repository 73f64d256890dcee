/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libwp: events. */

#include "libwp/client.h"

wp_export int wp_event_fd(struct wp_client *client)
{
        int r = client_check(client);

        return r < 0 ? r : client->event_fd;
}

void client_tell(struct wp_client *client, const struct queue_event *event)
{
        int written;

        pthread_mutex_lock(&client->queue_lock);
        written = queue_push(&client->producer, event);
        pthread_mutex_unlock(&client->queue_lock);
        if (written)
                client_ring(client->event_fd);
}

/*
 * The bell is silent when the queue is empty, and rings while an event waits. It is silenced before the queue
 * is looked at for the last time, so that an event that arrives in between is not missed.
 */
static int take_event(struct wp_client *client, struct queue_event *ret_event)
{
        int taken = queue_pop(client->queue, ret_event);

        if (!queue_empty(client->queue))
                return taken ? taken : queue_pop(client->queue, ret_event);
        client_silence(client->event_fd);
        if (!taken)
                taken = queue_pop(client->queue, ret_event);
        if (!queue_empty(client->queue))
                client_ring(client->event_fd);
        return taken;
}

wp_export int wp_next_event(struct wp_client *client, struct wp_event *ret_event)
{
        struct queue_event event;
        struct wp_region *region;
        int r = client_check(client);

        if (r < 0)
                return r;
        if (!ret_event)
                return client_fail(-EINVAL, "nowhere to put the event");
        pthread_mutex_lock(&client->lock);
        r = take_event(client, &event);
        region = r > 0 ? client_region_at(client, event.address) : NULL;
        pthread_mutex_unlock(&client->lock);
        /*
         * Not under the lock: the caller's memory may be merged, and whoever answers the fault may need the
         * lock.
         */
        if (r > 0) {
                *ret_event = (struct wp_event){
                        .type = event.type,
                        .flags = event.flags,
                        .address = event.address,
                        .length = event.length,
                        .time_ns = event.time_ns,
                        .tid = event.tid,
                        .region = region,
                };
        }
        return r;
}
