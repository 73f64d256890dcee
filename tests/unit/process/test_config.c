/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Configuration: what is accepted, what is refused and with which words, drop-ins, and that the documents
 * agree. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "process/config.h"
#include "util/bits.h"
#include "util/cleanup.h"

static int parse(struct config *config, const char *text, char *error)
{
        error[0] = '\0';
        return config_parse(config, text, strlen(text), "f", error);
}

static void test_defaults(void **state)
{
        struct config config;

        config_init(&config);
        assert_int_equal(config.sleep_millisecs, 200);
        assert_int_equal(config.use_zero_pages, 1);
        assert_int_equal(config.pool_max_bytes, 0);
        assert_int_equal(config.max_bytes_per_uid, UINT64_C(1) << 42);
        for (size_t i = 0; i < config_n_keys; i++) {
                assert_in_range(config_keys[i].initial, config_keys[i].minimum, config_keys[i].maximum);
                /* Names alone are enough to find a key. */
                assert_ptr_equal(config_find(config_keys[i].name), &config_keys[i]);
                assert_false(config_keys[i].flag && config_keys[i].size);
        }
}

static void test_accepted(void **state)
{
        static const struct {
                const char *text;
                size_t offset;
                uint64_t value;
        } cases[] = {
#define AT(_key) offsetof(struct config, _key)
                {"", AT(sleep_millisecs), 200},
                {"[scan]\nsleep_millisecs = 10\n", AT(sleep_millisecs), 10},
                {"[scan]\nsleep_millisecs=3600000", AT(sleep_millisecs), 3600000},
                {"\xef\xbb\xbf[scan]\nsleep_millisecs=11", AT(sleep_millisecs), 11},
                {"[scan]\r\nsleep_millisecs = 12\r\n", AT(sleep_millisecs), 12},
                {"# remark\n; remark\n\n  [scan]\n  sleep_millisecs : 13 ; remark\n", AT(sleep_millisecs),
                 13},
                {"[scan]\nsleep_millisecs = 14\n   max_cpu_percent = 7\n", AT(max_cpu_percent), 7},
                {"[scan]\nsleep_millisecs = 00000000000000000000000000000000000015\n", AT(sleep_millisecs),
                 15},
                {"[scan]\n[merge]\n[scan]\nmax_cpu_percent = 1\n", AT(max_cpu_percent), 1},
                {"[merge]\nuse_zero_pages = no", AT(use_zero_pages), 0},
                {"[merge]\nuse_zero_pages = false", AT(use_zero_pages), 0},
                {"[merge]\nuse_zero_pages = off", AT(use_zero_pages), 0},
                {"[merge]\nuse_zero_pages = 0", AT(use_zero_pages), 0},
                {"[merge]\nuse_zero_pages = yes", AT(use_zero_pages), 1},
                {"[merge]\nuse_zero_pages = true", AT(use_zero_pages), 1},
                {"[merge]\nuse_zero_pages = on", AT(use_zero_pages), 1},
                {"[merge]\nuse_zero_pages = 1", AT(use_zero_pages), 1},
                {"[merge]\npool_max_bytes = 0", AT(pool_max_bytes), 0},
                {"[merge]\npool_max_bytes = 3", AT(pool_max_bytes), 3},
                {"[merge]\npool_max_bytes = 3K", AT(pool_max_bytes), UINT64_C(3) << 10},
                {"[merge]\npool_max_bytes = 3M", AT(pool_max_bytes), UINT64_C(3) << 20},
                {"[merge]\npool_max_bytes = 3G", AT(pool_max_bytes), UINT64_C(3) << 30},
                {"[merge]\npool_max_bytes = 3T", AT(pool_max_bytes), UINT64_C(3) << 40},
                {"[merge]\npool_max_bytes = 16777215T", AT(pool_max_bytes), UINT64_C(16777215) << 40},
                {"[merge]\npool_max_bytes = 18446744073709551615", AT(pool_max_bytes), UINT64_MAX},
                {"[limits]\nmax_bytes_per_uid = 4K", AT(max_bytes_per_uid), 4096},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char error[CONFIG_MAX_ERROR];
                struct config config;
                uint64_t value;

                config_init(&config);
                if (parse(&config, cases[i].text, error) != 0)
                        fail_msg("%s: %s", cases[i].text, error);
                memcpy(&value, (char *)&config + cases[i].offset, sizeof(value));
                if (value != cases[i].value)
                        fail_msg("%s: %" PRIu64, cases[i].text, value);
        }
}

