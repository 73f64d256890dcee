/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * wpd-demo: the main job, shown and checked
 *
 * Processes fill memory of which a known part is identical and register it with a running wpd. The demo shows
 * what is scanned, merged and saved while it happens, then writes into merged pages and gives the memory
 * back. Every byte is verified before, between and after, and at the end each figure is compared with what
 * the data says it must be. Exit status 0: all as expected, 1: a figure differs, 2: usage, 3: something could
 * not be done.
 */

#include <getopt.h>
#include <inttypes.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/control.h"
#include "bench/data.h"
#include "bench/measure.h"
#include "bench/term.h"
#include "bench/worker.h"
#include "util/bits.h"
#include "util/clock.h"
#include "wp.h"

#define READY_TIMEOUT  10000               /* ms for the daemon to answer */
#define STALL_TIMEOUT  (30 * NSEC_PER_SEC) /* merging is given up when nothing was merged for so long */
#define SETTLE_TIMEOUT (5 * NSEC_PER_SEC)  /* for counters to follow what was done */
#define FRAME_MS       100
#define TOLERANCE      0.02 /* of the memory saved */

#define EXIT_DIFFERS 1
#define EXIT_USAGE   2
#define EXIT_BROKEN  3

#define MAX_CHECKS 16
#define MAX_WRITES 2

struct check {
        char name[40];
        char expected[40];
        char actual[40];
        bool ok;
};

/* What the processes and the daemon cost at one moment. */
struct cost {
        uint64_t pss; /* of all together */
        uint64_t daemon_pss;
        uint64_t available;
};

struct demo {
        struct data_layout layout;
        struct data_expect expect;
        const char *socket_path;
        const char *control_path;
        bool plain;
        bool ping;

        struct term term;
        struct control *control; /* asks for the totals */
        struct control *scan;    /* waits for the end of a pass */
        struct worker *workers;
        struct worker_reply reply;

        struct control_status base; /* the daemon may have other clients */
        struct control_status now;
        struct cost before, after, end;
        uint64_t merge_ns;
        unsigned n_writes;

        struct check checks[MAX_CHECKS];
        unsigned n_checks;
};

static int complain(const char *what, int error)
{
        fprintf(stderr, "wpd-demo: %s: %s\n", what, error == -EPIPE ? "wpd hung up" : strerror(-error));
        return error;
}

static int complain_worker(const struct demo *demo, const char *what, int error)
{
        fprintf(stderr, "wpd-demo: %s: %s\n", what, demo->reply.text);
        return error;
}

static int complain_control(const struct demo *demo, const char *what, int error)
{
        if (error != -EREMOTEIO)
                return complain(what, error);
        fprintf(stderr, "wpd-demo: %s: %s\n", what, control_error(demo->scan));
        return error;
}

static struct check *add_check(struct demo *demo, bool ok, const char *name)
{
        struct check *check = &demo->checks[demo->n_checks++];

        snprintf(check->name, sizeof(check->name), "%s", name);
        check->ok = ok;
        return check;
}

static void check_count(struct demo *demo, const char *name, uint64_t expected, uint64_t actual)
{
        struct check *check = add_check(demo, expected == actual, name);

        snprintf(check->expected, sizeof(check->expected), "%" PRIu64, expected);
        snprintf(check->actual, sizeof(check->actual), "%" PRIu64, actual);
}

static void check_text(struct demo *demo, bool ok, const char *name, const char *expected, const char *actual)
{
        struct check *check = add_check(demo, ok, name);

        snprintf(check->expected, sizeof(check->expected), "%s", expected);
        snprintf(check->actual, sizeof(check->actual), "%s", actual);
}

static int read_cost(struct demo *demo, struct cost *ret_cost)
{
        struct cost cost;
        uint64_t pss;
        int r;

        r = measure_pss(control_peer(demo->control), &cost.daemon_pss);
        if (r < 0)
                return complain("the daemon's smaps_rollup", r);
        cost.pss = cost.daemon_pss;
        for (uint32_t i = 0; i < demo->layout.n_processes; i++) {
                r = measure_pss(demo->workers[i].pid, &pss);
                if (r < 0)
                        return complain("a process's smaps_rollup", r);
                cost.pss += pss;
        }
        r = measure_available(&cost.available);
        if (r < 0)
                return complain("/proc/meminfo", r);
        *ret_cost = cost;
        return 0;
}

