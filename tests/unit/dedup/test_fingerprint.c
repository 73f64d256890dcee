/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Fingerprints: zeros are zeros and nothing else is, the secret matters, and no page has fingerprint 0. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "dedup/fingerprint.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define SECRET_BYTES 192

_Alignas(64) static uint8_t page[PAGE_BYTES];

static void counting_secret(uint8_t secret[SECRET_BYTES])
{
        for (unsigned i = 0; i < SECRET_BYTES; i++)
                secret[i] = (uint8_t)i;
}

static void random_page(struct random *random)
{
        for (size_t i = 0; i < PAGE_BYTES; i++)
                page[i] = (uint8_t)random_next(random);
}

/* Every position, each of a byte's bits. */
static void test_zero(void **state)
{
        memset(page, 0, PAGE_BYTES);
        assert_true(fingerprint_zero(page));
        for (size_t i = 0; i < PAGE_BYTES; i++)
                for (unsigned bit = 0; bit < 8; bit++) {
                        page[i] = (uint8_t)(1U << bit);
                        assert_false(fingerprint_zero(page));
                        page[i] = 0;
                }
        assert_true(fingerprint_zero(page));
        /* Equal to itself shifted by one, but not zeros. */
        for (unsigned value = 1; value <= UINT8_MAX; value++) {
                memset(page, (int)value, PAGE_BYTES);
                assert_false(fingerprint_zero(page));
        }
}

/* What lies around the page plays no part. */
static void test_zero_reads_one_page(void **state)
{
        static uint8_t three[3 * PAGE_BYTES];

        memset(three, 0xff, sizeof(three));
        memset(three + PAGE_BYTES, 0, PAGE_BYTES);
        assert_true(fingerprint_zero(three + PAGE_BYTES));
        assert_false(fingerprint_zero(three + PAGE_BYTES - 1));
        assert_false(fingerprint_zero(three + PAGE_BYTES + 1));
}

/* A byte anywhere changes it, and changing the byte back restores it. */
static void test_content(void **state)
{
        uint8_t secret[SECRET_BYTES];
        struct random random = RANDOM_INIT(1);
        uint64_t fingerprint;

        counting_secret(secret);
        random_page(&random);
        fingerprint = fingerprint_page(page, secret, sizeof(secret));
        for (size_t i = 0; i < PAGE_BYTES; i++) {
                page[i] ^= (uint8_t)(1U << i % 8);
                assert_int_not_equal(fingerprint_page(page, secret, sizeof(secret)), fingerprint);
                page[i] ^= (uint8_t)(1U << i % 8);
        }
        assert_int_equal(fingerprint_page(page, secret, sizeof(secret)), fingerprint);
}

/* Neither the address nor the alignment of the page plays a part, nor what follows it. */
static void test_place(void **state)
{
        static uint8_t other[PAGE_BYTES + 64];
        uint8_t secret[SECRET_BYTES];
        struct random random = RANDOM_INIT(2);

        counting_secret(secret);
        random_page(&random);
        memset(other, 0x77, sizeof(other));
        for (size_t offset = 0; offset < 16; offset++) {
                memcpy(other + offset, page, PAGE_BYTES);
                assert_int_equal(fingerprint_page(other + offset, secret, sizeof(secret)),
                                 fingerprint_page(page, secret, sizeof(secret)));
        }
}

/* Every byte of the secret counts, for pages that carry information and for zeros. */
static void test_secret(void **state)
{
        uint8_t secret[SECRET_BYTES];
        struct random random = RANDOM_INIT(3);

        counting_secret(secret);
        for (unsigned zeros = 0; zeros < 2; zeros++) {
                uint64_t fingerprint;

                memset(page, 0, PAGE_BYTES);
                if (!zeros)
                        random_page(&random);
                fingerprint = fingerprint_page(page, secret, sizeof(secret));
                for (size_t i = 0; i < sizeof(secret); i++) {
                        secret[i] ^= 1;
                        assert_int_not_equal(fingerprint_page(page, secret, sizeof(secret)), fingerprint);
                        secret[i] ^= 1;
                }
        }
}

/*
 * With this secret XXH3 says 0 for a page whose last 128 bytes are these and the rest zeros. (They are chosen so that no product
 * of the last two stripes counts: then the sums can be set to whatever makes the last mixing step end in 0.)
 */
static void test_never_zero(void **state)
{
        static const uint64_t tail[] = {
                0x777675742acd01a9, 0x7f7e7d7ccab8576d, 0x87868584bbc07804, 0x8f8e8d8cbf8a1686,
                0x979695942020f781, 0x9f9e9d9cbe3b0cba, 0xa7a6a5a4e4f56fe5, 0xafaeadacaefabd11,
                0xad9e0ad67c7b7a79, 0xfd3d590284838281, 0x6cb0f0808c8b8a89, 0xbd776fcf94939291,
                0xab6532c79c9b9a99, 0x53a6f022a4a3a2a1, 0x25db0345acabaaa9, 0x8750577ab4b3b2b1,
        };
        uint8_t secret[SECRET_BYTES];

        counting_secret(secret);
        memset(page, 0, PAGE_BYTES);
        memcpy(page + PAGE_BYTES - sizeof(tail), tail, sizeof(tail));
        assert_int_equal(XXH3_64bits_withSecret(page, PAGE_BYTES, secret, sizeof(secret)), 0);
        assert_int_equal(fingerprint_page(page, secret, sizeof(secret)), 1);
}

static void test_key(void **state)
{
        assert_int_equal(fingerprint_key(UINT64_C(0x123456789abcdef0)), 0x9abcdef0);
        assert_int_equal(fingerprint_key(UINT64_C(0xffffffff00000000)), 0);
}

/* Two secrets differ, in every quarter, and cover all that was asked for. */
static void test_new_secret(void **state)
{
        uint8_t a[SECRET_BYTES + 1] = {0}, b[SECRET_BYTES + 1] = {0};

        a[SECRET_BYTES] = b[SECRET_BYTES] = 0x5a;
        assert_int_equal(fingerprint_secret(a, SECRET_BYTES), 0);
        assert_int_equal(fingerprint_secret(b, SECRET_BYTES), 0);
        for (size_t i = 0; i < SECRET_BYTES; i += SECRET_BYTES / 4)
                assert_memory_not_equal(a + i, b + i, SECRET_BYTES / 4);
        assert_int_equal(a[SECRET_BYTES], 0x5a);
        memset(page, 0x11, PAGE_BYTES);
        assert_int_not_equal(fingerprint_page(page, a, SECRET_BYTES),
                             fingerprint_page(page, b, SECRET_BYTES));
}

/* Shorter than the hash can use. */
static void test_short_secret(void **state)
{
        uint8_t secret[XXH3_SECRET_SIZE_MIN];

        assert_int_equal(fingerprint_secret(secret, XXH3_SECRET_SIZE_MIN - 1), -EINVAL);
        assert_int_equal(fingerprint_secret(secret, XXH3_SECRET_SIZE_MIN), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_zero),         cmocka_unit_test(test_zero_reads_one_page),
                cmocka_unit_test(test_content),      cmocka_unit_test(test_place),
                cmocka_unit_test(test_secret),       cmocka_unit_test(test_never_zero),
                cmocka_unit_test(test_key),          cmocka_unit_test(test_new_secret),
                cmocka_unit_test(test_short_secret),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
