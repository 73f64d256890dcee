/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* userfaultfd: one function per ioctl. */

#include "kernel/uffd.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "util/bits.h"

/* The lowest and highest addresses that UFFDIO_WAKE takes; vm.mmap_min_addr is at most this in practice. */
#define LOWEST_ADDRESS  ((uint64_t)1 << 16)
#define HIGHEST_ADDRESS (((uint64_t)1 << 47) - PAGE_BYTES)

int uffd_open_device(void)
{
        return (int)error_from(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
}

int uffd_create(int device_fd)
{
        return (int)error_from(ioctl(device_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
}

bool uffd_is_context(int fd)
{
        static const char expected[] = "anon_inode:[userfaultfd]";
        char path[64], target[64];
        ssize_t length;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        length = readlink(path, target, sizeof(target));
        return length == sizeof(expected) - 1 && !memcmp(target, expected, sizeof(expected) - 1);
}

int uffd_api(int fd, uint64_t features)
{
        struct uffdio_api api = {.api = UFFD_API, .features = features};

        return (int)error_from(ioctl(fd, UFFDIO_API, &api));
}

int uffd_probe(int fd, uint64_t *ret_features)
{
        struct uffdio_api api = {.api = UFFD_API};
        int r = (int)error_from(ioctl(fd, UFFDIO_API, &api));

        if (r >= 0)
                *ret_features = api.features;
        return r;
}

int uffd_register(int fd, uint64_t start, uint64_t length, uint64_t mode)
{
        struct uffdio_register request = {.range = {.start = start, .len = length}, .mode = mode};

        return (int)error_from(ioctl(fd, UFFDIO_REGISTER, &request));
}

int uffd_unregister(int fd, uint64_t start, uint64_t length)
{
        struct uffdio_range range = {.start = start, .len = length};

        return (int)error_from(ioctl(fd, UFFDIO_UNREGISTER, &range));
}

int uffd_write_protect(int fd, uint64_t start, uint64_t length, bool protect)
{
        struct uffdio_writeprotect request = {
                .range = {.start = start, .len = length},
                .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
        };

        return (int)error_from(ioctl(fd, UFFDIO_WRITEPROTECT, &request));
}

int uffd_wake(int fd, uint64_t start, uint64_t length)
{
        struct uffdio_range range = {.start = start, .len = length};

        return (int)error_from(ioctl(fd, UFFDIO_WAKE, &range));
}

int uffd_wake_all(int fd)
{
        return uffd_wake(fd, LOWEST_ADDRESS, HIGHEST_ADDRESS - LOWEST_ADDRESS);
}

int uffd_copy(int fd, uint64_t destination, const void *source, uint64_t length, uint64_t mode)
{
        struct uffdio_copy request = {
                .dst = destination, .src = (uintptr_t)source, .len = length, .mode = mode};

        return (int)error_from(ioctl(fd, UFFDIO_COPY, &request));
}

int64_t uffd_zeropage(int fd, uint64_t start, uint64_t length)
{
        struct uffdio_zeropage request = {.range = {.start = start, .len = length}};
        long r = error_from(ioctl(fd, UFFDIO_ZEROPAGE, &request));

        if (r < 0 && request.zeropage > 0)
                return request.zeropage;
        return r < 0 ? r : (int64_t)length;
}

int64_t uffd_move(int fd, uint64_t destination, uint64_t source, uint64_t length, uint64_t mode)
{
        struct uffdio_move request = {.dst = destination, .src = source, .len = length, .mode = mode};
        long r = error_from(ioctl(fd, UFFDIO_MOVE, &request));

        /* A partial move is reported as EAGAIN with the bytes moved; so are unread events, with none. */
        if (r < 0 && request.move > 0)
                return request.move;
        return r < 0 ? r : (int64_t)length;
}

int uffd_read(int fd, struct uffd_msg *messages, unsigned n_messages)
{
        long r = error_from(read(fd, messages, n_messages * sizeof(*messages)));

        if (r == -EAGAIN)
                return 0;
        return r < 0 ? (int)r : (int)(r / (long)sizeof(*messages));
}

bool uffd_alive(int fd)
{
        /* The last pages below the end of user space, where nothing is ever mapped. */
        return uffd_write_protect(fd, (UINT64_C(1) << 47) - 2 * PAGE_BYTES, PAGE_BYTES, false) != -ESRCH;
}

int uffd_events_pending(int fd)
{
        struct uffdio_copy probe = {
                .mode = UFFDIO_COPY_MODE_DONTWAKE}; /* an empty range: -EINVAL otherwise */
        long r = error_from(ioctl(fd, UFFDIO_COPY, &probe));

        if (r == -EAGAIN)
                return 1;
        return r == -EINVAL ? 0 : (int)r;
}
