/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The file behind a mapping: lines of mountinfo by table, cut at every place, and a mapping of our own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/mapfile.h"
#include "util/bits.h"

#define UNTOUCHED "untouched"

/* The longest type that is told as a whole, and one character more. */
#define LONGEST "fuse.abcdefghijklmnopqrstuvwxyz"
_Static_assert(sizeof(LONGEST) == MAPFILE_TYPE_BYTES, "as long as there is room");

struct row {
        const char *line;
        uint64_t mount_id;
        int r;
        const char *type; /* when r is 1 */
};

static const struct row rows[] = {
        /* As the kernel writes them: one optional field, none, several. */
        {"29 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard\n", 29, 1, "ext4"},
        {"36 35 98:0 /mnt1 /mnt2 rw,noatime - ext3 /dev/root rw,errors=continue\n", 36, 1, "ext3"},
        {"40 29 0:35 / /run rw,nosuid shared:5 master:2 propagate_from:7 unbindable - tmpfs tmpfs rw\n", 40,
         1, "tmpfs"},
        {"612 600 0:52 / /var/lib/c/merged rw - overlay overlay rw,lowerdir=/a:/b,upperdir=/c\n", 612, 1,
         "overlay"},
        {"77 29 0:61 / /home/a/s rw,nosuid shared:9 - fuse.sshfs a@b:/c rw,user_id=0\n", 77, 1, "fuse.sshfs"},
        {"80 29 0:4 net:[4026532281] /run/netns/a rw shared:10 - nsfs nsfs rw\n", 80, 1, "nsfs"},
        /* A bind mount of a part; a source that is empty, or looks like a separator. */
        {"81 29 8:3 /srv/a /mnt ro,relatime master:1 - xfs /dev/sda3 ro\n", 81, 1, "xfs"},
        {"82 29 0:70 / /mnt rw - btrfs  rw\n", 82, 1, "btrfs"},
        {"82 29 0:70 / /mnt rw - btrfs - rw - ext4 x y\n", 82, 1, "btrfs"},
        /* Blanks in names are escaped, so that a separator in one is none. */
        {"83 29 8:4 /a\\040b /mnt/a\\040disk rw shared:3 - xfs /dev/a\\040b rw\n", 83, 1, "xfs"},
        {"83 29 8:4 /a\\040-\\040ext4\\040b /mnt/c\\040-\\040tmpfs rw - xfs /dev/sda4 rw\n", 83, 1, "xfs"},
        {"83 29 8:4 /a-b /mnt/- rw,a-b x-y:1 - xfs /dev/sda4 rw\n", 83, 1, "xfs"},
        /* Without what follows the type. */
        {"36 35 98:0 / / rw - ext3\n", 36, 1, "ext3"},
        {"36 35 98:0 / / rw - ext3", 36, 1, "ext3"},
        {"36 35 98:0 / / rw - e /dev/root rw\n", 36, 1, "e"},
        /* Other file systems'. */
        {"29 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n", 30, 0, NULL},
        {"29 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n", 2, 0, NULL},
        {"29 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n", 254, 0, NULL},
        {"290 29 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n", 29, 0, NULL},
        {"29 1 25:41 / / rw shared:1 - ext4 /dev/vda1 rw\n", 30, 0, NULL},
        {"29 1 254:10 / / rw shared:1 - ext4 /dev/vda1 rw\n", 30, 0, NULL},
        {"29 1 254:1 / /\n", 30, 0, NULL}, /* it does not matter what it lacks */
        /* The greatest numbers of a device (12 bits and 20), and of their type. */
        {"29 1 0:0 / / rw - rootfs none rw\n", 29, 1, "rootfs"},
        {"29 1 4095:1048575 / / rw - xfs /dev/x rw\n", 29, 1, "xfs"},
        {"29 1 4095:1048575 / / rw - xfs /dev/x rw\n", 30, 0, NULL},
        {"29 1 0:4294967295 / / rw - xfs /dev/x rw\n", 29, 1, "xfs"},
        {"29 1 0:4294967295 / / rw - xfs /dev/x rw\n", 30, 0, NULL},
        {"4294967295 4294967295 8:1 / / rw - xfs /dev/x rw\n", 4294967295, 1, "xfs"},
        /* As long as there is room, and cut to fit. */
        {"29 1 0:9 / / rw - " LONGEST " x rw\n", 29, 1, LONGEST},
        {"29 1 0:9 / / rw - " LONGEST "X x rw\n", 29, 1, LONGEST},
        {"29 1 0:9 / / rw - " LONGEST LONGEST LONGEST, 29, 1, LONGEST},
        /* No mountinfo. */
        {"", 0, -EBADMSG, NULL},
        {"\n", 0, -EBADMSG, NULL},
        {"29", 29, -EBADMSG, NULL},
        {"29 1\n", 29, -EBADMSG, NULL},
        {"29 1 254\n", 29, -EBADMSG, NULL},
        {"29 1 254:\n", 29, -EBADMSG, NULL},
        {"29 1 :1 / / rw - ext4 x rw\n", 29, -EBADMSG, NULL},
        {"29 1 a:b / / rw - ext4 x rw\n", 29, -EBADMSG, NULL},
        {"29 x 254:1 / / rw - ext4 x rw\n", 29, -EBADMSG, NULL},
        {"/dev/vda1 / ext4 rw 0 0\n", 0, -EBADMSG, NULL},
        {"29 1 254:1\n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1\n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 ext4 /dev/vda1 rw\n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 -ext4 /dev/vda1 rw\n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 -\n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 - ", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 - \n", 29, -EBADMSG, NULL},
        {"29 1 254:1 / / rw shared:1 -  /dev/vda1 rw\n", 29, -EBADMSG, NULL},
};

/* What is behind the end of the type stays as it was as far as it is not the caller's, and all of it unless the result is 1. */
struct guarded {
        char type[MAPFILE_TYPE_BYTES];
        char guard[MAPFILE_TYPE_BYTES];
};

static int parse(const char *line, uint64_t mount_id, struct guarded *ret)
{
        char *copy = strdup(line); /* a look behind its end would be seen by the sanitizer */
        int r;

        assert_non_null(copy);
        memset(ret, 'g', sizeof(*ret));
        strcpy(ret->type, UNTOUCHED);
        r = mapfile_parse_mount(copy, mount_id, ret->type);
        free(copy);
        for (size_t i = 0; i < sizeof(ret->guard); i++)
                assert_int_equal(ret->guard[i], 'g');
        assert_non_null(memchr(ret->type, '\0', sizeof(ret->type)));
        return r;
}

static void test_table(void **state)
{
        struct guarded found;

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const struct row *row = &rows[i];
                int r = parse(row->line, row->mount_id, &found);
                const char *type = row->r == 1 ? row->type : UNTOUCHED;

                if (r != row->r || strcmp(found.type, type))
                        fail_msg("rows[%zu], \"%s\": %d, \"%s\" where %d, \"%s\" was expected", i, row->line,
                                 r, found.type, row->r, type);
        }
}

