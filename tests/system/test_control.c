/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Controlling the daemon: wpctl, rights, settings, configuration. */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/pair.h"

#define N_PAGES     512
#define OUTPUT      (256 << 10)
#define MAX_COLUMNS 100

static char output[OUTPUT]; /* of the last program that was run */

/* ------------------------------------------------------------------ running programs */

/* Runs a program as that user; output and errors go to `output`. Returns its exit status. */
static int run(uid_t uid, const char *const *arguments)
{
        pid_t parent = getpid(), pid;
        size_t used = 0;
        int ends[2], status;
        ssize_t n;

        CHECK_OK(error_from(pipe2(ends, O_CLOEXEC)));
        pid = fork();
        CHECK(pid >= 0, "%m");
        if (!pid) {
                CHECK(dup2(ends[1], STDOUT_FILENO) >= 0 && dup2(ends[1], STDERR_FILENO) >= 0, "%m");
                harness_become(uid, parent);
                execv(arguments[0], (char *const *)arguments);
                CHECK(false, "%s: %m", arguments[0]);
        }
        close(ends[1]);
        while ((n = read(ends[0], output + used, sizeof(output) - 1 - used)) > 0)
                used += (size_t)n;
        output[used] = '\0';
        close(ends[0]);
        status = harness_reap(pid);
        CHECK(WIFEXITED(status), "%s ended with status %#x", arguments[0], (unsigned)status);
        return WEXITSTATUS(status);
}

/* wpctl, with words that are separated by blanks. */
static int wpctl(uid_t uid, const char *socket, const char *line)
{
        const char *arguments[16] = {harness_wpctl()};
        char option[160], words[256];
        unsigned n = 1;

        snprintf(option, sizeof(option), "--socket=%s", socket);
        arguments[n++] = option;
        snprintf(words, sizeof(words), "%s", line);
        for (char *rest, *word = strtok_r(words, " ", &rest); word && n < 15;
             word = strtok_r(NULL, " ", &rest))
                arguments[n++] = word;
        return run(uid, arguments);
}

static void check_wpctl(uid_t uid, const char *socket, const char *line, int expected)
{
        int status = wpctl(uid, socket, line);

        CHECK(status == expected, "wpctl %s, as user %u, ends with %d instead of %d: %s", line, (unsigned)uid,
              status, expected, output);
        CHECK(!expected || strlen(output) > 0, "wpctl %s does not say why", line);
}

/* ------------------------------------------------------------------ verbs */

static void check_columns(const char *verb)
{
        for (const char *line = output, *end; *line; line = *end ? end + 1 : end) {
                size_t columns = 0;

                end = strchrnul(line, '\n');
                for (const char *c = line; c < end; c++)
                        columns += ((unsigned char)*c & 0xc0) != 0x80;
                CHECK(columns <= MAX_COLUMNS, "wpctl %s: a line of %zu columns: %.*s", verb, columns,
                      (int)(end - line), line);
        }
}

static json_t *parse_output(const char *what)
{
        json_error_t error;
        json_t *document = json_loads(output, 0, &error);

        CHECK(document, "wpctl %s: %s", what, error.text);
        return document;
}

static const char *const status_fields[] = {
        "version",          "state",          "uptime_seconds", "clients",          "regions",
        "bytes_registered", "pages_tracked",  "pages_shared",   "pages_sharing",    "pages_unshared",
        "pages_volatile",   "zero_pages",     "pages_scanned",  "pages_skipped",    "full_scans",
        "merges",           "merge_failures", "write_faults",   "unmerges",         "general_profit",
        "metadata_bytes",   "vmas",           "cpu_seconds",    "fault_latency_us", "files",
        "files_leased",     "file_pages",     "lease_breaks",   "lease_break_us",
};

