#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Fingerprints: 64 bits of XXH3 with a secret of the domain, so that nobody can construct pages that collide
 *
 * A fingerprint is a hint that decides what is compared, never what is merged. 0 is not a fingerprint.
 *
 * What is kept for each page and slot is its *key*, the low 32 bits; the index keeps a tag of the high bits
 * in its entries (index.h). So a hit means that 48 bits agree. Of two pages that agree in these and differ
 * all the same, one is taken for the other's twin; its agent finds out, and what is lost is that one of them
 * is not merged with a real twin. The chance that there are two such pages among a million is 1 in 500.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

/* Makes a secret from the kernel's random numbers. */
int fingerprint_secret(uint8_t *secret, size_t size) wp_check;

uint64_t fingerprint_page(const void *page, const uint8_t *secret, size_t secret_size);

static inline uint32_t fingerprint_key(uint64_t fingerprint)
{
        return (uint32_t)fingerprint;
}

bool fingerprint_zero(const void *page);
