/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The command line. */

#include "torture/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "torture/shared.h"

static const char help[] =
        "usage: wpd-torture --wpd=PATH [OPTION...]\n"
        "\n"
        "Programs that know each byte of their memory do to it whatever a program may do, while a wpd of\n"
        "their own merges it, is killed and comes back. Ends at the first wrong byte or hang.\n"
        "\n"
        "  --wpd=PATH               the daemon\n"
        "  --seed=N                 the choices; by default from the clock, and printed\n"
        "  --seconds=N, --minutes=N how long (10 s)\n"
        "  --clients=N              processes (3)\n"
        "  --threads=N              of each (3)\n"
        "  --pages=N                of each (6144)\n"
        "  --kill-interval=MS       mean time between two ends of the daemon (1500); 0: never\n"
        "  --client-kill-interval=MS  the same of clients (3000); 0: never\n"
        "  --stops                  stops the daemon now and then, for up to 3 s\n"
        "  --only=OP[,OP...]        nothing but these operations\n"
        "  --without=OP[,OP...]     all but these; child.OP: not in forked children\n"
        "  --list-ops               names them\n"
        "  --expect=TEXT            the run must fail, and say this: for tests of the torture itself\n"
        "  --uid=N                  the clients' user (65534)\n"
        "  --inject=PATH            makes system calls of the daemon fail: the library to preload\n"
        "  --inject-one-in=N        how rarely (300)\n"
        "  --directory=PATH         for a file that is read with O_DIRECT (/var/tmp)\n"
        "  --hang=SECONDS           who makes no progress for so long hangs (60)\n"
        "\n"
        "Exit status: 0 all is right, 1 it is not, 77 it cannot be tried here.\n";

enum {
        OPTION_HELP = 256,
        OPTION_SEED,
        OPTION_SECONDS,
        OPTION_MINUTES,
        OPTION_CLIENTS,
        OPTION_THREADS,
        OPTION_PAGES,
        OPTION_KILL,
        OPTION_CLIENT_KILL,
        OPTION_STOPS,
        OPTION_ONLY,
        OPTION_WITHOUT,
        OPTION_EXPECT,
        OPTION_LIST,
        OPTION_UID,
        OPTION_INJECT,
        OPTION_ONE_IN,
        OPTION_DIRECTORY,
        OPTION_HANG,
        OPTION_WPD,
};

static const struct option long_options[] = {
        {"help", no_argument, NULL, OPTION_HELP},
        {"seed", required_argument, NULL, OPTION_SEED},
        {"seconds", required_argument, NULL, OPTION_SECONDS},
        {"minutes", required_argument, NULL, OPTION_MINUTES},
        {"clients", required_argument, NULL, OPTION_CLIENTS},
        {"threads", required_argument, NULL, OPTION_THREADS},
        {"pages", required_argument, NULL, OPTION_PAGES},
        {"kill-interval", required_argument, NULL, OPTION_KILL},
        {"client-kill-interval", required_argument, NULL, OPTION_CLIENT_KILL},
        {"stops", no_argument, NULL, OPTION_STOPS},
        {"only", required_argument, NULL, OPTION_ONLY},
        {"without", required_argument, NULL, OPTION_WITHOUT},
        {"expect", required_argument, NULL, OPTION_EXPECT},
        {"list-ops", no_argument, NULL, OPTION_LIST},
        {"uid", required_argument, NULL, OPTION_UID},
        {"inject", required_argument, NULL, OPTION_INJECT},
        {"inject-one-in", required_argument, NULL, OPTION_ONE_IN},
        {"directory", required_argument, NULL, OPTION_DIRECTORY},
        {"hang", required_argument, NULL, OPTION_HANG},
        {"wpd", required_argument, NULL, OPTION_WPD},
        {NULL, 0, NULL, 0},
};

static uint64_t clock_seed(void)
{
        return clock_ns(CLOCK_REALTIME) / NSEC_PER_USEC % 1000000000;
}

/* A number within bounds; a bad one is reported. */
static bool parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *ret_number)
{
        unsigned long long number;
        char *end;

        errno = 0;
        number = strtoull(text, &end, 10);
        if (errno || end == text || *end || number < least || number > most) {
                fprintf(stderr, "wpd-torture: %s is not a number from %llu to %llu\n", text,
                        (unsigned long long)least, (unsigned long long)most);
                return false;
        }
        *ret_number = number;
        return true;
}