static void test_refused(void **state)
{
        static const struct {
                const char *text;
                const char *error; /* the beginning of it */
        } cases[] = {
                {"[scan]\nsleep_millisecs = 9\n",
                 "f:2: scan.sleep_millisecs: '9' is not a number from 10 to 3600000"},
                {"[scan]\n\nsleep_millisecs = 3600001\n", "f:3: scan.sleep_millisecs: '3600001' is not"},
                {"[scan]\nsleep_millisecs =\n", "f:2: scan.sleep_millisecs: '' is not"},
                {"[scan]\nsleep_millisecs = -20\n", "f:2: scan.sleep_millisecs: '-20'"},
                {"[scan]\nsleep_millisecs = +20\n", "f:2: scan.sleep_millisecs: '+20'"},
                {"[scan]\nsleep_millisecs = 0x20\n", "f:2: scan.sleep_millisecs: '0x20'"},
                {"[scan]\nsleep_millisecs = 20.5\n", "f:2: scan.sleep_millisecs: '20.5'"},
                {"[scan]\nsleep_millisecs = 20 30\n", "f:2: scan.sleep_millisecs: '20 30'"},
                {"[scan]\nsleep_millisecs = 20 # remark\n", "f:2: scan.sleep_millisecs: '20 # remark'"},
                {"[scan]\nsleep_millisecs = 20;remark\n", "f:2: scan.sleep_millisecs: '20;remark'"},
                {"[scan]\nsleep_millisecs = 20K\n", "f:2: scan.sleep_millisecs: '20K'"},
                {"[scan]\nsleep_millisecs = 18446744073709551636\n", "f:2: scan.sleep_millisecs: '1844"},
                {"[scan]\nsleep_millisecs = 2\x1b[2J\n", "f:2: scan.sleep_millisecs: '2?[2J'"},
                {"[scan]\nsleep_millisecs = 20\nsleep_millisecs = 20\n",
                 "f:3: scan.sleep_millisecs: given twice"},
                {"[scan]\nsleep_millisecs = 20\n[scan]\nsleep_millisecs = 20\n",
                 "f:4: scan.sleep_millisecs: given twice"},
                {"[scan]\nsleep_millisecs\n", "f:2: neither"},
                {"[scan]\nsleep_millisecs\n\nmax_cpu_percent = 0\n", "f:2: neither"},
                {"[scan]\nmax_cpu_percent = 0\n\nsleep_millisecs\n", "f:2: scan.max_cpu_percent: '0'"},
                {"[scan]\nsleep = 20\n", "f:2: scan.sleep: no such key"},
                {"[scan]\nSleep_millisecs = 20\n", "f:2: scan.Sleep_millisecs: no such key"},
                {"[scan]\nuse_zero_pages = yes\n", "f:2: scan.use_zero_pages: no such key"},
                {"[scan]\n = 20\n", "f:2: scan.: no such key"},
                {"sleep_millisecs = 20\n", "f:1: sleep_millisecs: comes before any section"},
                {"[sca]\n", "f:1: [sca]: no such section"},
                {"[scan\n", "f:1: a section without ']'"},
                {"[]\n", "f:1: []: no such section"},
                {"[ scan ]\n", "f:1: [ scan ]: no such section"},
                {"\n[scan] sleep_millisecs = 20\n", "f:2: [scan]: text after the section"},
                {"[\x01\x7f\xff]\n", "f:1: [???]: no such section"},
                {"[merge]\nuse_zero_pages = maybe\n", "f:2: merge.use_zero_pages: 'maybe' is not yes or no"},
                {"[merge]\nuse_zero_pages = 2\n", "f:2: merge.use_zero_pages: '2'"},
                {"[merge]\nuse_zero_pages = YES\n", "f:2: merge.use_zero_pages: 'YES'"},
                {"[merge]\nuse_zero_pages =\n", "f:2: merge.use_zero_pages: ''"},
                {"[merge]\npool_max_bytes = 3KB\n",
                 "f:2: merge.pool_max_bytes: '3KB' is not a size in bytes"},
                {"[merge]\npool_max_bytes = 3 K\n", "f:2: merge.pool_max_bytes: '3 K'"},
                {"[merge]\npool_max_bytes = 3P\n", "f:2: merge.pool_max_bytes: '3P'"},
                {"[merge]\npool_max_bytes = K\n", "f:2: merge.pool_max_bytes: 'K'"},
                {"[merge]\npool_max_bytes = 16777216T\n", "f:2: merge.pool_max_bytes: '16777216T'"},
                {"[merge]\npool_max_bytes = 18446744073709551616\n", "f:2: merge.pool_max_bytes: '1844"},
                {"[limits]\nmax_bytes_per_uid = 4095\n",
                 "f:2: limits.max_bytes_per_uid: '4095' is not a size in bytes (K, M, G, T may follow) of at "
                 "least 4096"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char error[CONFIG_MAX_ERROR];
                struct config config, before;

                config_init(&config);
                before = config;
                assert_int_equal(parse(&config, cases[i].text, error), -EINVAL);
                if (strncmp(error, cases[i].error, strlen(cases[i].error)))
                        fail_msg("%s: %s", cases[i].text, error);
                assert_memory_equal(&config, &before, sizeof(config));
        }
}

static void test_bytes(void **state)
{
        static const char nul[] = "[scan]\nsleep_millisecs = 20\0 30\n";
        char error[CONFIG_MAX_ERROR], line[4096];
        struct config config;

        config_init(&config);
        assert_int_equal(config_parse(&config, nul, sizeof(nul) - 1, "f", error), -EINVAL);
        assert_string_equal(error, "f:2: a NUL byte");

        /* As long as can be, and one byte more: white space at both ends does not count. */
        for (size_t n = 1; n < sizeof(line) - 1; n++) {
                memset(line, '#', n);
                line[n] = '\0';
                if (parse(&config, line, error) == 0)
                        continue;
                assert_in_range(n, 150, 300);
                assert_non_null(strstr(error, "f:1: a line of more than "));
                assert_int_equal(strtoul(error + strlen("f:1: a line of more than "), NULL, 10), n - 1);
                break;
        }
        memset(line, ' ', sizeof(line));
        strcpy(line, "[scan]\n");
        line[strlen(line)] = ' ';
        strcpy(line + sizeof(line) - 32, "sleep_millisecs = 20");
        assert_int_equal(parse(&config, line, error), 0);
        assert_int_equal(config.sleep_millisecs, 20);
}

/* A long name of a file must not push line and key out of the message. */
static void test_long_name(void **state)
{
        char error[CONFIG_MAX_ERROR], name[1024];
        struct config config;

        memset(name, 'n', sizeof(name) - 1);
        name[sizeof(name) - 1] = '\0';
        config_init(&config);
        assert_int_equal(config_parse(&config, "[scan]\nmax_cpu_percent = 0\n", 27, name, error), -EINVAL);
        assert_non_null(strstr(error, ":2: scan.max_cpu_percent: '0' is not a number from 1 to 100"));
}

static void test_set(void **state)
{
        static const struct {
                const char *key;
                const char *value;
                bool runtime;
                int result;
        } cases[] = {
                {"sleep_millisecs", "20", true, 0},
                {"scan.sleep_millisecs", "20", true, 0},
                {"merge.sleep_millisecs", "20", true, -ENOENT},
                {"sca.sleep_millisecs", "20", true, -ENOENT},
                {"scan.", "20", true, -ENOENT},
                {".sleep_millisecs", "20", true, -ENOENT},
                {"", "20", true, -ENOENT},
                {"sleep_millisecs", " 20", true, -EINVAL},
                {"sleep_millisecs", "20\n", true, -EINVAL},
                {"sleep_millisecs", "", true, -EINVAL},
                {"max_clients", "20", true, -EPERM},
                {"max_clients", "20", false, 0},
                {"max_clients", "0", false, -EINVAL},
                {"pool_max_bytes", "1G", true, 0},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char error[CONFIG_MAX_ERROR] = "";
                struct config config, before;
                int r;

                config_init(&config);
                before = config;
                r = config_set(&config, cases[i].key, cases[i].value, cases[i].runtime, error);
                if (r != cases[i].result)
                        fail_msg("%s = %s: %d %s", cases[i].key, cases[i].value, r, error);
                assert_int_equal(r < 0, error[0] != '\0');
                assert_int_equal(r < 0, !memcmp(&config, &before, sizeof(config)));
        }
}

/* What `wpctl get` prints can be given to `wpctl set`. */
static void test_format(void **state)
{
        struct config config, again;
        char error[CONFIG_MAX_ERROR], text[64], small[3];

        config_init(&config);
        assert_int_equal(parse(&config, "[merge]\npool_max_bytes = 3G\nuse_zero_pages = no\n", error), 0);
        config_init(&again);
        for (size_t i = 0; i < config_n_keys; i++) {
                config_format(&config, &config_keys[i], text, sizeof(text));
                assert_int_equal(config_set(&again, config_keys[i].name, text, false, error), 0);
        }
        assert_memory_equal(&config, &again, sizeof(config));
        config_format(&config, config_find("merge.pool_max_bytes"), text, sizeof(text));
        assert_string_equal(text, "3221225472");
        config_format(&config, config_find("use_zero_pages"), text, sizeof(text));
        assert_string_equal(text, "no");
        config_format(&config, config_find("pool_max_bytes"), small, sizeof(small));
        assert_string_equal(small, "32");
}

/* Files: a directory of the test's own, `wpd.conf` and `wpd.conf.d` in it. */
struct files {
        char directory[64];
        char path[PATH_MAX];
};

static void put(const struct files *files, const char *name, const char *text)
{
        char path[PATH_MAX];
        int fd;

        snprintf(path, sizeof(path), "%s/%s", files->directory, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, text, strlen(text)), strlen(text));
        close(fd);
}

