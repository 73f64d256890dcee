/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * A client can hold pages of the pool while it is about to map them
 *
 * Fact: F_OFD_SETLK on a tmpfs file takes and refuses byte ranges between open file descriptions. Two descriptions that
 * were opened for reading may share a range; the one that is open for writing gets it only when neither has any of
 * it. A lock ends with the last descriptor of its description, so with the process; one description's locks have
 * nothing to do with another's.
 *
 * Source: fcntl_locking(2), "Open file description locks".
 *
 * Relied on by: daemon/kernel/poollock.h: libwp/run.c, daemon/dedup/domain.c.
 *
 * Without it: a page is given back between the moment at which nobody maps it yet and the moment at which the agent of
 * a client does, on behalf of a daemon that is gone; and the program reads zeros.
 */

#include "fact.h"

#include "kernel/poollock.h"

#define N_PAGES 8

static struct fact_pool pool;

static void client(int socket, void *unused)
{
        int fd;

        (void)unused;
        fact_receive(socket, &fd);
        FACT_OK(poollock_set(fd, F_RDLCK, 2 * PAGE_BYTES, 2 * PAGE_BYTES));
        FACT_ERROR(poollock_set(fd, F_WRLCK, 6 * PAGE_BYTES, PAGE_BYTES), EBADF);
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
        FACT_OK(poollock_set(fd, F_UNLCK, 2 * PAGE_BYTES, PAGE_BYTES));
        fact_send(socket, 0, -EBADF);
        fact_receive(socket, NULL);
}

int main(void)
{
        struct fact_client process;
        int one, other;

        fact_begin();
        fact_pool(&pool, N_PAGES, 1);
        FACT_OK(poolfile_reopen(pool.writable, &one));
        FACT_OK(poolfile_reopen(pool.writable, &other));
        fact_client_start(&process, FACT_NOBODY, client, NULL);
        fact_send(process.socket, 0, one);
        close(one);
        fact_receive(process.socket, NULL);

        fact_step("a client has pages 2 and 3");
        FACT_OK(poollock_set(other, F_RDLCK, 0, N_PAGES * PAGE_BYTES));
        FACT_OK(poollock_set(other, F_UNLCK, 0, N_PAGES * PAGE_BYTES));
        FACT_ERROR(poolfile_lock(pool.writable, 3 * PAGE_BYTES, 2 * PAGE_BYTES), EAGAIN);
        FACT_ERROR(poolfile_lock(pool.writable, 0, N_PAGES * PAGE_BYTES), EAGAIN);
        FACT_OK(poolfile_lock(pool.writable, 0, 2 * PAGE_BYTES));
        FACT_ERROR(poollock_set(other, F_RDLCK, PAGE_BYTES, PAGE_BYTES), EAGAIN);
        poolfile_unlock(pool.writable, 0, 2 * PAGE_BYTES);

        fact_step("it gives page 2 up");
        fact_send(process.socket, 0, -EBADF);
        fact_receive(process.socket, NULL);
        FACT_OK(poolfile_lock(pool.writable, 2 * PAGE_BYTES, PAGE_BYTES));
        FACT_ERROR(poolfile_lock(pool.writable, 3 * PAGE_BYTES, PAGE_BYTES), EAGAIN);

        fact_step("it ends");
        fact_send(process.socket, 0, -EBADF);
        fact_client_join(&process);
        FACT_OK(poolfile_lock(pool.writable, 0, N_PAGES * PAGE_BYTES));
        return 0;
}