static bool parse_unsigned(const char *text, unsigned least, unsigned most, unsigned *ret_number)
{
        uint64_t number;

        if (!parse_number(text, least, most, &number))
                return false;
        *ret_number = (unsigned)number;
        return true;
}

static bool parse_minutes(const char *text, unsigned *ret_seconds)
{
        unsigned minutes;

        if (!parse_unsigned(text, 1, 100000, &minutes))
                return false;
        *ret_seconds = minutes * 60;
        return true;
}

static bool parse_one(struct options *options, int option)
{
        switch (option) {
        case OPTION_SEED:
                return parse_number(optarg, 0, UINT64_MAX, &options->seed);
        case OPTION_SECONDS:
                return parse_unsigned(optarg, 1, 10000000, &options->seconds);
        case OPTION_MINUTES:
                return parse_minutes(optarg, &options->seconds);
        case OPTION_CLIENTS:
                return parse_unsigned(optarg, 1, MAX_CLIENTS, &options->clients);
        case OPTION_THREADS:
                return parse_unsigned(optarg, 1, MAX_THREADS, &options->threads);
        case OPTION_PAGES:
                return parse_unsigned(optarg, 1024, 1 << 22, &options->pages);
        case OPTION_KILL:
                return parse_unsigned(optarg, 0, 10000000, &options->kill_ms);
        case OPTION_CLIENT_KILL:
                return parse_unsigned(optarg, 0, 10000000, &options->client_kill_ms);
        case OPTION_STOPS:
                return options->stops = true;
        case OPTION_ONLY:
                return (options->only = optarg);
        case OPTION_WITHOUT:
                return (options->without = optarg);
        case OPTION_EXPECT:
                return (options->expect = optarg);
        case OPTION_LIST:
                return options->list_ops = true;
        case OPTION_UID:
                return parse_unsigned(optarg, 0, UINT32_MAX - 1, &options->uid);
        case OPTION_INJECT:
                return (options->inject = optarg);
        case OPTION_ONE_IN:
                return parse_unsigned(optarg, 1, 1000000000, &options->inject_one_in);
        case OPTION_DIRECTORY:
                return (options->directory = optarg);
        case OPTION_HANG:
                return parse_unsigned(optarg, 1, 100000, &options->hang_seconds);
        case OPTION_WPD:
                return (options->wpd = optarg);
        default:
                return false;
        }
}

int options_parse(struct options *options, int argc, char **argv)
{
        int option;

        *options = (struct options){
                .seed = clock_seed(),
                .seconds = 10,
                .clients = 3,
                .threads = 3,
                .pages = 6144,
                .kill_ms = 1500,
                .client_kill_ms = 3000,
                .hang_seconds = 60,
                .inject_one_in = 300,
                .uid = 65534,
                .directory = "/var/tmp",
        };
        while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
                if (option == OPTION_HELP) {
                        fputs(help, stdout);
                        return 1;
                }
                if (!parse_one(options, option))
                        return -EINVAL;
        }
        if (optind == argc && (options->wpd || options->list_ops))
                return 0;
        fputs(help, stderr);
        return -EINVAL;
}

void options_print(const struct options *options)
{
        printf("wpd-torture --seed=%llu --seconds=%u --clients=%u --threads=%u --pages=%u --kill-interval=%u "
               "--client-kill-interval=%u --uid=%u --hang=%u --directory=%s --wpd=%s%s",
               (unsigned long long)options->seed, options->seconds, options->clients, options->threads,
               options->pages, options->kill_ms, options->client_kill_ms, options->uid, options->hang_seconds,
               options->directory, options->wpd, options->stops ? " --stops" : "");
        if (options->only)
                printf(" --only=%s", options->only);
        if (options->without)
                printf(" --without=%s", options->without);
        if (options->expect)
                printf(" --expect='%s'", options->expect);
        if (options->inject)
                printf(" --inject=%s --inject-one-in=%u", options->inject, options->inject_one_in);
        printf("\n");
}
