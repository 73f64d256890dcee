/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wpd-bench: wpd and the kernel's KSM on the same data in the same run
 *
 * For each data set and repetition the engines take turns: fresh processes fill their memory, hand it to one
 * engine, and the time until 99 % of what is possible is saved is taken, along with the CPU that the engine
 * and the clients used for it, as the kernel accounts it. Then come an idle minute, first writes and a
 * workload of rewriting, where the data set asks for them. Every byte is verified in between. wpd runs with
 * its own settings; KSM with the kernel's defaults and tuned for speed. Figures are medians over the
 * repetitions. Exit status 0: measured, 1: wrong bytes, 2: usage, 3: something could not be done.
 */

#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "bench/control.h"
#include "bench/data.h"
#include "bench/ksm.h"
#include "bench/measure.h"
#include "bench/result.h"
#include "bench/worker.h"
#include "util/bits.h"
#include "util/clock.h"

#define READY_TIMEOUT 10000 /* ms for the daemon to answer */
#define POLL_NS       (20 * NSEC_PER_MSEC)
#define STALL_TIMEOUT                                                                                        \
        (90 * NSEC_PER_SEC) /* KSM with its defaults needs two slow scans before the first page is merged */
#define CONVERGED 0.99
#define SPACED_NS NSEC_PER_MSEC
#define SAMPLES   500

#define EXIT_WRONG  1
#define EXIT_USAGE  2
#define EXIT_BROKEN 3

static const struct ksm_settings ksm_tuned = {
        .pages_to_scan = 4000, .sleep_millisecs = 10, .use_zero_pages = 1};

enum phase {
        PHASE_IDLE = 1,    /* how much CPU watching over quiet memory takes */
        PHASE_WRITES = 2,  /* first writes to merged pages */
        PHASE_REWRITE = 4, /* 1 % of all pages is rewritten every second */
};

static const struct data_set {
        const char *name;
        uint32_t processes;
        uint32_t mib;
        uint32_t shared_percent;
        uint32_t zero_percent;
        uint32_t run_pages;
        unsigned phases;
} data_sets[] = {
        {"half", 2, 256, 50, 0, 64, PHASE_IDLE | PHASE_WRITES},
        {"same", 3, 64, 100, 0, 64, 0},
        {"zeros", 3, 64, 0, 100, 64, 0},
        {"runs-4", 2, 64, 50, 0, 4, PHASE_WRITES},
        {"runs-1", 2, 64, 50, 0, 1, PHASE_WRITES},
        {"rewrite", 2, 64, 50, 0, 64, PHASE_REWRITE},
};

struct bench {
        const char *socket_path;
        const char *control_path;
        const char *sets;    /* names, separated by commas; NULL: all */
        const char *engines; /* the same */
        bool json;
        bool quick;
        unsigned repetitions;
        unsigned idle_seconds;
        unsigned rewrite_seconds;

        struct control *control;
        bool ksm;
        const char *ksm_why;
        struct result_set results[ARRAY_SIZE(data_sets)];
        unsigned n_results;

        /* the run under way */
        enum engine engine;
        struct data_layout layout;
        struct data_expect expect;
        struct worker *workers;
        struct worker_reply reply;
        struct control_status base;
        double *value; /* of struct result */
};

/* CPU time used so far by the engine and by the clients. */
struct cpu {
        uint64_t engine;
        uint64_t clients;
};

static int complain(const char *what, int error)
{
        fprintf(stderr, "wpd-bench: %s: %s\n", what, error == -EPIPE ? "wpd hung up" : strerror(-error));
        return error;
}

static int complain_worker(const struct bench *bench, const char *what, int error)
{
        fprintf(stderr, "wpd-bench: %s: %s\n", what, bench->reply.text);
        return error;
}

static bool engine_is_ksm(enum engine engine)
{
        return engine == ENGINE_KSM || engine == ENGINE_KSM_TUNED;
}

static int read_cpu(struct bench *bench, struct cpu *ret_cpu)
{
        struct cpu cpu = {.engine = 0};
        uint64_t ns;
        int r = 0;

        if (bench->engine == ENGINE_WPD)
                r = measure_cpu(control_peer(bench->control), &cpu.engine);
        else if (engine_is_ksm(bench->engine))
                r = ksm_cpu(&cpu.engine);
        for (uint32_t i = 0; i < bench->layout.n_processes && r == 0; i++) {
                r = measure_cpu(bench->workers[i].pid, &ns);
                cpu.clients += ns;
        }
        if (r < 0)
                return complain("CPU time", r);
        *ret_cpu = cpu;
        return 0;
}

