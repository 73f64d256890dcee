#pragma once
/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Allocations that fail when a test wants it; the program is linked with --wrap for both functions. */

#include <stdbool.h>
#include <stddef.h>

void *__real_calloc(size_t n, size_t size);
void *__real_reallocarray(void *old, size_t n, size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_reallocarray(void *old, size_t n, size_t size);

static bool fail_alloc;
static unsigned fail_at; /* the n-th allocation from now on, 0: none */

static bool fails(void)
{
        return fail_alloc || (fail_at && !--fail_at);
}

void *__wrap_calloc(size_t n, size_t size)
{
        return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
        return fails() ? NULL : __real_reallocarray(old, n, size);
}