static void make_directory(const struct files *files, const char *name)
{
        char path[PATH_MAX];

        snprintf(path, sizeof(path), "%s/%s", files->directory, name);
        assert_int_equal(mkdir(path, 0700), 0);
}

static int setup_files(void **state)
{
        struct files *files = malloc(sizeof(*files));

        if (!files)
                return -1;
        strcpy(files->directory, "/tmp/wpd-test-config-XXXXXX");
        if (!mkdtemp(files->directory))
                return -1;
        snprintf(files->path, sizeof(files->path), "%s/wpd.conf", files->directory);
        *state = files;
        return 0;
}

static void remove_tree(const char *path)
{
        DIR *directory = opendir(path);
        struct dirent *entry;

        while (directory && (entry = readdir(directory))) {
                char inner[PATH_MAX];

                if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
                        continue;
                snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
                if (entry->d_type == DT_DIR)
                        remove_tree(inner);
                else
                        unlink(inner);
        }
        if (directory)
                closedir(directory);
        rmdir(path);
}

static int teardown_files(void **state)
{
        struct files *files = *state;

        remove_tree(files->directory);
        free(files);
        return 0;
}

static void test_missing(void **state)
{
        const struct files *files = *state;
        char error[CONFIG_MAX_ERROR];
        struct config config, before;

        config_init(&config);
        before = config;
        assert_int_equal(config_load(&config, files->path, false, error), 0);
        assert_memory_equal(&config, &before, sizeof(config));
        assert_int_equal(config_load(&config, files->path, true, error), -ENOENT);
        assert_non_null(strstr(error, "wpd.conf: No such file or directory"));
}

