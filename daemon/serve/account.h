#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Account: what each user has taken of what is limited. Pure.
 *
 * Everything a client can make the daemon spend is charged here before it is spent, and given back when it is
 * gone. Root is not limited by user, only by the totals.
 */

#include <stdint.h>
#include <sys/types.h>

#include "util/error.h"
#include "util/list.h"

struct account_limits {
        uint64_t max_clients;
        uint64_t max_clients_per_uid;
        uint64_t max_regions_per_client;
        uint64_t max_bytes_per_uid;
};

struct account {
        struct account_limits limits;
        struct list users;
        uint64_t n_clients;
};

struct account_user;

void account_init(struct account *account, const struct account_limits *limits);
void account_deinit(struct account *account);

/* One client more: -EDQUOT with a sentence in *ret_why, or -ENOMEM. */
int account_charge_client(struct account *account, uid_t uid, struct account_user **ret_user,
                          const char **ret_why) wp_check;
void account_release_client(struct account *account, struct account_user *user);

/* One region more, for a client that has n_regions. */
int account_charge_region(struct account *account, struct account_user *user, uint64_t n_regions,
                          uint64_t bytes, const char **ret_why) wp_check;
void account_release_region(struct account_user *user, uint64_t bytes);
