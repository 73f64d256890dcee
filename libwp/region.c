/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libwp: regions. */

#include "libwp/client.h"

#include <errno.h>

static int region_check(struct wp_region *region)
{
        if (!region || !region->client)
                return client_fail(-EINVAL, "no such region");
        return client_check(region->client);
}

struct wp_region *client_region_at(struct wp_client *client, uintptr_t address)
{
        for (uint32_t i = 0; i < client->n_regions; i++) {
                struct wp_region *region = &client->regions[i];

                if (region->client && address - region->start < region->length)
                        return region;
        }
        return NULL;
}

static int range_check(struct wp_region *region, size_t offset, size_t length)
{
        if (!length || !page_aligned(offset) || !page_aligned(length))
                return client_fail(-EINVAL, "offset and length must be whole pages, and not empty");
        if (offset > region->length || length > region->length - offset)
                return client_fail(-EINVAL, "the range leaves the region");
        return 0;
}

/* Asks about a range of a region. */
static int range_call(struct wp_region *region, enum wire_type type, size_t offset, size_t length,
                      struct wire_reply *ret_reply)
{
        struct wire_range message = {.region = region->id, .offset = offset, .length = length};

        wire_init(&message, type, sizeof(message), 0);
        return client_call(region->client, &message.header, NULL, 0, ret_reply);
}

static struct wp_region *region_take(struct wp_client *client)
{
        struct wp_region *region = NULL;

        pthread_mutex_lock(&client->lock);
        for (uint32_t i = 0; i < client->n_regions && !region; i++)
                if (!client->regions[i].client)
                        region = &client->regions[i];
        if (!region && client->n_regions < CLIENT_MAX_REGIONS)
                region = &client->regions[client->n_regions++];
        if (region)
                *region = (struct wp_region){.client = client};
        pthread_mutex_unlock(&client->lock);
        return region;
}

static void region_drop(struct wp_client *client, struct wp_region *region)
{
        pthread_mutex_lock(&client->lock);
        region->client = NULL;
        pthread_mutex_unlock(&client->lock);
}

wp_export int wp_register(struct wp_client *client, void *addr, size_t length, uint64_t flags,
                          struct wp_region **ret_region)
{
        struct wire_register message = {.address = (uintptr_t)addr, .length = length, .flags = flags};
        struct wp_region *region;
        struct wire_reply reply;
        int r;

        r = client_check(client);
        if (r < 0)
                return r;
        if (!ret_region || !length || !page_aligned((uintptr_t)addr) || !page_aligned(length))
                return client_fail(-EINVAL, "address and length must be whole pages, and not empty");
        if ((uintptr_t)addr + length < (uintptr_t)addr)
                return client_fail(-EINVAL, "the range wraps around the end of the address space");
        if (flags & ~(WP_MERGE | WP_NOTIFY))
                return client_fail(-EINVAL, "unknown flags");
        region = region_take(client);
        if (!region)
                return client_fail(-EDQUOT, "too many regions in this process");
        wire_init(&message, WIRE_REGISTER, sizeof(message), 0);
        r = client_call(client, &message.header, NULL, 0, &reply);
        if (r < 0) {
                region_drop(client, region);
                return r;
        }
        pthread_mutex_lock(&client->lock);
        region->id = reply.region;
        region->start = (uintptr_t)addr;
        region->length = length;
        pthread_mutex_unlock(&client->lock);
        *ret_region = region;
        return 0;
}

wp_export int wp_unregister(struct wp_region *region)
{
        int r = region_check(region);

        if (r < 0)
                return r;
        r = range_call(region, WIRE_UNREGISTER, 0, 0, NULL);
        /* Without a daemon nobody merges it any more, and the watcher keeps what is merged right. */
        if (r == -ENOTCONN)
                r = 0;
        if (r >= 0)
                region_drop(region->client, region);
        return r;
}

wp_export int wp_exclude(struct wp_region *region, size_t offset, size_t length)
{
        int r = region_check(region);

        if (r >= 0)
                r = range_check(region, offset, length);
        return r < 0 ? r : range_call(region, WIRE_EXCLUDE, offset, length, NULL);
}

wp_export int wp_include(struct wp_region *region, size_t offset, size_t length)
{
        int r = region_check(region);

        if (r >= 0)
                r = range_check(region, offset, length);
        return r < 0 ? r : range_call(region, WIRE_INCLUDE, offset, length, NULL);
}

wp_export int wp_region_stat(struct wp_region *region, struct wp_region_stat *ret_stat)
{
        struct wire_reply reply;
        int r = region_check(region);

        if (r >= 0 && !ret_stat)
                r = client_fail(-EINVAL, "nowhere to put the figures");
        if (r >= 0)
                r = range_call(region, WIRE_STAT, 0, 0, &reply);
        if (r < 0)
                return r;
        *ret_stat = (struct wp_region_stat){
                .pages = reply.stat[WIRE_STAT_PAGES],
                .pages_resident = reply.stat[WIRE_STAT_RESIDENT],
                .pages_merged = reply.stat[WIRE_STAT_MERGED],
                .pages_zero = reply.stat[WIRE_STAT_ZERO],
                .pages_volatile = reply.stat[WIRE_STAT_VOLATILE],
                .pages_excluded = reply.stat[WIRE_STAT_EXCLUDED],
                .pages_refused = reply.stat[WIRE_STAT_REFUSED],
        };
        return 0;
}