static void verbs(uid_t uid)
{
        static const char *const lines[] = {"status",
                                            "clients",
                                            "regions",
                                            "doctor",
                                            "get",
                                            "scan --wait",
                                            "scan",
                                            "pause",
                                            "resume",
                                            "set max_cpu_percent=99",
                                            "get max_cpu_percent"};
        struct pair pair;
        char line[64];
        json_t *document;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                check_wpctl(0, pair.service.control_path, lines[i], 0);
                check_columns(lines[i]);
                snprintf(line, sizeof(line), "--json %s", lines[i]);
                check_wpctl(0, pair.service.control_path, line, 0);
                json_decref(parse_output(line));
        }
        for (size_t i = 0; i < 2; i++) {
                snprintf(line, sizeof(line), "%s %d", i ? "regions" : "doctor", pair.clients[0].pid);
                check_wpctl(0, pair.service.control_path, line, 0);
                check_columns(line);
        }
        check_wpctl(0, pair.service.control_path, "--json status", 0);
        document = parse_output("status");
        for (size_t i = 0; i < ARRAY_SIZE(status_fields); i++)
                CHECK(json_object_get(document, status_fields[i]), "status has no %s", status_fields[i]);
        CHECK(json_integer_value(json_object_get(document, "pages_sharing")) == N_PAGES, "%s", output);
        CHECK(json_integer_value(json_object_get(document, "clients")) == 2, "%s", output);
        json_decref(document);
        check_wpctl(0, pair.service.control_path, "get max_cpu_percent", 0);
        CHECK(!strcmp(output, "99\n"), "get says: %s", output);
        pair_end(&pair);
}

/* The rows that are about one process. */
static size_t rows_of(const char *key, pid_t pid, bool *ret_address)
{
        json_t *document = parse_output(key);
        const json_t *rows = json_object_get(document, key);
        size_t n = 0;

        CHECK(json_is_array(rows), "there is no %s: %s", key, output);
        *ret_address = false;
        for (size_t i = 0; i < json_array_size(rows); i++) {
                const json_t *row = json_array_get(rows, i);

                if (json_integer_value(json_object_get(row, "pid")) != pid)
                        continue;
                n++;
                *ret_address |= json_object_get(row, "address") != NULL;
        }
        json_decref(document);
        return n;
}

static void exit_statuses(uid_t uid)
{
        struct service service;
        char nowhere[160];

        service_start(&service, NULL);
        snprintf(nowhere, sizeof(nowhere), "%s/no.sock", harness_directory());
        check_wpctl(uid, nowhere, "status", 3);
        check_wpctl(uid, service.control_path, "", 2);
        check_wpctl(uid, service.control_path, "frobnicate", 2);
        check_wpctl(uid, service.control_path, "status now", 2);
        check_wpctl(uid, service.control_path, "regions x", 2);
        check_wpctl(uid, service.control_path, "--frobnicate status", 2);
        check_wpctl(uid, service.control_path, "pause --wait", 2);
        check_wpctl(uid, service.control_path, "set max_cpu_percent", 2);
        check_wpctl(uid, service.control_path, "regions 1", 1);
        check_wpctl(uid, service.control_path, "get frobnicate", 1);
        check_wpctl(0, service.control_path, "set frobnicate=1", 1);
        check_wpctl(0, service.control_path, "set max_cpu_percent=101", 1);
        check_wpctl(0, service.control_path, "set max_cpu_percent=many", 1);
        check_wpctl(0, service.control_path, "set max_clients=5", 1);
        check_wpctl(0, service.control_path, "scan 1", 1);
        check_wpctl(0, service.control_path, "pause", 0);
        check_wpctl(0, service.control_path, "scan --wait", 1);
        check_wpctl(0, service.control_path, "resume", 0);
        check_wpctl(0, service.control_path, "scan --wait", 0);
        service_stop(&service);
}