static void test_drop_ins(void **state)
{
        const struct files *files = *state;
        char error[CONFIG_MAX_ERROR], path[PATH_MAX];
        struct config config, before;

        make_directory(files, "wpd.conf.d");
        put(files, "wpd.conf.d/20-b.conf", "[scan]\nsleep_millisecs = 30\nmax_cpu_percent = 30\n");
        put(files, "wpd.conf.d/10-a.conf", "[scan]\nsleep_millisecs = 20\nmax_cpu_percent = 20\n");
        put(files, "wpd.conf.d/99-z.conf.bak", "nonsense");
        put(files, "wpd.conf.d/.99-z.conf", "nonsense");
        put(files, "wpd.conf.d/.conf", "nonsense");
        snprintf(path, sizeof(path), "%s/wpd.conf.d/50-masked.conf", files->directory);
        assert_int_equal(symlink("/dev/null", path), 0);

        /* Drop-ins count without the file, and before it is missed. */
        config_init(&config);
        assert_int_equal(config_load(&config, files->path, false, error), 0);
        assert_int_equal(config.sleep_millisecs, 30);

        put(files, "wpd.conf", "[scan]\nsleep_millisecs = 15\n[merge]\nmin_run_pages = 4\n");
        config_init(&config);
        assert_int_equal(config_load(&config, files->path, true, error), 0);
        assert_int_equal(config.sleep_millisecs, 30);
        assert_int_equal(config.max_cpu_percent, 30);
        assert_int_equal(config.min_run_pages, 4);

        /* One bad drop-in, and nothing is taken from any. */
        put(files, "wpd.conf.d/15-bad.conf", "[scan]\n\nsleep_millisecs = x\n");
        config_init(&config);
        before = config;
        assert_int_equal(config_load(&config, files->path, true, error), -EINVAL);
        assert_non_null(strstr(error, "/wpd.conf.d/15-bad.conf:3: scan.sleep_millisecs: 'x' is not"));
        assert_memory_equal(&config, &before, sizeof(config));
}

