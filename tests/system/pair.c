/* SPDX-License-Identifier: GPL-2.0-or-later */

/* A daemon and two clients whose pages are merged. */

#include "system/pair.h"

uint64_t pair_content(long program, uint64_t page)
{
        return page + 1;
}

void pair_join(struct pair *pair, uid_t uid, long n_pages, uint64_t flags)
{
        int64_t before = service_figure(&pair->service, "pages_sharing");

        pair->n_pages = n_pages;
        for (long i = 0; i < 2; i++) {
                client_start(&pair->clients[i], uid);
                client_name(&pair->clients[i], i);
                CHECK_OK(client_do(&pair->clients[i], program_map, 0, n_pages, (long)pair_content));
                CHECK_OK(
                        client_do(&pair->clients[i], program_connect, (long)pair->service.client_path, 0, 0));
                CHECK_OK(client_do(&pair->clients[i], program_register, 0, (long)flags, 0));
        }
        service_settle(&pair->service, "pages_sharing", before + n_pages);
        pair_verify(pair);
}

void pair_begin(struct pair *pair, uid_t uid, const char *config, long n_pages, uint64_t flags)
{
        service_start(&pair->service, config);
        pair_join(pair, uid, n_pages, flags);
}

void pair_verify(const struct pair *pair)
{
        for (long i = 0; i < 2; i++)
                client_do(&pair->clients[i], program_verify, 0, 0, 0);
}

void pair_leave(struct pair *pair, bool lingering)
{
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair->clients[i], program_unregister, 0, 0, 0));
                client_do(&pair->clients[i], program_verify, 0, 0, 0);
                CHECK_OK(client_do(&pair->clients[i], program_unmap, 0, 0, 0));
                CHECK_OK(client_do(&pair->clients[i], program_disconnect, lingering, 0, 0));
                client_stop(&pair->clients[i]);
        }
}

void pair_end(struct pair *pair)
{
        pair_leave(pair, false);
        service_stop(&pair->service);
}
