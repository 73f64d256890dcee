/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The daemon under test. */

#include "system/service.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "system/harness.h"
#include "system/program.h"
#include "util/cleanup.h"

#define REPLY_BYTES  ((size_t)4 << 20)
#define SETTLE_SCANS 400

static const char default_config[] = "[scan]\n"
                                     "sleep_millisecs = 20\n"
                                     "sleep_max_millisecs = 500\n"
                                     "max_cpu_percent = 100\n";

/* ------------------------------------------------------------------ the control socket */

static int connect_control(const char *path)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int fd = (int)CHECK_OK(error_from(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)));

        CHECK(strlen(path) < sizeof(address.sun_path), "%s", path);
        memcpy(address.sun_path, path, strlen(path));
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return fd_close(fd);
        return fd;
}

static void send_call(int fd, const char *method, json_t *parameters)
{
        char name[128];
        json_t *call;
        char *text;

        snprintf(name, sizeof(name), "io.wpd.Control.%s", method);
        call = json_pack("{s:s, s:o}", "method", name, "parameters", parameters ? parameters : json_object());
        text = json_dumps(call, JSON_COMPACT);
        CHECK(send(fd, text, strlen(text) + 1, MSG_NOSIGNAL) == (ssize_t)strlen(text) + 1, "%m");
        free(text);
        json_decref(call);
}

/* One NUL-terminated document. */
static json_t *receive_reply(int fd)
{
        char *text = malloc(REPLY_BYTES);
        json_error_t error;
        size_t used = 0;
        json_t *reply;

        CHECK(text, "out of memory");
        while (!used || text[used - 1]) {
                ssize_t n = recv(fd, text + used, REPLY_BYTES - used, 0);

                CHECK(n > 0, "the daemon hung up: %s", n ? strerror(errno) : "end of file");
                used += (size_t)n;
        }
        reply = json_loads(text, 0, &error);
        CHECK(reply, "the reply is not JSON: %s", error.text);
        free(text);
        return reply;
}

json_t *service_ask(const char *control_path, const char *method, json_t *parameters, char ret_error[64])
{
        int fd = connect_control(control_path);
        json_t *reply, *result = NULL;
        const char *error;

        CHECK(fd >= 0, "%s cannot be connected: %m", control_path);
        send_call(fd, method, parameters);
        reply = receive_reply(fd);
        close(fd);
        error = json_string_value(json_object_get(reply, "error"));
        if (error) {
                const char *dot = strrchr(error, '.');

                snprintf(ret_error, 64, "%s", dot ? dot + 1 : error);
        } else {
                result = json_incref(json_object_get(reply, "parameters"));
        }
        json_decref(reply);
        return result;
}

json_t *service_call(const struct service *service, const char *method, json_t *parameters)
{
        char error[64];
        json_t *result = service_ask(service->control_path, method, parameters, error);

        CHECK(result, "%s: refused: %s", method, error);
        return result;
}

int64_t service_figure(const struct service *service, const char *name)
{
        json_t *status = service_call(service, "Status", NULL);
        const json_t *value = json_object_get(status, name);
        int64_t figure;

        CHECK(json_is_integer(value), "status has no %s", name);
        figure = json_integer_value(value);
        json_decref(status);
        return figure;
}

void service_scan(const struct service *service)
{
        json_decref(service_call(service, "Scan", json_pack("{s:b}", "wait", 1)));
}

/* For whoever reads the report of a failure. */
static void show(const struct service *service, const char *method)
{
        json_t *reply = service_call(service, method, NULL);

        printf("----- %s\n", method);
        json_dumpf(reply, stdout, JSON_INDENT(1));
        printf("\n");
        fflush(stdout);
        json_decref(reply);
}