/* Until the type begins there is no answer; from there on it is what is there of it. */
static void test_truncated(void **state)
{
        static const char line[] =
                "40 29 254:17 / /a\\040-\\040b rw shared:5 master:2 - squashfs /dev/a rw\n";
        const size_t type = (size_t)(strstr(line, " - ") + 3 - line);
        struct guarded found;
        char cut[sizeof(line)];

        for (size_t length = 0; length < sizeof(line); length++) {
                size_t n_type = MIN(length - MIN(length, type), strlen("squashfs"));
                int r;

                memcpy(cut, line, length);
                cut[length] = '\0';
                r = parse(cut, 40, &found);
                assert_int_equal(r, n_type ? 1 : -EBADMSG);
                if (n_type) {
                        assert_int_equal(strlen(found.type), n_type);
                        assert_memory_equal(found.type, "squashfs", n_type);
                } else {
                        assert_string_equal(found.type, UNTOUCHED);
                }
        }
}

/* The program itself is mapped, of a file that can be found and opened again without its name. */
static void test_own_mapping(void **state)
{
        char type[MAPFILE_TYPE_BYTES] = UNTOUCHED;
        int file, found, opened, r;
        struct stat st, st_opened;
        uintptr_t start;
        void *memory;

        file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        assert_true(file >= 0 && !fstat(file, &st));
        memory = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_PRIVATE, file, 0);
        assert_true(memory != MAP_FAILED);
        close(file);
        start = (uintptr_t)memory;
        r = mapfile_find(getpid(), start, start + PAGE_BYTES, type, &found);
        if (r == -EPERM)
                skip();
        assert_int_equal(r, 0);
        assert_string_not_equal(type, UNTOUCHED);
        opened = mapfile_open(found);
        assert_true(opened >= 0 && !fstat(opened, &st_opened));
        assert_true(st.st_ino == st_opened.st_ino && st.st_dev == st_opened.st_dev);
        assert_true((fcntl(opened, F_GETFL) & O_ACCMODE) == O_RDONLY);
        close(opened);
        close(found);
        assert_int_equal(mapfile_find(getpid(), start, start + 2 * PAGE_BYTES, type, &found), -ENOENT);
        munmap(memory, PAGE_BYTES);
        assert_int_equal(mapfile_find(getpid(), start, start + PAGE_BYTES, type, &found), -ENOENT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_truncated),
                cmocka_unit_test(test_own_mapping),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
