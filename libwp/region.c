/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* libwp: regions. */

#include "libwp/client.h"

#include <errno.h>
#include <string.h>

#define MERGE_BYTES ((size_t)256 << 20)

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

int region_check_range(struct wp_region *region, size_t offset, size_t length)
{
        int r = region_check(region);

        if (r < 0)
                return r;
        if (!length || !page_aligned(offset) || !page_aligned(length))
                return client_fail(-EINVAL, "offset and length must be whole pages, and not empty");
        if (offset > region->length || length > region->length - offset)
                return client_fail(-EINVAL, "the range leaves the region");
        return 0;
}

/* Asks about a range of a region; -ENOTCONN also while a new daemon does not know the region yet. */
int region_call(struct wp_region *region, enum wire_type type, size_t offset, size_t length,
                struct wire_reply *ret_reply)
{
        struct wire_range message = {.offset = offset, .length = length};
        struct wp_client *client = region->client;
        bool joined;

        pthread_mutex_lock(&client->lock);
        joined = region->joined;
        message.region = region->id;
        pthread_mutex_unlock(&client->lock);
        if (!joined)
                return client_fail(-ENOTCONN, "the daemon is gone; the memory is intact");
        wire_init(&message, type, sizeof(message), 0);
        return client_call(client, &message.header, ret_reply);
}

static struct wp_region *region_take(struct wp_client *client, uintptr_t start, size_t length, uint64_t flags)
{
        struct wp_region *region = NULL;

        pthread_mutex_lock(&client->lock);
        for (uint32_t i = 0; i < client->n_regions && !region; i++)
                if (!client->regions[i].client)
                        region = &client->regions[i];
        if (!region && client->n_regions < CLIENT_MAX_REGIONS)
                region = &client->regions[client->n_regions++];
        if (region)
                *region = (struct wp_region){
                        .client = client, .start = start, .length = length, .flags = flags};
        pthread_mutex_unlock(&client->lock);
        return region;
}

static size_t excluded_bytes(const struct wp_region *region)
{
        return BITMAP_WORDS(region->length / PAGE_BYTES) * sizeof(uint64_t);
}

static void region_drop(struct wp_client *client, struct wp_region *region)
{
        protect_forget(client, region);
        pthread_mutex_lock(&client->running);
        filerun_forget(region);
        pthread_mutex_unlock(&client->running);
        pthread_mutex_lock(&client->lock);
        client_unmap((void *)region->excluded, excluded_bytes(region));
        *region = (struct wp_region){.client = NULL};
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
        if (flags & ~(WP_MERGE | WP_NOTIFY | WP_LAZY | WP_EXEC))
                return client_fail(-EINVAL, "unknown flags");
        if ((flags & WP_NOTIFY) && (flags & WP_LAZY))
                return client_fail(-EINVAL, "WP_NOTIFY and WP_LAZY contradict each other");
        if (maps_have_policy((uintptr_t)addr, (uintptr_t)addr + length))
                message.flags |= WIRE_REGISTER_POLICY;
        region = region_take(client, (uintptr_t)addr, length, flags);
        if (!region)
                return client_fail(-EDQUOT, "too many regions in this process");
        wire_init(&message, WIRE_REGISTER, sizeof(message), 0);
        r = client_call(client, &message.header, &reply);
        if (r < 0) {
                region_drop(client, region);
                return r;
        }
        pthread_mutex_lock(&client->lock);
        region->id = reply.region;
        region->kept.flags = reply.stat[WIRE_REGISTERED_KEPT];
        region->file = (uint32_t)reply.stat[WIRE_REGISTERED_FILE];
        memcpy(region->kept.name, reply.detail, sizeof(region->kept.name) - 1);
        region->joined = client->connected;
        pthread_mutex_unlock(&client->lock);
        *ret_region = region;
        return 0;
}

int region_run_errand(struct wp_region *region, enum client_errand_kind kind, size_t offset, size_t length)
{
        return client_run_errand(region->client, &(struct client_errand){.kind = kind,
                                                                         .region = region,
                                                                         .start = region->start + offset,
                                                                         .length = length});
}

/*
 * From now on the agent merges nothing of it, and no new daemon is told of it. One that was told already has to answer first:
 * it knows the region, and must forget it before the program can register the memory again.
 */
static void begin_leaving(struct wp_region *region)
{
        struct wp_client *client = region->client;

        pthread_mutex_lock(&client->lock);
        region->leaving = true;
        while (region->serial)
                pthread_cond_wait(&client->changed, &client->lock);
        pthread_mutex_unlock(&client->lock);
}

/* It stays, and is to be known again. */
static void end_leaving(struct wp_region *region)
{
        struct wp_client *client = region->client;

        pthread_mutex_lock(&client->lock);
        region->leaving = false;
        pthread_mutex_unlock(&client->lock);
        atomic_store(&client->wishing, true);
        client_ring(client->agent_fd);
}

/* Without a daemon what is merged can be given back all the same. */
static int unregister_alone(struct wp_region *region)
{
        int r = region_run_errand(region, ERRAND_GIVE_BACK, 0, region->length);

        return r < 0 ? client_fail(r, "not enough memory to make the pages private") : 0;
}