/* The totals since the demo began. */
static int read_status(struct demo *demo, struct control_status *ret_status)
{
        struct control_status status;
        int r;

        r = control_status(demo->control, &status);
        if (r < 0)
                return complain("status", r);
        status.pages_tracked -= demo->base.pages_tracked;
        status.pages_shared -= demo->base.pages_shared;
        status.pages_sharing -= demo->base.pages_sharing;
        status.zero_pages -= demo->base.zero_pages;
        status.pages_scanned -= demo->base.pages_scanned;
        *ret_status = status;
        return 0;
}

static uint64_t total_pages(const struct demo *demo)
{
        return demo->layout.n_pages * demo->layout.n_processes;
}

static uint64_t expected_saved(const struct demo *demo)
{
        return demo->expect.pages_sharing + demo->expect.zero_pages;
}

static uint64_t saved(const struct control_status *status)
{
        return status->pages_sharing + status->zero_pages;
}

static double fraction(uint64_t part, uint64_t whole)
{
        return whole ? (double)part / (double)whole : 1;
}

static void draw_bar(struct demo *demo, char *line, const char *name, uint64_t part, uint64_t whole)
{
        char bar[256], a[24], b[24];
        unsigned width = MIN(40, demo->term.columns - 46);

        term_bar(&demo->term, bar, sizeof(bar), width, fraction(part, whole));
        snprintf(line, TERM_LINE, "  %-8s [%s] %3.0f %%  %10s of %s", name, bar,
                 100 * MIN(fraction(part, whole), 1), term_bytes(a, sizeof(a), (double)(part * PAGE_BYTES)),
                 term_bytes(b, sizeof(b), (double)(whole * PAGE_BYTES)));
}

static int draw_progress(struct demo *demo, uint64_t start, bool last)
{
        char lines[4][TERM_LINE], summary[TERM_LINE], a[24], b[24], c[24];
        struct cost cost;
        uint64_t scanned;
        int r;

        r = read_cost(demo, &cost);
        if (r < 0)
                return r;
        /* A page that changes is read again: the bar shows how far the first reading of everything is. */
        scanned = MIN(demo->now.pages_scanned, total_pages(demo));
        draw_bar(demo, lines[0], "scanned", scanned, total_pages(demo));
        draw_bar(demo, lines[1], "merged", saved(&demo->now), expected_saved(demo));
        snprintf(lines[2], TERM_LINE, "  memory   %s now, %s before  (PSS of the processes and wpd)",
                 term_bytes(a, sizeof(a), (double)cost.pss),
                 term_bytes(b, sizeof(b), (double)demo->before.pss));
        snprintf(lines[3], TERM_LINE, "  system   %s available, %+.1f MiB        %.1f s",
                 term_bytes(a, sizeof(a), (double)cost.available),
                 ((double)cost.available - (double)demo->before.available) / (1 << 20),
                 (double)(clock_now() - start) / NSEC_PER_SEC);
        snprintf(summary, sizeof(summary),
                 "  %5.1f s  scanned %3.0f %%  merged %3.0f %%  PSS %s (was %s)  available %s",
                 (double)(clock_now() - start) / NSEC_PER_SEC, 100 * fraction(scanned, total_pages(demo)),
                 100 * fraction(saved(&demo->now), expected_saved(demo)),
                 term_bytes(a, sizeof(a), (double)cost.pss),
                 term_bytes(b, sizeof(b), (double)demo->before.pss),
                 term_bytes(c, sizeof(c), (double)cost.available));
        term_frame(&demo->term, lines, ARRAY_SIZE(lines), summary, last);
        return 0;
}

