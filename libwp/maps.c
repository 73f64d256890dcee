/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the mappings of this process are, as the kernel says: which of them are a pool's, whoever made them
 *
 * /proc/self/maps is parsed by hand and in pieces, since the agent may use neither malloc nor stdio.
 */

#include "libwp/client.h"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "util/cleanup.h"

/* Longer than all fields but the path, which does not matter. */
#define LINE_BYTES 256

struct mapping {
        uint64_t start;
        uint64_t end;
        uint64_t dev;
        uint64_t inode;
};

/* Reads a number and the character behind it. */
static const char *parse_number(const char *text, unsigned base, uint64_t *ret_value)
{
        uint64_t value = 0;

        for (;; text++) {
                unsigned digit = *text >= '0' && *text <= '9'   ? (unsigned)(*text - '0')
                                 : *text >= 'a' && *text <= 'f' ? (unsigned)(*text - 'a') + 10
                                                                : base;

                if (digit >= base)
                        break;
                value = value * base + digit;
        }
        *ret_value = value;
        return *text ? text + 1 : text;
}

/* "START-END PERMS OFFSET MAJOR:MINOR INODE ...", proc_pid_maps(5). */
static struct mapping parse_line(const char *line)
{
        uint64_t offset, dev_major, dev_minor;
        struct mapping mapping;

        line = parse_number(line, 16, &mapping.start);
        line = parse_number(line, 16, &mapping.end);
        while (*line && *line++ != ' ')
                ;
        line = parse_number(line, 16, &offset);
        line = parse_number(line, 16, &dev_major);
        line = parse_number(line, 16, &dev_minor);
        mapping.dev = makedev((unsigned)dev_major, (unsigned)dev_minor);
        parse_number(line, 10, &mapping.inode);
        return mapping;
}

static bool is_pool(const struct wp_client *client, const struct mapping *mapping)
{
        unsigned n = MIN(atomic_load(&client->n_pools), (unsigned)CLIENT_MAX_POOLS);

        for (unsigned i = 0; i < n; i++)
                if (mapping->inode == client->pools[i].inode && mapping->dev == client->pools[i].dev)
                        return true;
        return false;
}

int pools_add(struct wp_client *client, int pool_fd)
{
        unsigned n = atomic_load(&client->n_pools);
        struct stat st;

        if (fstat(pool_fd, &st) < 0)
                return -errno;
        if (is_pool(client, &(struct mapping){.dev = st.st_dev, .inode = st.st_ino}))
                return 0;
        client->pools[n % CLIENT_MAX_POOLS] = (struct client_pool){.dev = st.st_dev, .inode = st.st_ino};
        atomic_store(&client->n_pools, n + 1);
        return 0;
}

/* One line of the file at a time; what is longer than the buffer is cut. */
struct reader {
        int fd;
        size_t n;    /* bytes in text */
        size_t next; /* of these, taken */
        char text[1024];
};

/* 1 a line, 0 the end, or a negative errno. */
static int next_line(struct reader *reader, char line[LINE_BYTES])
{
        size_t length = 0;

        for (;;) {
                if (reader->next == reader->n) {
                        ssize_t n = error_from(read(reader->fd, reader->text, sizeof(reader->text)));

                        if (n <= 0)
                                return (int)n;
                        reader->n = (size_t)n;
                        reader->next = 0;
                }
                if (reader->text[reader->next] == '\n')
                        break;
                if (length < LINE_BYTES - 1)
                        line[length++] = reader->text[reader->next];
                reader->next++;
        }
        reader->next++;
        line[length] = '\0';
        return 1;
}

/* All mappings that intersect [start, end), only pools' if `client` is not NULL. */
static int walk(const struct wp_client *client, uintptr_t start, uintptr_t end, maps_visit visit,
                void *context)
{
        struct reader reader = {.fd = -EBADF};
        _cleanup_fd_ int fd = (int)error_from(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
        char line[LINE_BYTES];
        int r;

        if (fd < 0)
                return -EIO;
        reader.fd = fd;
        while ((r = next_line(&reader, line)) > 0) {
                struct mapping mapping = parse_line(line);

                if (mapping.start >= end)
                        return 0;
                if (mapping.end <= start || (client && !is_pool(client, &mapping)))
                        continue;
                r = visit(context, MAX(mapping.start, start), MIN(mapping.end, end));
                if (r)
                        return r;
        }
        return r < 0 ? -EIO : 0;
}

int pools_walk(struct wp_client *client, uintptr_t start, uintptr_t end, maps_visit visit, void *context)
{
        return walk(client, start, end, visit, context);
}

static int visit_any(void *context, uintptr_t start, uintptr_t end)
{
        return 1;
}

bool pools_mapped(struct wp_client *client)
{
        return atomic_load(&client->n_pools) > CLIENT_MAX_POOLS ||
               pools_walk(client, 0, UINTPTR_MAX, visit_any, NULL) != 0;
}

/* MPOL_F_ADDR asks for the policy of the mapping alone: that of the thread does not count (get_mempolicy(2)). */
static int visit_policy(void *context, uintptr_t start, uintptr_t end)
{
        int mode = MPOL_DEFAULT;

        /* -ENOSYS: a kernel that knows no policies; -EFAULT: unmapped meanwhile, which others notice. */
        if (syscall(SYS_get_mempolicy, &mode, NULL, 0UL, start, MPOL_F_ADDR) < 0)
                return 0;
        return mode != MPOL_DEFAULT;
}

bool maps_have_policy(uintptr_t start, uintptr_t end)
{
        return walk(NULL, start, end, visit_policy, NULL) > 0;
}