/* PSS of the clients, and of wpd where it is the engine. */
static int read_pss(struct bench *bench, double *ret_bytes)
{
        uint64_t sum = 0, bytes;
        int r = 0;

        if (bench->engine == ENGINE_WPD)
                r = measure_pss(control_peer(bench->control), &sum);
        for (uint32_t i = 0; i < bench->layout.n_processes && r == 0; i++) {
                r = measure_pss(bench->workers[i].pid, &bytes);
                sum += bytes;
        }
        if (r < 0)
                return complain("PSS", r);
        *ret_bytes = (double)sum;
        return 0;
}

struct saved {
        uint64_t pages;
        double metadata_bytes_per_page;
};

static int read_saved(struct bench *bench, struct saved *ret_saved)
{
        uint64_t pages = bench->layout.n_pages * bench->layout.n_processes;
        struct control_status status;
        struct ksm_counters counters;
        int r;

        if (bench->engine == ENGINE_WPD) {
                r = control_status(bench->control, &status);
                if (r < 0)
                        return complain("status", r);
                *ret_saved = (struct saved){
                        .pages = status.pages_sharing - bench->base.pages_sharing + status.zero_pages -
                                 bench->base.zero_pages,
                        .metadata_bytes_per_page = status.pages_tracked ? (double)status.metadata_bytes /
                                                                                  (double)status.pages_tracked
                                                                        : NAN,
                };
                return 0;
        }
        r = ksm_counters(&counters);
        if (r < 0)
                return complain("KSM's counters", r);
        *ret_saved = (struct saved){
                .pages = counters.pages_sharing + counters.zero_pages,
                .metadata_bytes_per_page = (double)counters.metadata_bytes / (double)pages,
        };
        return 0;
}

static int call_all(struct bench *bench, enum worker_command command, const char *what)
{
        struct worker_request request = {.command = command};
        uint64_t pages;
        int r;

        r = worker_call_all(bench->workers, bench->layout.n_processes, &request, &pages, &bench->reply);
        return r < 0 ? complain_worker(bench, what, r) : 0;
}