static void test_kinds(void **state)
{
        const struct files *files = *state;
        char error[CONFIG_MAX_ERROR], path[PATH_MAX];
        static char big[CONFIG_MAX_FILE + 2];
        struct config config;

        config_init(&config);
        for (size_t i = 0; i < sizeof(big) - 1; i++)
                big[i] = i % 64 ? '#' : '\n';
        big[CONFIG_MAX_FILE] = '\0';
        put(files, "wpd.conf", big);
        assert_int_equal(config_load(&config, files->path, true, error), 0);
        big[CONFIG_MAX_FILE] = '#';
        put(files, "wpd.conf", big);
        assert_int_equal(config_load(&config, files->path, true, error), -EFBIG);

        make_directory(files, "wpd.conf.d");
        assert_int_equal(unlink(files->path), 0);
        snprintf(path, sizeof(path), "%s/wpd.conf.d/fifo.conf", files->directory);
        assert_int_equal(mkfifo(path, 0600), 0);
        assert_int_equal(config_load(&config, files->path, false, error), -EINVAL);
        assert_non_null(strstr(error, "/fifo.conf: "));
        assert_int_equal(unlink(path), 0);

        assert_int_equal(mkdir(files->path, 0700), 0);
        assert_int_equal(config_load(&config, files->path, false, error), -EISDIR);
}

static char *read_document(const char *name)
{
        char path[PATH_MAX];
        char *text = calloc(1, 65536);
        int fd;

        snprintf(path, sizeof(path), "%s/%s", TEST_SOURCE_ROOT, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                fail_msg("%s: %s", path, strerror(errno));
        assert_non_null(text);
        assert_in_range(read(fd, text, 65535), 1, 65534);
        close(fd);
        return text;
}

/* The installed file changes nothing; each line of it that is put into force says the default. */
static void test_installed_file(void **state)
{
        _cleanup_free_ char *text = read_document("systemd/wpd.conf");
        char error[CONFIG_MAX_ERROR];
        struct config config, defaults;

        config_init(&defaults);
        config_init(&config);
        if (parse(&config, text, error) != 0)
                fail_msg("%s", error);
        assert_memory_equal(&config, &defaults, sizeof(config));

        for (size_t i = 0; i < config_n_keys; i++) {
                char wanted[64];
                char *line;

                snprintf(wanted, sizeof(wanted), "\n#%s = ", config_keys[i].name);
                line = strstr(text, wanted);
                if (!line)
                        fail_msg("%s is not in wpd.conf", config_keys[i].name);
                line[1] = ' ';
                assert_null(strstr(line, wanted));
        }
        memset(&config, 0xff, sizeof(config));
        if (parse(&config, text, error) != 0)
                fail_msg("%s", error);
        assert_memory_equal(&config, &defaults, sizeof(config));
}

/* Every key has its paragraph in the manual, with its type and its default. */
static void test_manual(void **state)
{
        _cleanup_free_ char *text = read_document("doc/wpd.conf.5");
        struct config config, defaults;

        config_init(&defaults);
        memset(&config, 0xff, sizeof(config));
        for (size_t i = 0; i < config_n_keys; i++) {
                const struct config_key *key = &config_keys[i];
                char wanted[128], value[32], error[CONFIG_MAX_ERROR];
                const char *line;

                snprintf(wanted, sizeof(wanted), "\n.It Ic %s Ns = Ns Ar %s Pq default ", key->name,
                         key->flag   ? "flag"
                         : key->size ? "size"
                                     : "number");
                line = strstr(text, wanted);
                if (!line)
                        fail_msg("wpd.conf.5 does not have:%s", wanted);
                line += strlen(wanted);
                snprintf(value, sizeof(value), "%.*s", (int)strcspn(line, "\n"), line);
                if (config_set(&config, key->name, value, false, error) != 0)
                        fail_msg("wpd.conf.5: %s", error);
        }
        assert_memory_equal(&config, &defaults, sizeof(config));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_defaults),
                cmocka_unit_test(test_accepted),
                cmocka_unit_test(test_refused),
                cmocka_unit_test(test_bytes),
                cmocka_unit_test(test_long_name),
                cmocka_unit_test(test_set),
                cmocka_unit_test(test_format),
                cmocka_unit_test_setup_teardown(test_missing, setup_files, teardown_files),
                cmocka_unit_test_setup_teardown(test_drop_ins, setup_files, teardown_files),
                cmocka_unit_test_setup_teardown(test_kinds, setup_files, teardown_files),
                cmocka_unit_test(test_installed_file),
                cmocka_unit_test(test_manual),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