wp_export int wp_unregister(struct wp_region *region)
{
        int r = region_check(region);

        if (r < 0)
                return r;
        begin_leaving(region);
        protect_leave(region);
        r = region_call(region, WIRE_UNREGISTER, 0, 0, NULL);
        if (r == -ENOTCONN)
                r = unregister_alone(region);
        if (r >= 0)
                region_drop(region->client, region);
        else
                end_leaving(region);
        return r;
}

/* Sets or clears the bits of a range. Called with the lock held; there is a bitmap. */
static void set_excluded(struct wp_region *region, size_t offset, size_t length, bool exclude)
{
        for (size_t page = offset / PAGE_BYTES; page < (offset + length) / PAGE_BYTES; page++) {
                uint64_t bit = UINT64_C(1) << (page % 64);

                if (exclude)
                        atomic_fetch_or(&region->excluded[page / 64], bit);
                else
                        atomic_fetch_and(&region->excluded[page / 64], ~bit);
        }
}

/*
 * The agent looks at these bits before it touches a page (run.c), whatever the daemon knows. *ret_before: what they were,
 * to be freed with client_unmap(); NULL: no page was excluded.
 */
static int mark_excluded(struct wp_region *region, size_t offset, size_t length, void **ret_before)
{
        struct wp_client *client = region->client;
        size_t bytes = excluded_bytes(region);
        void *fresh = client_map(bytes);

        if (!fresh)
                return client_fail(-ENOMEM, "out of memory");
        pthread_mutex_lock(&client->lock);
        if (region->excluded) {
                memcpy(fresh, (void *)region->excluded, bytes);
                *ret_before = fresh;
        } else {
                region->excluded = fresh;
                *ret_before = NULL;
        }
        set_excluded(region, offset, length, true);
        pthread_mutex_unlock(&client->lock);
        return 0;
}

static void restore_excluded(struct wp_region *region, size_t offset, size_t length, const void *before)
{
        const uint64_t *words = before;

        pthread_mutex_lock(&region->client->lock);
        for (size_t at = offset; at < offset + length; at += PAGE_BYTES)
                if (!words || !bitmap_get(words, at / PAGE_BYTES))
                        set_excluded(region, at, PAGE_BYTES, false);
        pthread_mutex_unlock(&region->client->lock);
}

static int may_exclude(struct wp_region *region, size_t offset, size_t length)
{
        int r = region_check_range(region, offset, length);

        if (r >= 0 && protect_touches(region->client, region->start + offset, length))
                r = client_fail(-EBUSY, "some of it is protected: release it first");
        return r;
}

/* What the daemon hears later, when there is one again (link.c), holds already. */
wp_export int wp_exclude(struct wp_region *region, size_t offset, size_t length)
{
        void *before = NULL;
        int r = may_exclude(region, offset, length);

        if (r >= 0)
                r = mark_excluded(region, offset, length, &before);
        if (r < 0)
                return r;
        r = region_call(region, WIRE_EXCLUDE, offset, length, NULL);
        if (r == -ENOTCONN)
                r = region_run_errand(region, ERRAND_GIVE_BACK, offset, length);
        if (r < 0)
                restore_excluded(region, offset, length, before);
        client_unmap(before, excluded_bytes(region));
        return r;
}

wp_export int wp_include(struct wp_region *region, size_t offset, size_t length)
{
        int r = may_exclude(region, offset, length);

        if (r >= 0)
                r = region_call(region, WIRE_INCLUDE, offset, length, NULL);
        if (r < 0 && r != -ENOTCONN)
                return r;
        pthread_mutex_lock(&region->client->lock);
        if (region->excluded)
                set_excluded(region, offset, length, false);
        pthread_mutex_unlock(&region->client->lock);
        return 0;
}

/* A piece of a range is a call of its own, so that the daemon answers in time. */
wp_export int wp_merge(struct wp_region *region, size_t offset, size_t length, struct wp_merge_stat *ret_stat)
{
        struct wp_merge_stat stat = {.pages_examined = 0};
        struct wire_reply reply;
        int r = region_check_range(region, offset, length);

        for (size_t bytes; length && r >= 0; offset += bytes, length -= bytes) {
                bytes = MIN(length, MERGE_BYTES);
                r = region_call(region, WIRE_MERGE, offset, bytes, &reply);
                if (r < 0)
                        break;
                stat.pages_examined += reply.stat[WIRE_MERGE_EXAMINED];
                stat.pages_merged += reply.stat[WIRE_MERGE_MERGED];
                stat.pages_zero += reply.stat[WIRE_MERGE_ZERO];
                stat.pages_failed += reply.stat[WIRE_MERGE_FAILED];
        }
        if (r >= 0 && ret_stat)
                *ret_stat = stat;
        return MIN(r, 0);
}

wp_export int wp_unmerge(struct wp_region *region, size_t offset, size_t length)
{
        int r = may_exclude(region, offset, length);

        if (r >= 0)
                r = region_call(region, WIRE_UNMERGE, offset, length, NULL);
        if (r == -ENOTCONN)
                r = region_run_errand(region, ERRAND_GIVE_BACK, offset, length);
        return r;
}

wp_export int wp_region_stat(struct wp_region *region, struct wp_region_stat *ret_stat)
{
        struct wire_reply reply;
        int r = region_check(region);

        if (r >= 0 && !ret_stat)
                r = client_fail(-EINVAL, "nowhere to put the figures");
        if (r >= 0)
                r = region_call(region, WIRE_STAT, 0, 0, &reply);
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
                .pages_protected = protect_count(region),
        };
        return 0;
}