void service_settle(const struct service *service, const char *name, int64_t value)
{
        int64_t figure = -1;

        for (unsigned i = 0; i < SETTLE_SCANS && figure != value; i++) {
                service_scan(service);
                figure = service_figure(service, name);
        }
        if (figure != value) {
                show(service, "Status");
                show(service, "Clients");
                show(service, "Doctor");
        }
        CHECK(figure == value, "%s is %lld instead of %lld", name, (long long)figure, (long long)value);
        for (unsigned i = 0; i < 2; i++) {
                service_scan(service);
                figure = service_figure(service, name);
                CHECK(figure == value, "%s was %lld and is %lld after another pass", name, (long long)value,
                      (long long)figure);
        }
}

void service_set(const struct service *service, const char *key, const char *value)
{
        json_decref(service_call(service, "Set", json_pack("{s:s, s:s}", "key", key, "value", value)));
}

static bool mentions(const json_t *finding, const char *key, const char *words)
{
        const char *text = json_string_value(json_object_get(finding, key));

        CHECK(text, "a finding has no %s", key);
        return strstr(text, words);
}

bool service_doctor_says(const struct service *service, pid_t pid, const char *words)
{
        json_t *reply = service_call(service, "Doctor", NULL);
        const json_t *findings = json_object_get(reply, "findings");
        bool found = false;

        for (size_t i = 0; i < json_array_size(findings); i++) {
                const json_t *finding = json_array_get(findings, i);

                if (!pid || json_integer_value(json_object_get(finding, "pid")) == pid)
                        found |= mentions(finding, "reason", words) || mentions(finding, "text", words) ||
                                 mentions(finding, "remedy", words);
        }
        json_decref(reply);
        return found;
}

/* ------------------------------------------------------------------ life */

static void log_path(char path[128])
{
        snprintf(path, 128, "%s/log", harness_directory());
}

unsigned service_log_lines(const char *words)
{
        char path[128], line[1024];
        unsigned n = 0;
        FILE *log;

        log_path(path);
        log = fopen(path, "re");
        CHECK(log, "%s: %m", path);
        while (fgets(line, sizeof(line), log))
                n += strstr(line, words) != NULL;
        fclose(log);
        return n;
}

void service_write_config(const struct service *service, const char *config)
{
        FILE *file = fopen(service->config_path, "we");

        CHECK(file, "%s: %m", service->config_path);
        fprintf(file, "%s%s", default_config, config ? config : "");
        CHECK(!fclose(file), "%s: %m", service->config_path);
}

/* ------------------------------------------------------------------ starting and stopping */

