/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Account: each limit to the last unit, what root is exempt from, and that everything that was charged is given back. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "serve/account.h"
#include "tests/model/random.h"
#include "tests/unit/dedup/fail_alloc.h"
#include "util/bits.h"

#define USER  1000
#define OTHER 1001
#define MIB   (UINT64_C(1) << 20)

static const struct account_limits limits = {
        .max_clients = 8,
        .max_clients_per_uid = 3,
        .max_regions_per_client = 4,
        .max_bytes_per_uid = 10 * MIB,
};

static size_t n_users(const struct account *account)
{
        size_t n = 0;

        list_for_each(link, &account->users)
                n++;
        return n;
}

static struct account_user *charge(struct account *account, uid_t uid)
{
        struct account_user *user = NULL;
        const char *why = NULL;

        assert_int_equal(account_charge_client(account, uid, &user, &why), 0);
        assert_non_null(user);
        assert_null(why);
        return user;
}

/* Refused with a sentence that names the limit; nothing else changes. */
static void refuse(struct account *account, uid_t uid, const char *limit)
{
        struct account_user *user = (struct account_user *)account;
        const char *why = NULL;
        uint64_t n_clients = account->n_clients;

        assert_int_equal(account_charge_client(account, uid, &user, &why), -EDQUOT);
        assert_ptr_equal(user, account);
        assert_non_null(why);
        assert_non_null(strstr(why, limit));
        assert_int_equal(account->n_clients, n_clients);
}

static void charge_region(struct account *account, struct account_user *user, uint64_t n_regions,
                          uint64_t bytes)
{
        const char *why = NULL;

        assert_int_equal(account_charge_region(account, user, n_regions, bytes, &why), 0);
        assert_null(why);
}

static void refuse_region(struct account *account, struct account_user *user, uint64_t n_regions,
                          uint64_t bytes, const char *limit)
{
        const char *why = NULL;

        assert_int_equal(account_charge_region(account, user, n_regions, bytes, &why), -EDQUOT);
        assert_non_null(why);
        assert_non_null(strstr(why, limit));
}

/* One user's limit is no other's. */
static void test_clients_per_uid(void **state)
{
        struct account account;
        struct account_user *user, *other;

        account_init(&account, &limits);
        user = charge(&account, USER);
        assert_ptr_equal(charge(&account, USER), user);
        assert_ptr_equal(charge(&account, USER), user);
        refuse(&account, USER, "max_clients_per_uid");
        other = charge(&account, OTHER);
        assert_ptr_not_equal(other, user);
        assert_int_equal(n_users(&account), 2);
        assert_int_equal(account.n_clients, 4);

        account_release_client(&account, user);
        assert_ptr_equal(charge(&account, USER), user);
        refuse(&account, USER, "max_clients_per_uid");
        for (unsigned i = 0; i < 3; i++)
                account_release_client(&account, user);
        account_release_client(&account, other);
        assert_int_equal(account.n_clients, 0);
        assert_int_equal(n_users(&account), 0);
        account_deinit(&account);
}

/* Root has no limit of its own, but the total holds for root, too, and root's clients count in it. */
static void test_root_clients(void **state)
{
        struct account account;
        struct account_user *root = NULL;

        account_init(&account, &limits);
        for (unsigned i = 0; i < limits.max_clients; i++)
                root = charge(&account, 0);
        refuse(&account, 0, "max_clients ");
        refuse(&account, USER, "max_clients ");
        assert_int_equal(n_users(&account), 1); /* a user who was refused is not remembered */
        account_release_client(&account, root);
        account_release_client(&account, charge(&account, USER));
        charge(&account, 0);
        refuse(&account, USER, "max_clients ");
        account_deinit(&account);
        assert_int_equal(n_users(&account), 0);
}

static void test_regions(void **state)
{
        struct account account;
        struct account_user *users[2];

        account_init(&account, &limits);
        users[0] = charge(&account, USER);
        users[1] = charge(&account, 0);
        for (size_t i = 0; i < ARRAY_SIZE(users); i++) { /* root is not exempt */
                for (uint64_t n = 0; n < limits.max_regions_per_client; n++)
                        charge_region(&account, users[i], n, 1);
                refuse_region(&account, users[i], limits.max_regions_per_client, 1, "max_regions_per_client");
                refuse_region(&account, users[i], UINT64_MAX, 1, "max_regions_per_client");
        }
        account_deinit(&account);
}

