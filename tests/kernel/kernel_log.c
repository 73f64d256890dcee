/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The kernel has nothing to complain about after all that the tests have done to it
 *
 * Fact: between `kernel_log mark FILE`, which runs before all other tests, and `kernel_log check FILE`,
 * which runs after them, the kernel's log got no BUG:, Oops or WARNING:, no hung task and no stall.
 *
 * Source: Documentation/ABI/testing/dev-kmsg.
 *
 * Relied on by: everybody.
 *
 * Without it: a test that passes on a kernel that it has damaged.
 *
 * FILE holds the boot id and the sequence number of the last record that was there at the mark.
 */

#include "fact.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void read_boot_id(char *text, size_t size)
{
        _cleanup_fd_ int fd =
                (int)FACT_OK(error_from(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC)));
        long n = FACT_OK(error_from(read(fd, text, size - 1)));

        text[n] = '\0';
        text[strcspn(text, "\n")] = '\0';
}

/* Programs can write to the log too; what the kernel says itself has facility 0. */
static bool is_complaint(unsigned priority, const char *text)
{
        static const char *const signs[] = {"BUG:",           "Oops",
                                            "WARNING:",       "general protection fault",
                                            "KASAN:",         "KCSAN:",
                                            "UBSAN:",         "INFO: task ",
                                            "detected stall", "detected expedited stalls",
                                            "soft lockup",    "hard LOCKUP"};

        if (priority >= 8)
                return false;
        for (size_t i = 0; i < ARRAY_SIZE(signs); i++)
                if (strstr(text, signs[i]))
                        return true;
        return false;
}

/*
 * Goes through the log from its beginning; prints the complaints among the records after `mark`.
 * Returns their number; *ret_first and *ret_last are the numbers of the first and the last record that is
 * there.
 */
static unsigned read_log(unsigned long long mark, unsigned long long *ret_first, unsigned long long *ret_last)
{
        _cleanup_fd_ int log = (int)error_from(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
        unsigned long long number = 0, first = 0;
        unsigned n_complaints = 0, priority;
        char record[8192];

        if (log < 0)
                fact_skip("/dev/kmsg: %s", strerror(-log));
        for (bool any = false;; any = true) {
                long n = error_from(read(log, record, sizeof(record) - 1));

                if (n == -EAGAIN)
                        break;
                if (n == -EPIPE)
                        continue; /* records were overwritten while we read */
                if (n == -EPERM)
                        fact_skip("/dev/kmsg: %s", strerror(EPERM));
                FACT_OK(n);
                record[n] = '\0';
                FACT_CHECK(sscanf(record, "%u,%llu,", &priority, &number) == 2, "not a record: %s", record);
                if (!any)
                        first = number;
                if (number > mark && is_complaint(priority, record)) {
                        printf("%s", record);
                        n_complaints++;
                }
        }
        *ret_first = first;
        *ret_last = number;
        return n_complaints;
}

static void mark(const char *path)
{
        unsigned long long first, last;
        char boot_id[64];
        FILE *file;

        read_log(~0ULL, &first, &last);
        read_boot_id(boot_id, sizeof(boot_id));
        file = fopen(path, "we");
        FACT_CHECK(file, "%s: %m", path);
        fprintf(file, "%s %llu\n", boot_id, last);
        FACT_CHECK(fclose(file) == 0, "%s: %m", path);
}

static void check(const char *path)
{
        char boot_id[64], marked_boot_id[64];
        unsigned long long marked, first, last;
        FILE *file = fopen(path, "re");
        unsigned n;

        if (!file)
                fact_skip("%s: %s (no mark was set)", path, strerror(errno));
        n = fscanf(file, "%63s %llu", marked_boot_id, &marked) == 2;
        fclose(file);
        FACT_CHECK(n, "%s is not a mark", path);
        read_boot_id(boot_id, sizeof(boot_id));
        if (strcmp(boot_id, marked_boot_id))
                fact_skip("%s is from before the machine was started", path);
        n = read_log(marked, &first, &last);
        FACT_CHECK(n == 0, "%u complaints among %llu records", n, last - marked);
        if (first > marked + 1)
                fact_skip("%llu records were overwritten before they could be read", first - marked - 1);
        printf("%llu records, none of them a complaint\n", last - marked);
}

int main(int argc, char **argv)
{
        fact_begin();
        if (argc == 3 && !strcmp(argv[1], "mark"))
                mark(argv[2]);
        else if (argc == 3 && !strcmp(argv[1], "check"))
                check(argv[2]);
        else
                return 2;
        return 0;
}