static int call_all(struct demo *demo, enum worker_command command, const char *what)
{
        struct worker_request request = {.command = command};
        uint64_t pages;
        int r;

        r = worker_call_all(demo->workers, demo->layout.n_processes, &request, &pages, &demo->reply);
        return r < 0 ? complain_worker(demo, what, r) : 0;
}

/* Wrong bytes are a finding, not an obstacle: they are reported in the table. */
static int verify(struct demo *demo, const char *name)
{
        struct worker_request request = {.command = WORKER_VERIFY};
        uint64_t pages = 0;
        char expected[40], actual[40], text[24];
        int r;

        r = worker_call_all(demo->workers, demo->layout.n_processes, &request, &pages, &demo->reply);
        if (r < 0 && r != -EILSEQ)
                return complain_worker(demo, "verify", r);
        if (r == -EILSEQ)
                complain_worker(demo, "verify", r);
        snprintf(expected, sizeof(expected), "%s right",
                 term_bytes(text, sizeof(text), (double)(total_pages(demo) * PAGE_BYTES)));
        if (r == 0)
                snprintf(actual, sizeof(actual), "%s right",
                         term_bytes(text, sizeof(text), (double)(pages * PAGE_BYTES)));
        else
                snprintf(actual, sizeof(actual), "wrong bytes");
        check_text(demo, r == 0 && pages == total_pages(demo), name, expected, actual);
        return 0;
}

static int fill(struct demo *demo)
{
        char a[24], b[24];
        int r;

        printf("%u processes fill %s each: %u %% identical, %u %% zeros, the rest unique, in runs of %u pages\n",
               demo->layout.n_processes,
               term_bytes(a, sizeof(a), (double)(demo->layout.n_pages * PAGE_BYTES)),
               demo->layout.shared_percent, demo->layout.zero_percent, demo->layout.run_pages);
        r = worker_start_all(&demo->layout, demo->socket_path, &demo->workers);
        if (r < 0)
                return complain("cannot start the processes", r);
        r = call_all(demo, WORKER_FILL, "fill");
        if (r < 0)
                return r;
        r = verify(demo, "bytes before");
        if (r < 0)
                return r;
        r = read_cost(demo, &demo->before);
        if (r < 0)
                return r;
        printf("they cost %s (PSS, wpd's own %s included), %s are available\n\n",
               term_bytes(a, sizeof(a), (double)demo->before.pss),
               term_bytes(b, sizeof(b), (double)demo->before.daemon_pss),
               term_bytes((char[24]){0}, 24, (double)demo->before.available));
        return 0;
}

/* Asks for pass after pass, as a page must have settled before it is merged, until all is merged or nothing
 * moves. */
static int merge(struct demo *demo)
{
        uint64_t start = clock_now(), moved = start, best = 0;
        bool waiting = false;
        uint64_t frame;
        json_t *reply;
        int r;

        r = call_all(demo, WORKER_REGISTER, "register");
        if (r < 0)
                return r;
        for (;;) {
                frame = clock_now();
                if (!waiting) {
                        r = control_send(demo->scan, "Scan", json_pack("{s:b}", "wait", 1));
                        if (r < 0)
                                return complain("scan", r);
                        waiting = true;
                }
                r = control_receive(demo->scan, FRAME_MS, &reply);
                if (r < 0)
                        return complain_control(demo, "scan", r);
                if (r > 0) {
                        json_decref(reply);
                        waiting = false;
                }
                r = read_status(demo, &demo->now);
                if (r < 0)
                        return r;
                if (saved(&demo->now) > best) {
                        best = saved(&demo->now);
                        moved = clock_now();
                }
                /* A pass that is under way ends first, so that nothing is merged between the measurements. */
                if (best >= expected_saved(demo) && !waiting)
                        break;
                if (clock_now() - moved > STALL_TIMEOUT)
                        break;
                r = draw_progress(demo, start, false);
                if (r < 0)
                        return r;
                /* A pass may end at once; asking again at once would only keep wpd from its work. */
                if (clock_now() - frame < FRAME_MS * NSEC_PER_MSEC)
                        nanosleep(&(struct timespec){.tv_nsec = (long)(FRAME_MS * NSEC_PER_MSEC / 2)}, NULL);
        }
        demo->merge_ns = clock_now() - start;
        return draw_progress(demo, start, true);
}