/* What an ordinary user may do, and what not; the second client is root's. */
static void rights(uid_t uid)
{
        static const char *const refused[] = {
                "pause", "resume", "scan", "scan --wait", "set max_cpu_percent=1", "set frobnicate=1"};
        static const char *const allowed[] = {"status", "clients", "regions", "doctor", "get"};
        struct client own, roots;
        struct service service;
        bool addresses;
        char line[64];

        service_start(&service, NULL);
        for (int i = 0; i < 2; i++) {
                struct client *client = i ? &roots : &own;

                client_start(client, i ? 0 : uid);
                CHECK_OK(client_do(client, program_map, 0, N_PAGES, (long)pair_content));
                CHECK_OK(client_do(client, program_connect, (long)service.client_path, 0, 0));
                CHECK_OK(client_do(client, program_register, 0, WP_MERGE, 0));
        }
        for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
                check_wpctl(uid, service.control_path, refused[i], 1);
        for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
                check_wpctl(uid, service.control_path, allowed[i], 0);
        check_wpctl(uid, service.control_path, "get max_cpu_percent", 0);
        CHECK(!strcmp(output, "100\n"), "the setting was changed: %s", output);
        check_wpctl(uid, service.control_path, "--json status", 0);
        CHECK(!strstr(output, "paused"), "scanning was paused: %s", output);
        snprintf(line, sizeof(line), "scan --wait %d", own.pid);
        check_wpctl(uid, service.control_path, line, 0);
        snprintf(line, sizeof(line), "scan --wait %d", roots.pid);
        check_wpctl(uid, service.control_path, line, 1);
        check_wpctl(0, service.control_path, line, 0);
        /* Where others' memory lies is not told. */
        check_wpctl(uid, service.control_path, "--json regions", 0);
        CHECK(rows_of("regions", own.pid, &addresses) == 1 && addresses, "%s", output);
        CHECK(rows_of("regions", roots.pid, &addresses) == 1 && !addresses, "%s", output);
        check_wpctl(0, service.control_path, "--json regions", 0);
        CHECK(rows_of("regions", own.pid, &addresses) == 1 && addresses, "%s", output);
        for (int i = 0; i < 2; i++) {
                struct client *client = i ? &roots : &own;

                client_do(client, program_verify, 0, 0, 0);
                CHECK_OK(client_do(client, program_disconnect, 0, 0, 0));
                client_stop(client);
        }
        service_stop(&service);
}

/* ------------------------------------------------------------------ pausing */

static void pausing(uid_t uid)
{
        struct harness_patience patience = HARNESS_PATIENCE_INIT;
        struct pair pair;
        int64_t scanned;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE | WP_NOTIFY);
        check_wpctl(0, pair.service.control_path, "pause", 0);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair.clients[i], program_map, 1, N_PAGES, (long)pair_content));
                CHECK_OK(client_do(&pair.clients[i], program_register, 1, WP_MERGE, 0));
        }
        scanned = service_figure(&pair.service, "pages_scanned");
        /* Writes are served, and told, all the same. */
        CHECK_OK(client_do(&pair.clients[0], program_store, 0, 5 * (long)PAGE_BYTES, 0));
        CHECK(client_do(&pair.clients[0], program_wait_event, 0, 0, 0) == WP_EVENT_WRITE, "another event");
        for (int i = 0; i < 60; i++)
                harness_wait(&patience);
        CHECK(service_figure(&pair.service, "pages_scanned") == scanned, "pages were scanned");
        CHECK(service_figure(&pair.service, "pages_sharing") <= N_PAGES, "sharing is %lld",
              (long long)service_figure(&pair.service, "pages_sharing"));
        pair_verify(&pair);
        check_wpctl(0, pair.service.control_path, "resume", 0);
        /* The page that was written has company again. */
        service_settle(&pair.service, "pages_sharing", 3 * N_PAGES - 1);
        for (long i = 0; i < 2; i++)
                client_do(&pair.clients[i], program_verify, 1, 0, 0);
        for (long i = 0; i < 2; i++) {
                CHECK_OK(client_do(&pair.clients[i], program_unregister, 1, 0, 0));
                CHECK_OK(client_do(&pair.clients[i], program_unmap, 1, 0, 0));
        }
        pair_end(&pair);
}

/* ------------------------------------------------------------------ configuration */

static bool setting_is(const struct service *service, const char *key, const char *value)
{
        json_t *reply = service_call(service, "Get", json_pack("{s:s}", "key", key));
        const char *seen = json_string_value(json_object_get(json_object_get(reply, "settings"), key));
        bool is;

        CHECK(seen, "there is no setting %s", key);
        is = !strcmp(seen, value);
        json_decref(reply);
        return is;
}

