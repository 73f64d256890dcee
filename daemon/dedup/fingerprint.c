/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Fingerprints of pages. */

#include "dedup/fingerprint.h"

#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/bits.h"

int fingerprint_secret(uint8_t *secret, size_t size)
{
        uint8_t seed[64];
        long r = error_from(getrandom(seed, sizeof(seed), 0));

        if (r < 0)
                return (int)r;
        return XXH3_generateSecret(secret, size, seed, sizeof(seed)) == XXH_OK ? 0 : -EINVAL;
}

uint64_t fingerprint_page(const void *page, const uint8_t *secret, size_t secret_size)
{
        uint64_t fingerprint = XXH3_64bits_withSecret(page, PAGE_BYTES, secret, secret_size);

        return fingerprint ? fingerprint : 1;
}

bool fingerprint_zero(const void *page)
{
        const char *bytes = page;

        /*
         * A page is zeros if it equals itself shifted by one, and starts with a zero. Most pages fail at
         * once.
         */
        return !bytes[0] && !memcmp(bytes, bytes + 1, PAGE_BYTES - 1);
}