/* All clients of a user together, to the byte; sums that would wrap are too much. */
static void test_bytes(void **state)
{
        struct account account;
        struct account_user *user, *other;

        account_init(&account, &limits);
        user = charge(&account, USER);
        charge(&account, USER);
        other = charge(&account, OTHER);
        refuse_region(&account, user, 0, 10 * MIB + 1, "max_bytes_per_uid");
        refuse_region(&account, user, 0, UINT64_MAX, "max_bytes_per_uid");
        charge_region(&account, user, 0, 4 * MIB);
        charge_region(&account, user, 0, 6 * MIB - 1);
        refuse_region(&account, user, 1, 2, "max_bytes_per_uid");
        refuse_region(&account, user, 1, UINT64_MAX, "max_bytes_per_uid");
        refuse_region(&account, user, 1, UINT64_MAX - 10 * MIB + 2, "max_bytes_per_uid");
        charge_region(&account, user, 1, 1);
        charge_region(&account, user, 1, 0);
        refuse_region(&account, user, 1, 1, "max_bytes_per_uid");
        charge_region(&account, other, 0, 10 * MIB);

        account_release_region(user, 6 * MIB - 1);
        charge_region(&account, user, 1, 6 * MIB - 1);
        refuse_region(&account, user, 1, 1, "max_bytes_per_uid");
        account_deinit(&account);
}

static void test_root_bytes(void **state)
{
        struct account account;
        struct account_user *root;

        account_init(&account, &limits);
        root = charge(&account, 0);
        charge_region(&account, root, 0, 10 * MIB + 1);
        charge_region(&account, root, 0, UINT64_C(1) << 46);
        account_release_region(root, UINT64_C(1) << 46);
        account_release_region(root, 10 * MIB + 1);
        account_release_client(&account, root);
        assert_int_equal(n_users(&account), 0);
}

/* Limits may be lowered below what is in use: nothing is taken away, nothing more is given. */
static void test_lowered(void **state)
{
        struct account account;
        struct account_user *user;

        account_init(&account, &limits);
        user = charge(&account, USER);
        charge(&account, USER);
        charge_region(&account, user, 0, 8 * MIB);
        account.limits.max_bytes_per_uid = MIB;
        account.limits.max_clients_per_uid = 1;
        account.limits.max_regions_per_client = 1;
        refuse_region(&account, user, 0, 1, "max_bytes_per_uid");
        refuse_region(&account, user, 0, UINT64_MAX, "max_bytes_per_uid");
        refuse_region(&account, user, 2, 1, "max_regions_per_client");
        refuse(&account, USER, "max_clients_per_uid");
        account.limits.max_clients = 1;
        refuse(&account, OTHER, "max_clients ");
        account_release_region(user, 8 * MIB);
        account_release_client(&account, user);
        account_release_client(&account, user);
        assert_int_equal(n_users(&account), 0);
        assert_int_equal(account.n_clients, 0);
}

static void test_no_memory(void **state)
{
        struct account account;
        struct account_user *user = NULL;
        const char *why = NULL;

        account_init(&account, &limits);
        fail_alloc = true;
        assert_int_equal(account_charge_client(&account, USER, &user, &why), -ENOMEM);
        fail_alloc = false;
        assert_null(user);
        assert_int_equal(account.n_clients, 0);
        assert_int_equal(n_users(&account), 0);
        user = charge(&account, USER);
        fail_alloc = true;
        assert_ptr_equal(charge(&account, USER), user); /* one who is known costs nothing */
        fail_alloc = false;
        account_deinit(&account);
}

/* Random sequences against clients that know themselves what they took. */
#define N_CLIENTS 12
#define N_UIDS    4
#define N_REGIONS 6

struct client {
        struct account_user *user; /* NULL: not connected */
        uid_t uid;
        uint64_t n_regions;
        uint64_t bytes[N_REGIONS];
};