static void reload(uid_t uid)
{
        struct pair pair;

        pair_begin(&pair, uid, NULL, N_PAGES, WP_MERGE);
        CHECK(setting_is(&pair.service, "max_regions_per_client", "1024"), "another default");
        service_write_config(&pair.service, "[limits]\nmax_regions_per_client = 7\n");
        CHECK_OK(error_from(kill(pair.service.pid, SIGHUP)));
        CHECK_SOON(setting_is(&pair.service, "max_regions_per_client", "7"),
                   "the configuration is not read again");
        service_write_config(&pair.service, "[limits]\nmax_regions_per_client = 9\nfrobnicate = 1\n");
        CHECK_OK(error_from(kill(pair.service.pid, SIGHUP)));
        CHECK_SOON(service_log_lines("frobnicate"), "the log does not say what is wrong");
        CHECK(setting_is(&pair.service, "max_regions_per_client", "7"), "half of a wrong file was taken");
        CHECK(service_figure(&pair.service, "pages_sharing") == N_PAGES, "something was given back");
        pair_verify(&pair);
        /* The line that was logged is an error, and expected: the end is checked by hand. */
        pair_leave(&pair, false);
        service_end(&pair.service, SIGTERM);
        CHECK(!rmdir(pair.service.directory), "the daemon left a file in its directory: %m");
}

static void check_wpd(int expected, const char *words, const char *a, const char *b)
{
        const char *const arguments[] = {harness_wpd(), a, b, NULL};
        int status = run(0, arguments);

        CHECK(status == expected, "wpd %s %s ends with %d instead of %d: %s", a, b ? b : "", status, expected,
              output);
        CHECK(strstr(output, words), "wpd %s %s does not say '%s' but: %s", a, b ? b : "", words, output);
}

static void wrong_configuration(uid_t uid)
{
        static const struct {
                const char *text;
                const char *words[3];
        } files[] = {
                {"[scan]\nsleep_millisecs = 20\nfrobnicate = 1\n", {"wrong.conf:3", "frobnicate", ""}},
                {"[frob]\nsleep_millisecs = 20\n", {"wrong.conf:1", "frob", ""}},
                {"[scan]\n\nmax_cpu_percent = 101\n", {"wrong.conf:3", "max_cpu_percent", "101"}},
                {"[scan]\nmax_cpu_percent = many\n", {"wrong.conf:2", "max_cpu_percent", "many"}},
                {"[merge]\nuse_zero_pages = perhaps\n", {"wrong.conf:2", "use_zero_pages", "perhaps"}},
                {"[merge]\nuse_zero_pages = no\nuse_zero_pages = no\n",
                 {"wrong.conf:3", "use_zero_pages", ""}},
        };
        char path[128], config[160], runtime[160];

        snprintf(path, sizeof(path), "%s/wrong.conf", harness_directory());
        snprintf(config, sizeof(config), "--config=%s", path);
        snprintf(runtime, sizeof(runtime), "--runtime-dir=%s/run", harness_directory());
        check_wpd(2, path, config, runtime);
        for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
                FILE *file = fopen(path, "we");

                CHECK(file && fputs(files[i].text, file) >= 0 && !fclose(file), "%s: %m", path);
                for (size_t word = 0; word < ARRAY_SIZE(files[i].words); word++)
                        check_wpd(2, files[i].words[word], config, runtime);
        }
        CHECK(access(runtime + strlen("--runtime-dir="), F_OK) < 0, "the runtime directory was made");
}

static void command_line(uid_t uid)
{
        struct service service;
        char runtime[160], config[160];

        check_wpd(0, "wpd ", "--version", NULL);
        check_wpd(0, "--runtime-dir", "--help", NULL);
        check_wpd(2, "frobnicate", "--frobnicate", NULL);
        check_wpd(2, "frobnicate", "frobnicate", NULL);
        check_wpd(2, "frob", "--log-level=frob", NULL);
        /* A second daemon does not take away the first one's sockets. */
        service_start(&service, NULL);
        snprintf(runtime, sizeof(runtime), "--runtime-dir=%s", service.directory);
        snprintf(config, sizeof(config), "--config=%s", service.config_path);
        check_wpd(1, "another wpd", runtime, config);
        CHECK(service_figure(&service, "clients") == 0, "the first daemon does not answer");
        service_stop(&service);
}

static const struct harness_test tests[] = {
        HARNESS_USER(verbs),        HARNESS_USER(exit_statuses), HARNESS_USER(rights),
        HARNESS_BOTH(pausing),      HARNESS_USER(reload),        HARNESS_ROOT(wrong_configuration),
        HARNESS_ROOT(command_line),
};

HARNESS_MAIN(tests)