static int check_merged(struct demo *demo)
{
        double expected = (double)(expected_saved(demo) * PAGE_BYTES), fall, off;
        char text[40], actual[40], a[24];
        int r;

        r = read_cost(demo, &demo->after);
        if (r < 0)
                return r;
        fall = (double)demo->before.pss - (double)demo->after.pss;
        check_count(demo, "pages_shared", demo->expect.pages_shared, demo->now.pages_shared);
        check_count(demo, "pages_sharing", demo->expect.pages_sharing, demo->now.pages_sharing);
        check_count(demo, "zero_pages", demo->expect.zero_pages, demo->now.zero_pages);
        off = expected > 0 ? (fall - expected) / expected : 0;
        snprintf(text, sizeof(text), "%s +-%.0f %%", term_bytes(a, sizeof(a), expected), 100 * TOLERANCE);
        snprintf(actual, sizeof(actual), "%s (%+.2f %%)", term_bytes(a, sizeof(a), fall), 100 * off);
        check_text(demo, off <= TOLERANCE && off >= -TOLERANCE, "memory saved (PSS)", text, actual);
        return verify(demo, "bytes while merged");
}

/* Whether no other process saw the write. */
static int others_unchanged(struct demo *demo, uint64_t page, bool *ret_unchanged)
{
        struct worker_request request = {.command = WORKER_CHECK_PAGE};
        bool unchanged = true;
        int r;

        for (uint32_t i = 1; i < demo->layout.n_processes; i++) {
                request.argument = data_twin(&demo->layout, 0, page, i);
                r = worker_call(&demo->workers[i], &request, &demo->reply);
                if (r < 0)
                        return complain_worker(demo, "check", r);
                unchanged = unchanged && demo->reply.pages == 1;
        }
        *ret_unchanged = unchanged;
        return 0;
}

/* Process 0 writes into a merged page and waits for its event; the others must not see the write. */
static int write_merged(struct demo *demo, enum worker_command command, uint64_t page, const char *how)
{
        struct worker_request request = {.command = command, .argument = page};
        struct worker_reply *reply = &demo->reply;
        char name[40], expected[40], actual[40];
        bool unchanged, right;
        uint64_t address;
        int r;

        r = worker_call(&demo->workers[0], &request, reply);
        if (r < 0)
                return complain_worker(demo, "write", r);
        printf("%s into the merged page at 0x%" PRIx64 ": served in %.1f us\n", how, reply->address,
               (double)reply->ns / NSEC_PER_USEC);
        snprintf(name, sizeof(name), "event of the %s", how);
        snprintf(expected, sizeof(expected), "0x%" PRIx64 " by %d", reply->address, reply->tid);
        address = page_down(reply->event_address);
        right = reply->event_type == WP_EVENT_WRITE && address == reply->address &&
                reply->event_tid == reply->tid;
        if (reply->event_type)
                snprintf(actual, sizeof(actual), "0x%" PRIx64 " by %d", address, reply->event_tid);
        else
                snprintf(actual, sizeof(actual), "none");
        check_text(demo, right, name, expected, actual);
        printf("  its owner was told: %s\n", actual);
        r = others_unchanged(demo, page, &unchanged);
        if (r < 0)
                return r;
        snprintf(name, sizeof(name), "others after the %s", how);
        check_text(demo, unchanged, name, "unchanged", unchanged ? "unchanged" : "changed");
        demo->n_writes++;
        return 0;
}

/* Each written page is private again, so one site less shares: the counters must say so. */
static int check_after_writes(struct demo *demo)
{
        uint64_t deadline = clock_now() + SETTLE_TIMEOUT,
                 expected = demo->expect.pages_sharing - demo->n_writes;
        int r;

        do {
                r = read_status(demo, &demo->now);
                if (r < 0)
                        return r;
        } while (demo->now.pages_sharing != expected && clock_now() < deadline);
        check_count(demo, "pages_sharing after the writes", expected, demo->now.pages_sharing);
        return 0;
}

