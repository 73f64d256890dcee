/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Closer: a thread that closes descriptors which came from clients. */

#include "serve/closer.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "util/cleanup.h"
#include "util/spsc.h"

#define CLOSER_ENTRIES      4096
#define CLOSER_STOP         (-1)
#define CLOSER_STOP_SECONDS 1

struct closer {
        pthread_t thread;
        bool started;
        sem_t wanted;
        struct spsc fds;
};

static void *closer_main(void *argument)
{
        struct closer *closer = argument;
        int fd;

        for (;;) {
                while (sem_wait(&closer->wanted) < 0)
                        ;
                if (!spsc_pop(&closer->fds, &fd))
                        continue;
                if (fd == CLOSER_STOP)
                        return NULL;
                close(fd);
        }
}

int closer_new(struct closer **ret_closer)
{
        struct closer *closer = calloc(1, sizeof(*closer));
        int r;

        if (!closer)
                return -ENOMEM;
        sem_init(&closer->wanted, 0, 0);
        r = spsc_init(&closer->fds, CLOSER_ENTRIES, sizeof(int));
        if (r >= 0)
                r = -pthread_create(&closer->thread, NULL, closer_main, closer);
        if (r < 0) {
                closer_free(closer);
                return r;
        }
        closer->started = true;
        *ret_closer = closer;
        return 0;
}

static void hand_over(struct closer *closer, int fd)
{
        /*
         * Full: the thread has been blocked for long. The descriptor is lost, which is better than to wait
         * with it.
         */
        if (spsc_push(&closer->fds, &fd))
                sem_post(&closer->wanted);
}

int closer_close(struct closer *closer, int fd)
{
        if (fd >= 0)
                hand_over(closer, fd);
        return -EBADF;
}

struct closer *closer_free(struct closer *closer)
{
        struct timespec deadline;

        if (!closer)
                return NULL;
        if (closer->started) {
                hand_over(closer, CLOSER_STOP);
                clock_gettime(CLOCK_REALTIME, &deadline);
                deadline.tv_sec += CLOSER_STOP_SECONDS;
                if (pthread_timedjoin_np(closer->thread, NULL, &deadline))
                        return NULL; /* it is blocked, and still uses all this */
        }
        sem_destroy(&closer->wanted);
        spsc_deinit(&closer->fds);
        free(closer);
        return NULL;
}
