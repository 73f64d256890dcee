#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * userfaultfd: one function per ioctl (Documentation/admin-guide/mm/userfaultfd.rst, ioctl_userfaultfd(2))
 *
 * No policy, no log. All functions return 0 or a count on success and a negative errno on failure; addresses
 * and lengths are bytes, page aligned, in the address space that the context belongs to - which need not be
 * the caller's. A process that is gone is -ESRCH (-ENOMEM for registering and unregistering). -EAGAIN means
 * that the context has events that nobody has read yet (fork, remap, remove), or whose callers have not gone
 * on yet: read what is there, then repeat.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kernel/uapi.h"
#include "util/error.h"

/* Opens /dev/userfaultfd; whoever holds the descriptor may create contexts that serve kernel faults too. */
int uffd_open_device(void) wp_check;

/* Creates a context of the calling process, O_CLOEXEC and O_NONBLOCK, from an open /dev/userfaultfd. */
int uffd_create(int device_fd) wp_check;

/* Whether the descriptor is a userfaultfd at all (a client may send anything). */
bool uffd_is_context(int fd);

/* UFFDIO_API with exactly these UFFD_FEATURE_* bits. -EINVAL: not supported, or done before. */
int uffd_api(int fd, uint64_t features) wp_check;

/* Asks for the features that this kernel has; uses up the context. */
int uffd_probe(int fd, uint64_t *ret_features) wp_check;

/* UFFDIO_REGISTER_MODE_* over a range. Holes are skipped. -EBUSY: another context has it. */
int uffd_register(int fd, uint64_t start, uint64_t length, uint64_t mode) wp_check;
int uffd_unregister(int fd, uint64_t start, uint64_t length) wp_check;

/* Sets or clears write protection. -ENOENT: not registered for it. */
int uffd_write_protect(int fd, uint64_t start, uint64_t length, bool protect) wp_check;

int uffd_wake(int fd, uint64_t start, uint64_t length) wp_check;

/* Whoever waits for an answer of this context, wherever, looks again. */
int uffd_wake_all(int fd) wp_check;

/*
 * Copies `length` bytes from the caller's memory into missing pages. -EEXIST: there is a page already;
 * -ENOENT: the range is not registered with this context.
 */
int uffd_copy(int fd, uint64_t destination, const void *source, uint64_t length, uint64_t mode) wp_check;

/*
 * Maps the kernel's zero page into missing pages. Returns the number of bytes mapped, or a negative errno when already
 * the first page could not be: -EEXIST as above, also if there is a marker of protection.
 */
int64_t uffd_zeropage(int fd, uint64_t start, uint64_t length) wp_check;

/*
 * Moves pages inside the caller's address space. Returns the number of bytes moved, holes included, which is
 * less than asked for when a page in the way could not be moved, or a negative errno when already the first
 * could not: -EBUSY (pinned for DMA, or shared with a forked child), -EEXIST, -EINVAL (kind of memory,
 * protection).
 */
int64_t uffd_move(int fd, uint64_t destination, uint64_t source, uint64_t length, uint64_t mode) wp_check;

/* Reads up to `n_messages`; returns their number, 0 when none waits (O_NONBLOCK). */
int uffd_read(int fd, struct uffd_msg *messages, unsigned n_messages) wp_check;

/* Whether the address space that the context belongs to still exists. Changes nothing. */
bool uffd_alive(int fd);

/* Whether events wait to be read that block other calls: 1 yes, 0 no. Needs no registered range. */
int uffd_events_pending(int fd) wp_check;
