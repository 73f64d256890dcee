#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The error law of the tree
 *
 * A function that can fail returns int (or ssize_t):
 *
 *   < 0   a negative errno: it could not be done. The caller passes it up unchanged, unless it is the one
 *         place that knows better; nobody matches on an errno that the callee does not document.
 *     0   done.
 *   > 0   only where the function documents it: a count, or a condition of its own (MODULE_E_*) that
 *         the caller must handle. Conditions never travel through a second function.
 *
 * Out-parameters are called ret_*, come last and are untouched on failure. Destructors accept NULL and
 * half-built objects and return NULL. errno itself is read in one place only: the helper below.
 */

#include <errno.h>

#define wp_check __attribute__((__warn_unused_result__))

/* Turns the result of a system call into the law above: the value, or a negative errno. */
static inline long error_from(long result)
{
        return result < 0 ? -(long)errno : result;
}
