#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A fuzz target is a file with this one function. It is linked with libFuzzer when the option `fuzz` is on,
 * and always with driver.c, which makes an ordinary test of it. A wrong result is an abort().
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define fuzz_assert(_condition)                                                                              \
        do {                                                                                                 \
                if (!(_condition)) {                                                                         \
                        fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #_condition);                     \
                        abort();                                                                             \
                }                                                                                            \
        } while (0)
