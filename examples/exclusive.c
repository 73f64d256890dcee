/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Exclusive window: a device that has no atomic operations changes memory that processors change, too
 *
 * The device can only read and write. For as long as it works on a page, wp_protect() with WP_HOLD makes all processors wait that
 * are about to write there; after wp_release() they see what the device wrote. The processors need not know: their operations
 * are ordinary ones. The device reaches the memory by a mapping of its own, which is not protected; here that is another mapping
 * of the same memfd, and the device is a thread.
 *
 * Usage: exclusive [SOCKET]
 */

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wp.h>

#define PAGE       ((size_t)4096)
#define PROCESSORS 3
#define OPERATIONS 200000
#define WINDOWS    500

static _Atomic long *counter;         /* as the processors see it */
static volatile long *device_counter; /* as the device does */

static void *processor(void *unused)
{
        for (int i = 0; i < OPERATIONS; i++)
                atomic_fetch_add(counter, 1);
        return unused;
}

/* Read, change, write: without the window, what processors add in between would be lost. */
static int device(struct wp_region *region)
{
        int r = 0;

        for (int i = 0; i < WINDOWS && r >= 0; i++) {
                long value;

                r = wp_protect(region, 0, PAGE, WP_HOLD);
                if (r < 0)
                        break;
                value = *device_counter;
                usleep(10);
                *device_counter = value + 1000;
                r = wp_release(region, 0, PAGE);
        }
        return r;
}

static int show(struct wp_region *region)
{
        const long expected = (long)PROCESSORS * OPERATIONS + (long)WINDOWS * 1000;
        pthread_t threads[PROCESSORS];
        int r;

        for (int i = 0; i < PROCESSORS; i++)
                if (pthread_create(&threads[i], NULL, processor, NULL))
                        return -EAGAIN;
        r = device(region);
        for (int i = 0; i < PROCESSORS; i++)
                pthread_join(threads[i], NULL);
        printf("%d processors added %d each, the device %d times 1000: %ld, and %ld is expected\n",
               PROCESSORS, OPERATIONS, WINDOWS, atomic_load(counter), expected);
        return r < 0 ? r : atomic_load(counter) == expected ? 0 : -EILSEQ;
}

static int map_twice(void)
{
        int fd = memfd_create("exclusive", MFD_CLOEXEC);
        void *ours, *devices;

        if (fd < 0 || ftruncate(fd, PAGE) < 0)
                return -errno;
        ours = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        devices = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (ours == MAP_FAILED || devices == MAP_FAILED)
                return -errno;
        counter = ours;
        device_counter = devices;
        return 0;
}

int main(int argc, char **argv)
{
        struct wp_client *client = NULL;
        struct wp_region *region;
        int r = map_twice();

        if (r >= 0)
                r = wp_connect(argc > 1 ? argv[1] : NULL, &client);
        if (r >= 0)
                r = wp_register(client, (void *)counter, PAGE, 0, &region);
        if (r >= 0)
                r = show(region);
        if (r < 0)
                fprintf(stderr, "exclusive: %s: %s\n", strerror(-r), wp_strerror_detail(client));
        wp_disconnect(client);
        return r < 0;
}
