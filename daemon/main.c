/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wpd: command line. Exit status: 0 clean stop, 1 could not serve, 2 usage or configuration. */

#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon.h"
#include "process/check.h"
#include "util/bits.h"
#include "util/log.h"

#define DEFAULT_CONFIG  "/etc/wpd/wpd.conf"
#define DEFAULT_RUNTIME "/run/wpd"
#define EXIT_USAGE      2
#define MAX_CHECK_ROWS  64
#define MMAP_THRESHOLD  (128 << 10)

enum {
        OPTION_CONFIG = 256,
        OPTION_RUNTIME_DIR,
        OPTION_CHECK,
        OPTION_LOG_LEVEL,
        OPTION_VERSION,
        OPTION_HELP,
};

static const struct option long_options[] = {
        {"config", required_argument, NULL, OPTION_CONFIG},
        {"runtime-dir", required_argument, NULL, OPTION_RUNTIME_DIR},
        {"check", no_argument, NULL, OPTION_CHECK},
        {"log-level", required_argument, NULL, OPTION_LOG_LEVEL},
        {"version", no_argument, NULL, OPTION_VERSION},
        {"help", no_argument, NULL, OPTION_HELP},
        {NULL, 0, NULL, 0},
};

static void print_help(void)
{
        puts("Usage: wpd [OPTION...]\n"
             "\n"
             "Merges identical pages of the programs that register memory with it.\n"
             "\n"
             "  --config=FILE        configuration (default " DEFAULT_CONFIG ")\n"
             "  --runtime-dir=DIR    where client.sock and control.sock are made (default " DEFAULT_RUNTIME
             ")\n"
             "  --check              show what this kernel and host offer, and exit 0 if wpd can serve here\n"
             "  --log-level=LEVEL    err, warning, notice, info or debug (default info)\n"
             "  --version            show the version\n"
             "  --help               show this help");
}

static int run_check(void)
{
        static struct check_row rows[MAX_CHECK_ROWS];
        unsigned n = check_run(rows, MAX_CHECK_ROWS);

        return check_print(stdout, rows, n) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        struct daemon_options options = {.config_path = DEFAULT_CONFIG, .runtime_dir = DEFAULT_RUNTIME};
        char error[CONFIG_MAX_ERROR];
        bool check = false;
        int option, level;

        /*
         * Left to itself, malloc() keeps large blocks in the heap once one of them was freed; the tables that grow and go
         * would leave holes there for good.
         */
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        while ((option = getopt_long(argc, argv, "", long_options, NULL)) >= 0) {
                switch (option) {
                case OPTION_CONFIG:
                        options.config_path = optarg;
                        options.config_required = true;
                        break;
                case OPTION_RUNTIME_DIR:
                        options.runtime_dir = optarg;
                        break;
                case OPTION_CHECK:
                        check = true;
                        break;
                case OPTION_LOG_LEVEL:
                        if (log_level_from_name(optarg, &level) < 0) {
                                fprintf(stderr, "wpd: no such log level: %s\n", optarg);
                                return EXIT_USAGE;
                        }
                        log_set_level(level);
                        break;
                case OPTION_VERSION:
                        puts("wpd " WPD_VERSION);
                        return EXIT_SUCCESS;
                case OPTION_HELP:
                        print_help();
                        return EXIT_SUCCESS;
                default:
                        return EXIT_USAGE;
                }
        }
        if (optind < argc) {
                fprintf(stderr, "wpd: unexpected argument: %s\n", argv[optind]);
                return EXIT_USAGE;
        }
        if (check)
                return run_check();
        config_init(&options.config);
        if (config_load(&options.config, options.config_path, options.config_required, error) < 0) {
                fprintf(stderr, "wpd: %s\n", error);
                return EXIT_USAGE;
        }
        return daemon_run(&options) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
