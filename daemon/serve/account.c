/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Account: what each user has taken of what is limited. */

#include "serve/account.h"

#include <stdlib.h>

struct account_user {
        struct list link;
        uid_t uid;
        uint64_t n_clients;
        uint64_t bytes;
};

void account_init(struct account *account, const struct account_limits *limits)
{
        account->limits = *limits;
        account->n_clients = 0;
        list_init(&account->users);
}

void account_deinit(struct account *account)
{
        list_for_each_safe(link, next, &account->users)
                free(list_entry(link, struct account_user, link));
        list_init(&account->users);
}

static struct account_user *user_find(struct account *account, uid_t uid)
{
        list_for_each(link, &account->users)
                if (list_entry(link, struct account_user, link)->uid == uid)
                        return list_entry(link, struct account_user, link);
        return NULL;
}

static struct account_user *user_get(struct account *account, uid_t uid)
{
        struct account_user *user = user_find(account, uid);

        if (user)
                return user;
        user = calloc(1, sizeof(*user));
        if (!user)
                return NULL;
        user->uid = uid;
        list_append(&account->users, &user->link);
        return user;
}

int account_charge_client(struct account *account, uid_t uid, struct account_user **ret_user,
                          const char **ret_why)
{
        struct account_user *user;

        if (account->n_clients >= account->limits.max_clients) {
                *ret_why = "the daemon has as many clients as max_clients allows";
                return -EDQUOT;
        }
        user = user_get(account, uid);
        if (!user)
                return -ENOMEM;
        if (uid && user->n_clients >= account->limits.max_clients_per_uid) {
                *ret_why = "this user has as many clients as max_clients_per_uid allows";
                return -EDQUOT;
        }
        account->n_clients++;
        user->n_clients++;
        *ret_user = user;
        return 0;
}

void account_release_client(struct account *account, struct account_user *user)
{
        account->n_clients--;
        if (--user->n_clients || user->bytes)
                return;
        list_remove(&user->link);
        free(user);
}

int account_charge_region(struct account *account, struct account_user *user, uint64_t n_regions,
                          uint64_t bytes, const char **ret_why)
{
        if (n_regions >= account->limits.max_regions_per_client) {
                *ret_why = "this client has as many regions as max_regions_per_client allows";
                return -EDQUOT;
        }
        if (user->uid && (user->bytes > account->limits.max_bytes_per_uid ||
                          bytes > account->limits.max_bytes_per_uid - user->bytes)) {
                *ret_why = "this user would have more memory registered than max_bytes_per_uid allows";
                return -EDQUOT;
        }
        user->bytes += bytes;
        return 0;
}

void account_release_region(struct account_user *user, uint64_t bytes)
{
        user->bytes -= bytes;
}