static int writes(struct demo *demo)
{
        uint64_t first, second;
        int r;

        if (demo->expect.pages_shared < MAX_WRITES)
                return 0;
        /* Inside the first and the last shared run. */
        first = data_shared_page(&demo->layout, demo->layout.run_pages / 2);
        second = data_shared_page(&demo->layout, demo->expect.pages_shared - 1);
        if (first == second)
                first = data_shared_page(&demo->layout, 0);
        printf("\n");
        r = write_merged(demo, WORKER_WRITE, first, "store");
        if (r < 0)
                return r;
        r = write_merged(demo, WORKER_READ_INTO, second, "read(2)");
        if (r < 0)
                return r;
        r = check_after_writes(demo);
        return r < 0 ? r : verify(demo, "bytes after the writes");
}

static int unregister(struct demo *demo)
{
        uint64_t deadline = clock_now() + SETTLE_TIMEOUT;
        char a[24];
        int r;

        r = call_all(demo, WORKER_UNREGISTER, "unregister");
        if (r < 0)
                return r;
        do {
                r = read_status(demo, &demo->now);
                if (r < 0)
                        return r;
        } while (demo->now.pages_sharing && clock_now() < deadline);
        r = read_cost(demo, &demo->end);
        if (r < 0)
                return r;
        printf("\nunregistered: the memory is private again and costs %s\n",
               term_bytes(a, sizeof(a), (double)demo->end.pss));
        check_count(demo, "pages_sharing at the end", 0, demo->now.pages_sharing);
        return verify(demo, "bytes after wp_unregister");
}

static int report(const struct demo *demo)
{
        bool all = true;
        char a[24], b[24], c[24];

        printf("\n  %-32s %-24s %-30s\n", "", "expected", "actual");
        for (unsigned i = 0; i < demo->n_checks; i++) {
                const struct check *check = &demo->checks[i];

                printf("  %-32s %-24s %-30s %s\n", check->name, check->expected, check->actual,
                       check->ok ? "ok" : "DIFFERS");
                all = all && check->ok;
        }
        printf("\n  memory of all processes and wpd: %s before, %s merged, %s after; merged in %.1f s\n",
               term_bytes(a, sizeof(a), (double)demo->before.pss),
               term_bytes(b, sizeof(b), (double)demo->after.pss),
               term_bytes(c, sizeof(c), (double)demo->end.pss), (double)demo->merge_ns / NSEC_PER_SEC);
        printf("  of which wpd's own: %s before, %s merged, %s after\n",
               term_bytes(a, sizeof(a), (double)demo->before.daemon_pss),
               term_bytes(b, sizeof(b), (double)demo->after.daemon_pss),
               term_bytes(c, sizeof(c), (double)demo->end.daemon_pss));
        printf("  available on this machine: %s before, %s merged\n",
               term_bytes(a, sizeof(a), (double)demo->before.available),
               term_bytes(b, sizeof(b), (double)demo->after.available));
        printf("\nwpd-demo: %s\n",
               all ? "every figure is as expected" : "some figures differ from what was expected");
        return all ? 0 : EXIT_DIFFERS;
}

static int run(struct demo *demo)
{
        int r;

        r = control_open(demo->control_path, READY_TIMEOUT, &demo->control);
        if (r < 0)
                return complain(demo->control_path, r);
        if (demo->ping)
                return 0;
        r = control_open(demo->control_path, READY_TIMEOUT, &demo->scan);
        if (r < 0)
                return complain(demo->control_path, r);
        r = control_status(demo->control, &demo->base);
        if (r < 0)
                return complain("status", r);
        if ((r = fill(demo)) < 0 || (r = merge(demo)) < 0 || (r = check_merged(demo)) < 0 ||
            (r = writes(demo)) < 0 || (r = unregister(demo)) < 0)
                return r;
        return report(demo);
}