static void execute(const struct service *service, pid_t parent)
{
        char path[128], config[160], runtime[160];
        int log;

        harness_become(getuid(), parent);
        log_path(path);
        log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
        CHECK(log >= 0 && dup2(log, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0, "%s: %m", path);
        close(log);
        snprintf(config, sizeof(config), "--config=%s", service->config_path);
        snprintf(runtime, sizeof(runtime), "--runtime-dir=%s", service->directory);
        if (service->store)
                CHECK_OK(fd_store_pass(service->store));
        execl(harness_wpd(), harness_wpd(), config, runtime, "--log-level=debug", NULL);
        CHECK(false, "%s: %m", harness_wpd());
}

static void ended(int status)
{
        if (harness_cannot_serve(harness_wpd(), status))
                harness_skip("wpd cannot serve here: see wpd --check");
        CHECK(false, "the daemon ended with status %#x", (unsigned)status);
}

static bool answers(const struct service *service)
{
        int fd = connect_control(service->control_path), status;

        if (waitpid(service->pid, &status, WNOHANG) != 0)
                ended(status);
        if (fd < 0)
                return false;
        send_call(fd, "Status", NULL);
        json_decref(receive_reply(fd));
        close(fd);
        return true;
}

/* The first client of a user makes his trust domain, which the daemon keeps. */
static void make_domain(const struct service *service, uid_t uid)
{
        struct client client;

        client_start(&client, uid);
        CHECK_OK(client_do(&client, program_connect, (long)service->client_path, 0, 0));
        CHECK_OK(client_do(&client, program_disconnect, 0, 0, 0));
        client_stop(&client);
}

static void service_run(struct service *service)
{
        pid_t parent = getpid();

        service->pid = fork();
        CHECK(service->pid >= 0, "%m");
        if (!service->pid)
                execute(service, parent);
        CHECK_SOON(answers(service), "the daemon is not ready");
        CHECK_OK(error_from(chmod(service->client_path, 0666)));
        CHECK_OK(error_from(chmod(service->control_path, 0666)));
        make_domain(service, 0);
        make_domain(service, HARNESS_NOBODY);
}

void service_restart(struct service *service)
{
        if (service->store)
                CHECK_OK(fd_store_collect(service->store));
        service_run(service);
}

void service_start(struct service *service, const char *config)
{
        service_start_stored(service, config, NULL);
}

void service_start_stored(struct service *service, const char *config, struct fd_store *store)
{
        service->store = store;
        snprintf(service->directory, sizeof(service->directory), "%s/run", harness_directory());
        snprintf(service->client_path, sizeof(service->client_path), "%s/client.sock", service->directory);
        snprintf(service->control_path, sizeof(service->control_path), "%s/control.sock", service->directory);
        snprintf(service->config_path, sizeof(service->config_path), "%s/wpd.conf", harness_directory());
        service_write_config(service, config);
        service_run(service);
        CHECK_SOON(!service_figure(service, "clients"), "a client stays");
        service->n_fds = harness_settled_fds(service->pid);
        service->n_threads = harness_count_threads(service->pid);
}

void service_check_fds(const struct service *service, size_t n_fds)
{
        CHECK_SOON(harness_count_fds(service->pid) == n_fds, "the daemon has %zu descriptors instead of %zu",
                   harness_count_fds(service->pid), n_fds);
}

pid_t service_helper(const struct service *service)
{
        char path[64];
        pid_t pid = 0;
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%d/children", service->pid, service->pid);
        file = fopen(path, "re");
        CHECK(file && fscanf(file, "%d", &pid) == 1 && pid > 0, "the daemon has no helper");
        fclose(file);
        return pid;
}

/* The helper ends when its daemon does; a daemon that was killed leaves it to this process to notice. */
static void reap_helper(pid_t helper)
{
        int status;

        if (waitpid(helper, &status, 0) == helper)
                CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "the helper ended with status %#x",
                      (unsigned)status);
}

void service_end(struct service *service, int signal)
{
        pid_t helper = service_helper(service);

        CHECK_OK(error_from(kill(service->pid, signal)));
        harness_reap(service->pid);
        reap_helper(helper);
        service->pid = 0;
}

void service_stop(struct service *service)
{
        int status;

        CHECK_SOON(!service_figure(service, "clients"), "a client stays");
        CHECK_SOON(!service_figure(service, "pages_shared"), "%lld canonical pages stay",
                   (long long)service_figure(service, "pages_shared"));
        service_check_fds(service, service->n_fds);
        CHECK(harness_count_threads(service->pid) == service->n_threads,
              "the daemon has %zu threads instead of %zu", harness_count_threads(service->pid),
              service->n_threads);
        CHECK_OK(error_from(kill(service->pid, SIGTERM)));
        status = harness_reap(service->pid);
        CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "the daemon ended with status %#x",
              (unsigned)status);
        CHECK(!service_log_lines("<3>"), "the daemon logged an error");
        CHECK(!rmdir(service->directory), "the daemon left a file in its directory: %m");
        service->pid = 0;
}

uint64_t service_pss(pid_t pid)
{
        unsigned long long kilobytes = 0;
        char path[64], line[256];
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", pid);
        file = fopen(path, "re");
        CHECK(file, "%s: %m", path);
        while (fgets(line, sizeof(line), file))
                if (sscanf(line, "Pss: %llu kB", &kilobytes) == 1)
                        break;
        fclose(file);
        CHECK(kilobytes, "%s has no Pss", path);
        return kilobytes << 10;
}