struct model {
        struct account account;
        struct client clients[N_CLIENTS];
        struct random random;
        unsigned n_refused;
};

static uint64_t clients_of(const struct model *model, uid_t uid)
{
        uint64_t n = 0;

        for (size_t i = 0; i < N_CLIENTS; i++)
                n += model->clients[i].user && model->clients[i].uid == uid;
        return n;
}

static uint64_t bytes_of(const struct model *model, uid_t uid)
{
        uint64_t bytes = 0;

        for (size_t i = 0; i < N_CLIENTS; i++)
                for (size_t k = 0; k < model->clients[i].n_regions && model->clients[i].uid == uid; k++)
                        bytes += model->clients[i].bytes[k];
        return bytes;
}

static void model_connect(struct model *model, struct client *client)
{
        uid_t uid = (uid_t)random_below(&model->random, N_UIDS);
        uint64_t total = 0;
        const char *why;
        bool fits;

        for (uid_t i = 0; i < N_UIDS; i++)
                total += clients_of(model, i);
        fits = total < limits.max_clients && (!uid || clients_of(model, uid) < limits.max_clients_per_uid);
        assert_int_equal(account_charge_client(&model->account, uid, &client->user, &why),
                         fits ? 0 : -EDQUOT);
        client->uid = uid;
        client->n_regions = 0;
        model->n_refused += !fits;
        /* All clients of a user share one record. */
        for (size_t i = 0; fits && i < N_CLIENTS; i++)
                if (model->clients[i].user)
                        assert_int_equal(model->clients[i].user == client->user,
                                         model->clients[i].uid == uid);
}

static void model_register(struct model *model, struct client *client)
{
        uint64_t bytes = random_below(&model->random, 3 * MIB);
        const char *why;
        bool fits = client->n_regions < limits.max_regions_per_client &&
                    (!client->uid || bytes_of(model, client->uid) + bytes <= limits.max_bytes_per_uid);

        assert_int_equal(account_charge_region(&model->account, client->user, client->n_regions, bytes, &why),
                         fits ? 0 : -EDQUOT);
        model->n_refused += !fits;
        if (fits)
                client->bytes[client->n_regions++] = bytes;
}

static void model_unregister(struct model *model, struct client *client)
{
        uint64_t i = random_below(&model->random, client->n_regions);

        account_release_region(client->user, client->bytes[i]);
        client->bytes[i] = client->bytes[--client->n_regions];
}

static void model_disconnect(struct model *model, struct client *client)
{
        while (client->n_regions)
                model_unregister(model, client);
        account_release_client(&model->account, client->user);
        client->user = NULL;
}

static void model_check(const struct model *model)
{
        uint64_t n_clients = 0;
        size_t users = 0;

        for (uid_t uid = 0; uid < N_UIDS; uid++) {
                n_clients += clients_of(model, uid);
                users += clients_of(model, uid) > 0;
        }
        assert_int_equal(model->account.n_clients, n_clients);
        assert_int_equal(n_users(&model->account), users);
}

static void test_random(void **state)
{
        struct model model = {.random = RANDOM_INIT(1)};

        account_init(&model.account, &limits);
        for (unsigned i = 0; i < 50000; i++) {
                struct client *client = &model.clients[random_below(&model.random, N_CLIENTS)];
                uint64_t what = random_below(&model.random, 10);

                if (!client->user)
                        model_connect(&model, client);
                else if (what < 6)
                        model_register(&model, client);
                else if (what < 9 && client->n_regions)
                        model_unregister(&model, client);
                else
                        model_disconnect(&model, client);
                model_check(&model);
        }
        assert_true(model.n_refused > 1000);
        for (size_t i = 0; i < N_CLIENTS; i++)
                if (model.clients[i].user)
                        model_disconnect(&model, &model.clients[i]);
        model_check(&model);
        assert_true(list_empty(&model.account.users));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_clients_per_uid), cmocka_unit_test(test_root_clients),
                cmocka_unit_test(test_regions),         cmocka_unit_test(test_bytes),
                cmocka_unit_test(test_root_bytes),      cmocka_unit_test(test_lowered),
                cmocka_unit_test(test_no_memory),       cmocka_unit_test(test_random),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