static int usage(FILE *out, int status)
{
        fprintf(out,
                "wpd-demo [OPTION...]: merges the memory of processes with a running wpd, shows and checks it\n"
                "  --processes=N         how many processes, 2 to 64 (2)\n"
                "  --mib=N               memory of each in MiB, 1 to 65536 (256)\n"
                "  --shared-percent=N    part that is identical in all (50)\n"
                "  --zero-percent=N      part that is zeros (0)\n"
                "  --run-pages=N         pages in a row that are of one kind (64)\n"
                "  --seed=N              makes other data (1)\n"
                "  --plain               plain lines instead of a live display\n"
                "  --socket=PATH         wpd's client socket (/run/wpd/client.sock)\n"
                "  --control=PATH        wpd's control socket (/run/wpd/control.sock)\n"
                "  --ping                only wait until wpd answers, at most 10 seconds\n");
        return status;
}

static int parse_number(const char *text, uint64_t minimum, uint64_t maximum, uint64_t *ret_value)
{
        char *end;
        unsigned long long value;

        errno = 0;
        value = strtoull(text, &end, 10);
        if (errno || end == text || *end || *text == '-' || value < minimum || value > maximum)
                return -EINVAL;
        *ret_value = value;
        return 0;
}

static int parse(struct demo *demo, int argc, char **argv)
{
        static const struct option options[] = {
                {"processes", required_argument, NULL, 'n'},
                {"mib", required_argument, NULL, 'm'},
                {"shared-percent", required_argument, NULL, 's'},
                {"zero-percent", required_argument, NULL, 'z'},
                {"run-pages", required_argument, NULL, 'r'},
                {"seed", required_argument, NULL, 'e'},
                {"plain", no_argument, NULL, 'p'},
                {"socket", required_argument, NULL, 'S'},
                {"control", required_argument, NULL, 'C'},
                {"ping", no_argument, NULL, 'P'},
                {"help", no_argument, NULL, 'h'},
                {NULL, 0, NULL, 0},
        };
        uint64_t processes = 2, mib = 256, shared = 50, zero = 0, run_pages = 64, seed = 1;
        int option, r = 0;

        while (r == 0 && (option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (option) {
                case 'n':
                        r = parse_number(optarg, 2, 64, &processes);
                        break;
                case 'm':
                        r = parse_number(optarg, 1, 65536, &mib);
                        break;
                case 's':
                        r = parse_number(optarg, 0, 100, &shared);
                        break;
                case 'z':
                        r = parse_number(optarg, 0, 100, &zero);
                        break;
                case 'r':
                        r = parse_number(optarg, 1, 1 << 20, &run_pages);
                        break;
                case 'e':
                        r = parse_number(optarg, 0, UINT64_MAX, &seed);
                        break;
                case 'p':
                        demo->plain = true;
                        break;
                case 'P':
                        demo->ping = true;
                        break;
                case 'S':
                        demo->socket_path = optarg;
                        break;
                case 'C':
                        demo->control_path = optarg;
                        break;
                case 'h':
                        exit(usage(stdout, 0));
                default:
                        return -EINVAL;
                }
        }
        demo->layout = (struct data_layout){
                .n_processes = (uint32_t)processes,
                .run_pages = (uint32_t)run_pages,
                .shared_percent = (uint32_t)shared,
                .zero_percent = (uint32_t)zero,
                .n_pages = (mib << 20) / PAGE_BYTES,
                .seed = seed,
                .same_places = shared == 100,
        };
        return r < 0 || optind < argc || !data_layout_valid(&demo->layout) ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
        struct demo demo = {.socket_path = "/run/wpd/client.sock", .control_path = "/run/wpd/control.sock"};
        int r;

        worker_main(argc, argv);
        setlocale(LC_CTYPE, "");
        setvbuf(stdout, NULL, _IOLBF, 0);
        if (parse(&demo, argc, argv) < 0)
                return usage(stderr, EXIT_USAGE);
        data_expect(&demo.layout, &demo.expect);
        term_init(&demo.term, stdout, demo.plain);
        r = run(&demo);
        worker_stop_all(demo.workers, demo.layout.n_processes);
        control_close(demo.scan);
        control_close(demo.control);
        return r < 0 ? EXIT_BROKEN : r;
}
