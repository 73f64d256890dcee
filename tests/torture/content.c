/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Page contents; see the header. */

#include "torture/content.h"

#include <fcntl.h>
#include <unistd.h>

#include "model/random.h"
#include "torture/shared.h"
#include "util/cleanup.h"
#include "util/error.h"

void content_make(char *table)
{
        struct random random = RANDOM_INIT(CONTENT_SEED);
        uint64_t *words = (uint64_t *)table;

        /* Number 0 stays zeros. */
        for (size_t i = PAGE_BYTES / sizeof(*words); i < CONTENT_NUMBERS * PAGE_BYTES / sizeof(*words); i++)
                words[i] = random_next(&random);
}

const char *content_page(unsigned number)
{
        return shared->contents + number * PAGE_BYTES;
}

int content_write_file(const char *path)
{
        _cleanup_fd_ int fd = (int)error_from(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
        _cleanup_fd_ int direct = -EBADF;
        const size_t bytes = CONTENT_NUMBERS * PAGE_BYTES;
        ssize_t n;

        if (fd < 0)
                return fd;
        for (unsigned i = 0; i < CONTENT_FILE_PAGES / CONTENT_NUMBERS; i++) {
                n = error_from(pwrite(fd, shared->contents, bytes, (off_t)(i * bytes)));
                if (n != (ssize_t)bytes)
                        return n < 0 ? (int)n : -ENOSPC;
        }
        direct = (int)error_from(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC));
        return direct < 0 ? direct : 0;
}