static void pause_seconds(unsigned seconds)
{
        struct timespec ts = {.tv_sec = seconds};

        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

static int start_engine(struct bench *bench)
{
        int r;

        switch (bench->engine) {
        case ENGINE_WPD:
                r = control_status(bench->control, &bench->base);
                if (r < 0)
                        return complain("status", r);
                return call_all(bench, WORKER_REGISTER, "register");
        case ENGINE_KSM:
        case ENGINE_KSM_TUNED:
                r = call_all(bench, WORKER_MERGEABLE, "mergeable");
                if (r < 0)
                        return r;
                r = ksm_start(bench->engine == ENGINE_KSM ? &ksm_defaults : &ksm_tuned);
                return r < 0 ? complain("KSM", r) : 0;
        default:
                return 0;
        }
}

static int stop_engine(struct bench *bench)
{
        int r;

        if (bench->engine == ENGINE_WPD)
                return call_all(bench, WORKER_UNREGISTER, "unregister");
        if (!engine_is_ksm(bench->engine))
                return 0;
        r = ksm_stop();
        return r < 0 ? complain("KSM", r) : 0;
}

/* Waits until enough is saved: 1, or 0 when nothing has moved for long. */
static int await_convergence(struct bench *bench)
{
        uint64_t possible = bench->expect.pages_sharing + bench->expect.zero_pages, best = 0,
                 moved = clock_now();
        struct saved saved;
        int r;

        for (;;) {
                r = read_saved(bench, &saved);
                if (r < 0)
                        return r;
                if ((double)saved.pages >= CONVERGED * (double)possible)
                        return 1;
                if (saved.pages > best) {
                        best = saved.pages;
                        moved = clock_now();
                }
                if (clock_now() - moved > STALL_TIMEOUT)
                        return 0;
                nanosleep(&(struct timespec){.tv_nsec = (long)POLL_NS}, NULL);
        }
}

static int converge(struct bench *bench, bool *ret_converged)
{
        uint64_t possible = bench->expect.pages_sharing + bench->expect.zero_pages, start, end;
        double pss_before, pss_after, *value = bench->value;
        struct cpu before, after;
        struct saved saved;
        int converged, r;

        if ((r = read_pss(bench, &pss_before)) < 0 || (r = read_cpu(bench, &before)) < 0)
                return r;
        start = clock_now();
        if ((r = start_engine(bench)) < 0 || (r = converged = await_convergence(bench)) < 0)
                return r;
        end = clock_now();
        if ((r = read_cpu(bench, &after)) < 0)
                return r;
        if (converged) {
                value[METRIC_wall_seconds] = (double)(end - start) / NSEC_PER_SEC;
                value[METRIC_engine_cpu_seconds] = (double)(after.engine - before.engine) / NSEC_PER_SEC;
                value[METRIC_client_cpu_seconds] = (double)(after.clients - before.clients) / NSEC_PER_SEC;
                value[METRIC_cpu_seconds] =
                        value[METRIC_engine_cpu_seconds] + value[METRIC_client_cpu_seconds];
        }
        /* What is still on its way may arrive. */
        pause_seconds(1);
        if ((r = read_pss(bench, &pss_after)) < 0 || (r = read_saved(bench, &saved)) < 0)
                return r;
        value[METRIC_saved_bytes] = pss_before - pss_after;
        value[METRIC_saved_ratio] = (double)saved.pages / (double)possible;
        value[METRIC_metadata_bytes_per_page] = saved.metadata_bytes_per_page;
        if (converged && saved.pages)
                value[METRIC_cpu_seconds_per_gib] =
                        value[METRIC_cpu_seconds] / (double)(saved.pages * PAGE_BYTES) * (1 << 30);
        *ret_converged = converged;
        return 0;
}

static int idle(struct bench *bench)
{
        struct cpu before, after;
        int r;

        if ((r = read_cpu(bench, &before)) < 0)
                return r;
        pause_seconds(bench->idle_seconds);
        if ((r = read_cpu(bench, &after)) < 0)
                return r;
        bench->value[METRIC_idle_cpu_seconds] =
                (double)(after.engine - before.engine + after.clients - before.clients) / NSEC_PER_SEC * 60 /
                bench->idle_seconds;
        return 0;
}

static int sample_writes(struct bench *bench, unsigned worker, uint64_t gap_ns, enum metric p50,
                         enum metric p99)
{
        struct worker_request request = {.command = WORKER_SAMPLE, .count = SAMPLES, .argument = gap_ns};
        struct worker_reply *reply = &bench->reply;
        int r;

        r = worker_call(&bench->workers[worker], &request, reply);
        if (r < 0)
                return complain_worker(bench, "writes", r);
        if (!reply->n_samples)
                return 0;
        bench->value[p50] = measure_quantile(reply->sample_ns, reply->n_samples, 500) / (double)NSEC_PER_USEC;
        bench->value[p99] = measure_quantile(reply->sample_ns, reply->n_samples, 990) / (double)NSEC_PER_USEC;
        return 0;
}

/* Every client rewrites 1 % of its pages a second; the CPU of all is counted. */
static int rewrite(struct bench *bench)
{
        struct worker_request request = {
                .command = WORKER_REWRITE,
                .count = (uint32_t)(bench->layout.n_pages / 100),
                .argument = bench->rewrite_seconds,
        };
        double pss_before, pss_after;
        struct cpu before, after;
        uint64_t pages;
        int r;

        if ((r = read_pss(bench, &pss_before)) < 0 || (r = read_cpu(bench, &before)) < 0)
                return r;
        r = worker_call_all(bench->workers, bench->layout.n_processes, &request, &pages, &bench->reply);
        if (r < 0)
                return complain_worker(bench, "rewrite", r);
        if ((r = read_cpu(bench, &after)) < 0 || (r = read_pss(bench, &pss_after)) < 0)
                return r;
        bench->value[METRIC_rewrite_cpu_ratio] =
                (double)(after.engine - before.engine + after.clients - before.clients) / NSEC_PER_SEC /
                bench->rewrite_seconds;
        bench->value[METRIC_rewrite_saved_bytes] =
                bench->value[METRIC_saved_bytes] - (pss_after - pss_before);
        return 0;
}

static int run_phases(struct bench *bench, const struct data_set *set, unsigned repetition)
{
        int r;

        if (set->phases & PHASE_IDLE && repetition == 0 && bench->engine != ENGINE_NONE) {
                r = idle(bench);
                if (r < 0)
                        return r;
        }
        if (set->phases & PHASE_WRITES) {
                unsigned plain = WORKER_NOTIFIED + 1;

                if ((r = sample_writes(bench, plain, SPACED_NS, METRIC_write_p50_us, METRIC_write_p99_us)) <
                            0 ||
                    (r = sample_writes(bench, plain, 0, METRIC_burst_p50_us, METRIC_burst_p99_us)) < 0)
                        return r;
                if (bench->engine == ENGINE_WPD &&
                    (r = sample_writes(bench, WORKER_NOTIFIED, SPACED_NS, METRIC_notified_p50_us,
                                       METRIC_notified_p99_us)) < 0)
                        return r;
        }
        return set->phases & PHASE_REWRITE ? rewrite(bench) : 0;
}

static int run_with_workers(struct bench *bench, const struct data_set *set, unsigned repetition,
                            bool *ret_converged)
{
        bool converged = true;
        int r;

        r = call_all(bench, WORKER_FILL, "fill");
        if (r < 0)
                return r;
        if (bench->engine != ENGINE_NONE) {
                r = converge(bench, &converged);
                if (r < 0)
                        return r;
        }
        if ((r = call_all(bench, WORKER_VERIFY, "verify while merged")) < 0 ||
            (r = run_phases(bench, set, repetition)) < 0 ||
            (r = call_all(bench, WORKER_VERIFY, "verify after the writes")) < 0 ||
            (r = stop_engine(bench)) < 0 || (r = call_all(bench, WORKER_VERIFY, "verify at the end")) < 0)
                return r;
        *ret_converged = converged;
        return 0;
}

static void print_progress(const struct bench *bench, const struct result_set *results, unsigned repetition,
                           bool converged)
{
        const double *value = bench->value;

        if (bench->engine == ENGINE_NONE)
                return;
        fprintf(stderr, "%s %u/%u %s: ", results->name, repetition + 1, bench->repetitions,
                result_engine_name(bench->engine));
        if (converged)
                fprintf(stderr, "%.2f s, CPU %.3f s", value[METRIC_wall_seconds], value[METRIC_cpu_seconds]);
        else
                fprintf(stderr, "did not converge");
        fprintf(stderr, ", saved %.1f MiB\n", value[METRIC_saved_bytes] / (1 << 20));
}

static int run_one(struct bench *bench, const struct data_set *set, struct result_set *results,
                   enum engine engine)
{
        struct result *result = &results->result[engine];
        unsigned repetition = result->n_repetitions;
        bool converged;
        int r;

        bench->engine = engine;
        bench->value = result->value[repetition];
        for (unsigned i = 0; i < N_METRICS; i++)
                bench->value[i] = NAN;
        r = worker_start_all(&bench->layout, bench->socket_path, &bench->workers);
        if (r < 0)
                return complain("cannot start the processes", r);
        r = run_with_workers(bench, set, repetition, &converged);
        bench->workers = worker_stop_all(bench->workers, bench->layout.n_processes);
        if (r < 0)
                return r;
        result->n_repetitions++;
        result->n_converged += converged;
        print_progress(bench, results, repetition, converged);
        return 0;
}

/* The writer's own work is not the engine's: what it costs without one is taken off. */
static void subtract_baseline(struct result_set *results)
{
        double baseline = result_median(&results->result[ENGINE_NONE], METRIC_rewrite_cpu_ratio);

        if (isnan(baseline))
                return;
        for (unsigned engine = ENGINE_WPD; engine < N_ENGINES; engine++)
                for (unsigned i = 0; i < results->result[engine].n_repetitions; i++) {
                        double *value = &results->result[engine].value[i][METRIC_rewrite_cpu_ratio];

                        *value = MAX(*value - baseline, 0.0);
                }
}

static void set_layout(struct bench *bench, const struct data_set *set, struct result_set *results)
{
        uint32_t mib = bench->quick ? set->mib / 8 : set->mib;

        bench->layout = (struct data_layout){
                .n_processes = set->processes,
                .run_pages = set->run_pages,
                .shared_percent = set->shared_percent,
                .zero_percent = set->zero_percent,
                .n_pages = ((uint64_t)mib << 20) / PAGE_BYTES,
                .seed = 1,
                .same_places = set->shared_percent == 100,
        };
        data_expect(&bench->layout, &bench->expect);
        results->name = set->name;
        results->possible_pages = bench->expect.pages_sharing + bench->expect.zero_pages;
        snprintf(results->title, sizeof(results->title),
                 "%u x %u MiB, %u %% identical, %u %% zeros, runs of %u pages", set->processes, mib,
                 set->shared_percent, set->zero_percent, set->run_pages);
}

/* Whether a name is in a list separated by commas. */
static bool listed(const char *list, const char *name)
{
        size_t length = strlen(name);

        for (const char *p = list; p; p = strchr(p, ',')) {
                p += *p == ',';
                if (!strncmp(p, name, length) && (!p[length] || p[length] == ','))
                        return true;
        }
        return false;
}

static bool wanted(const struct bench *bench, const struct data_set *set, enum engine engine)
{
        if (engine == ENGINE_NONE)
                return set->phases & (PHASE_REWRITE | PHASE_WRITES);
        if (engine_is_ksm(engine) && !bench->ksm)
                return false;
        return !bench->engines || listed(bench->engines, result_engine_name(engine));
}

static int run_set(struct bench *bench, const struct data_set *set)
{
        struct result_set *results = &bench->results[bench->n_results];
        int r;

        set_layout(bench, set, results);
        for (unsigned repetition = 0; repetition < bench->repetitions; repetition++)
                /* Another engine begins in each repetition, so that none always profits from its place. */
                for (unsigned i = 0; i < N_ENGINES; i++) {
                        enum engine engine = (i + repetition) % N_ENGINES;

                        if (!wanted(bench, set, engine))
                                continue;
                        r = run_one(bench, set, results, engine);
                        if (r < 0)
                                return r;
                }
        subtract_baseline(results);
        bench->n_results++;
        return 0;
}

static int print_json(const struct bench *bench)
{
        json_t *sets = json_array(), *document;
        struct utsname system;
        char *text;

        for (unsigned i = 0; i < bench->n_results; i++)
                json_array_append_new(sets, result_json(&bench->results[i]));
        uname(&system);
        document = json_pack("{s:s, s:s, s:s, s:I, s:I, s:b, s:i, s:{s:b, s:s}, s:o}", "version", WPD_VERSION,
                             "kernel", system.release, "machine", system.machine, "cpus",
                             (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
                             (json_int_t)sysconf(_SC_PHYS_PAGES) * (json_int_t)PAGE_BYTES, "quick",
                             (int)bench->quick, "idle_seconds", (int)bench->idle_seconds, "ksm", "measured",
                             (int)bench->ksm, "reason", bench->ksm_why, "sets", sets);
        text = document ? json_dumps(document, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
        json_decref(document);
        if (!text)
                return complain("JSON", -ENOMEM);
        puts(text);
        free(text);
        return 0;
}

static void print_tables(const struct bench *bench)
{
        struct utsname system;

        uname(&system);
        printf("wpd %s, Linux %s, %ld CPUs; medians of %u; wpd's CPU includes its threads in the clients\n",
               WPD_VERSION, system.release, sysconf(_SC_NPROCESSORS_ONLN), bench->repetitions);
        printf("KSM default: %u pages every %u ms; tuned: %u pages every %u ms, zero pages used\n",
               ksm_defaults.pages_to_scan, ksm_defaults.sleep_millisecs, ksm_tuned.pages_to_scan,
               ksm_tuned.sleep_millisecs);
        if (!bench->ksm)
                printf("KSM was not measured: %s\n", bench->ksm_why);
        for (unsigned i = 0; i < bench->n_results; i++)
                result_print(stdout, &bench->results[i]);
}

static int run(struct bench *bench)
{
        int r;

        r = control_open(bench->control_path, READY_TIMEOUT, &bench->control);
        if (r < 0)
                return complain(bench->control_path, r);
        bench->ksm_why = "";
        r = ksm_open(&bench->ksm_why);
        if (r == -ENOMEM)
                return r;
        bench->ksm = r == 0;
        if (!bench->ksm)
                fprintf(stderr, "wpd-bench: KSM is not measured: %s\n", bench->ksm_why);
        for (size_t i = 0; i < ARRAY_SIZE(data_sets); i++) {
                if (bench->sets && !listed(bench->sets, data_sets[i].name))
                        continue;
                r = run_set(bench, &data_sets[i]);
                if (r < 0)
                        return r;
        }
        if (bench->json)
                return print_json(bench);
        print_tables(bench);
        return 0;
}

static int usage(FILE *out, int status)
{
        fprintf(out,
                "wpd-bench [OPTION...]: a running wpd and the kernel's KSM on the same data\n"
                "  --json               print one JSON document\n"
                "  --quick              an eighth of the data, one repetition, short phases\n"
                "  --repetitions=N      1 to %d (3)\n"
                "  --idle-seconds=N     how long to watch idle engines, 1 to 3600 (60)\n"
                "  --sets=NAME,...      only these data sets:",
                RESULT_MAX_REPETITIONS);
        for (size_t i = 0; i < ARRAY_SIZE(data_sets); i++)
                fprintf(out, " %s", data_sets[i].name);
        fprintf(out, "\n"
                     "  --engines=NAME,...   only these: wpd ksm_default ksm_tuned\n"
                     "  --socket=PATH        wpd's client socket (/run/wpd/client.sock)\n"
                     "  --control=PATH       wpd's control socket (/run/wpd/control.sock)\n");
        return status;
}

static size_t n_listed(const char *list)
{
        size_t n = 1;

        for (const char *p = list; (p = strchr(p, ',')); p++)
                n++;
        return n;
}

/* Whether every name that was given is known. */
static bool names_known(const struct bench *bench)
{
        size_t n_sets = 0, n_engines = 0;

        for (size_t i = 0; i < ARRAY_SIZE(data_sets); i++)
                n_sets += bench->sets && listed(bench->sets, data_sets[i].name);
        for (unsigned i = ENGINE_WPD; i < N_ENGINES; i++)
                n_engines += bench->engines && listed(bench->engines, result_engine_name(i));
        return (!bench->sets || n_listed(bench->sets) == n_sets) &&
               (!bench->engines || n_listed(bench->engines) == n_engines);
}

static int parse_number(const char *text, unsigned minimum, unsigned maximum, unsigned *ret_value)
{
        char *end;
        unsigned long value;

        errno = 0;
        value = strtoul(text, &end, 10);
        if (errno || end == text || *end || *text == '-' || value < minimum || value > maximum)
                return -EINVAL;
        *ret_value = (unsigned)value;
        return 0;
}

static int parse(struct bench *bench, int argc, char **argv)
{
        static const struct option options[] = {
                {"json", no_argument, NULL, 'j'},
                {"quick", no_argument, NULL, 'q'},
                {"repetitions", required_argument, NULL, 'r'},
                {"idle-seconds", required_argument, NULL, 'i'},
                {"sets", required_argument, NULL, 's'},
                {"engines", required_argument, NULL, 'e'},
                {"socket", required_argument, NULL, 'S'},
                {"control", required_argument, NULL, 'C'},
                {"help", no_argument, NULL, 'h'},
                {NULL, 0, NULL, 0},
        };
        int option, r = 0;

        while (r == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (option) {
                case 'j':
                        bench->json = true;
                        break;
                case 'q':
                        bench->quick = true;
                        break;
                case 'r':
                        r = parse_number(optarg, 1, RESULT_MAX_REPETITIONS, &bench->repetitions);
                        break;
                case 'i':
                        r = parse_number(optarg, 1, 3600, &bench->idle_seconds);
                        break;
                case 's':
                        bench->sets = optarg;
                        break;
                case 'e':
                        bench->engines = optarg;
                        break;
                case 'S':
                        bench->socket_path = optarg;
                        break;
                case 'C':
                        bench->control_path = optarg;
                        break;
                case 'h':
                        exit(usage(stdout, 0));
                default:
                        return -EINVAL;
                }
        }
        if (!bench->repetitions)
                bench->repetitions = bench->quick ? 1 : 3;
        if (!bench->idle_seconds)
                bench->idle_seconds = bench->quick ? 5 : 60;
        bench->rewrite_seconds = bench->quick ? 3 : 20;
        return r < 0 || optind < argc || !names_known(bench) ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
        static struct bench bench = {.socket_path = "/run/wpd/client.sock",
                                     .control_path = "/run/wpd/control.sock"};
        int r;

        worker_main(argc, argv);
        if (parse(&bench, argc, argv) < 0)
                return usage(stderr, EXIT_USAGE);
        r = run(&bench);
        worker_stop_all(bench.workers, bench.layout.n_processes);
        control_close(bench.control);
        return r == -EILSEQ ? EXIT_WRONG : r < 0 ? EXIT_BROKEN : 0;
}
