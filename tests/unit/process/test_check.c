/* SPDX-License-Identifier: GPL-2.0-or-later */

/* `wpd --check`: the table's shape on made-up rows, and that probing this host leaves no trace in the
 * process. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernel/hold.h"
#include "kernel/uffd.h"
#include "process/check.h"
#include "util/bits.h"
#include "util/cleanup.h"

/* Prints into memory; the text is the caller's. */
static char *print(const struct check_row *rows, unsigned n_rows, bool *ret_good)
{
        char *text = NULL;
        size_t size;
        FILE *out = open_memstream(&text, &size);

        assert_non_null(out);
        *ret_good = check_print(out, rows, n_rows);
        fclose(out);
        return text;
}

static void assert_shape(const char *text)
{
        for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
                size_t length = strcspn(line, "\n");

                assert_int_equal(line[length], '\n');
                assert_in_range(length, 0, 100);
                if (length > 0)
                        assert_int_not_equal(line[length - 1], ' ');
        }
}

static void test_table(void **state)
{
        const struct check_row rows[] = {
                {.what = "first", .why = "why 1", .without = "without 1", .required = true, .found = true},
                {.what = "second",
                 .why = "why 2",
                 .without = "without 2",
                 .required = true,
                 .detail = "gone"},
                {.what = "third", .why = "why 3", .without = "without 3"},
                {.what = "a need whose name is long enough to go over two lines",
                 .why = "oneverylongwordthatdoesnotfitintoanycolumnandhastobecutsomewhere",
                 .without = "a b c d e f g h i j k l m n o p q r s t u v w x y z",
                 .found = true,
                 .detail = "0123456789012345678901234567890123456789"},
        };
        static const char expected[] =
                "FOUND    NEED                               USED FOR                          WITHOUT IT\n"
                "yes      first                              why 1                             without 1\n"
                "MISSING  second (gone)                      why 2                             without 2\n"
                "no       third                              why 3                             without 3\n";
        _cleanup_free_ char *text = NULL, *good_text = NULL;
        bool good;

        text = print(rows, ARRAY_SIZE(rows), &good);
        assert_false(good);
        assert_shape(text);
        assert_memory_equal(text, expected, strlen(expected));
        assert_non_null(strstr(text, "wpd cannot serve here: 1 of what it needs is missing.\n"));
        /* Nothing is lost by wrapping. */
        assert_non_null(strstr(text, "  oneverylongwordthatdoesnotfitint  "));
        assert_non_null(strstr(text, "  oanycolumnandhastobecutsomewhere  "));
        assert_non_null(strstr(text, " w x y z\n"));

        good_text = print(rows, 1, &good);
        assert_true(good);
        assert_non_null(strstr(good_text, "wpd can serve here.\n"));
        free(good_text);
        good_text = print(&rows[2], 1, &good);
        assert_true(good);
}

static unsigned count_fds(void)
{
        DIR *directory = opendir("/proc/self/fd");
        unsigned n = 0;

        assert_non_null(directory);
        while (readdir(directory))
                n++;
        closedir(directory);
        return n;
}

static void test_host(void **state)
{
        struct rlimit before, after;
        struct check_row rows[64] = {{.what = NULL}};
        unsigned n, n_fds = count_fds();
        _cleanup_free_ char *text = NULL;
        bool good, all = true;

        assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &before), 0);
        n = check_run(rows, ARRAY_SIZE(rows));
        assert_in_range(n, 20, ARRAY_SIZE(rows));
        assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &after), 0);
        assert_memory_equal(&before, &after, sizeof(before));
        assert_int_equal(count_fds(), n_fds);
        assert_int_equal(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);

        for (unsigned i = 0; i < n; i++) {
                assert_true(rows[i].what && rows[i].what[0]);
                assert_true(rows[i].why && rows[i].why[0]);
                assert_true(rows[i].without && rows[i].without[0]);
                /* What is not there is explained. */
                assert_true(rows[i].found || rows[i].detail[0]);
                all = all && (rows[i].found || !rows[i].required);
        }
        text = print(rows, n, &good);
        assert_shape(text);
        assert_int_equal(good, all);
        print_message("%s", text);
}

/* The table and the wrappers that the daemon uses come to the same result about the contexts' features. */
static void test_features(void **state)
{
        static const uint64_t sets[] = {HOLD_FEATURES, TRACK_FEATURES, GUARD_FEATURES, STAGE_FEATURES};
        struct check_row rows[64];
        unsigned n = check_run(rows, ARRAY_SIZE(rows));
        bool listed = true, accepted = true;

        for (unsigned i = 0; i < n; i++)
                if (!strncmp(rows[i].what, "userfaultfd: ", 13) ||
                    !strcmp(rows[i].what, "/dev/userfaultfd") || !strcmp(rows[i].what, "CAP_SYS_PTRACE"))
                        listed = listed && rows[i].found;
        for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
                _cleanup_fd_ int device = uffd_open_device(), fd = -EBADF;

                fd = device < 0 ? device : uffd_create(device);
                accepted = accepted && fd >= 0 && uffd_api(fd, sets[i]) == 0;
        }
        assert_int_equal(listed, accepted);
}

/* Fewer rows than there are: the rest is not touched. */
static void test_few(void **state)
{
        struct check_row rows[2] = {{.what = NULL}};

        assert_true(check_run(rows, 1) > 1);
        assert_non_null(rows[0].what);
        assert_null(rows[1].what);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table),
                cmocka_unit_test(test_host),
                cmocka_unit_test(test_features),
                cmocka_unit_test(test_few),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
