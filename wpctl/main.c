/* SPDX-License-Identifier: GPL-2.0-or-later */

/* wpctl: the command line, the locale, and the end of the output; the rest is in verbs.c. */

#include <getopt.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "wpctl/verbs.h"

#define DEFAULT_SOCKET "/run/wpd/control.sock"

static const char usage[] = "Usage: wpctl [--socket=PATH] [--json] VERB ...\n";

static int help(void)
{
        int r;

        printf("%s"
               "Queries and controls a running wpd.\n"
               "\n"
               "Verbs:\n",
               usage);
        r = verbs_help(stdout);
        printf("\n"
               "Options:\n"
               "  --socket=PATH  the daemon's control socket (default: " DEFAULT_SOCKET ")\n"
               "  --json         print the reply as one JSON document\n"
               "  --wait         scan: return when one full pass is over\n"
               "  --help         print this and exit\n"
               "  --version      print the version and exit\n"
               "\n"
               "Exit status: 0 done, 1 refused by the daemon, 2 wrong usage, 3 daemon not reachable.\n");
        return r < 0 ? WPCTL_REFUSED : WPCTL_DONE;
}

static int wrong_usage(void)
{
        fprintf(stderr, "%sTry 'wpctl --help'.\n", usage);
        return WPCTL_USAGE;
}

static int run(struct verb_args *args, int argc, char **argv)
{
        const struct verb *verb;

        if (optind == argc)
                return wrong_usage();
        verb = verb_find(argv[optind]);
        if (!verb) {
                fprintf(stderr, "wpctl: there is no verb '%s'\n", argv[optind]);
                return wrong_usage();
        }
        args->operands = argv + optind + 1;
        args->n_operands = argc - optind - 1;
        return verb_run(verb, args, stdout);
}

static int parse_and_run(int argc, char **argv)
{
        enum { SOCKET = 256, JSON, WAIT, HELP, VERSION };
        static const struct option options[] = {
                {"socket", required_argument, NULL, SOCKET}, {"json", no_argument, NULL, JSON},
                {"wait", no_argument, NULL, WAIT},           {"help", no_argument, NULL, HELP},
                {"version", no_argument, NULL, VERSION},     {},
        };
        struct verb_args args = {.socket = DEFAULT_SOCKET, .utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8")};
        int option;

        while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
                switch (option) {
                case SOCKET:
                        args.socket = optarg;
                        break;
                case JSON:
                        args.json = true;
                        break;
                case WAIT:
                        args.wait = true;
                        break;
                case HELP:
                        return help();
                case VERSION:
                        printf("wpctl " WPD_VERSION "\n");
                        return WPCTL_DONE;
                default:
                        return wrong_usage();
                }
        }
        return run(&args, argc, argv);
}

int main(int argc, char **argv)
{
        int status;

        /* A reader that has seen enough ends the program without a word, whatever was inherited. */
        signal(SIGPIPE, SIG_DFL);
        setlocale(LC_CTYPE, "");
        status = parse_and_run(argc, argv);
        if (fflush(stdout) || ferror(stdout)) {
                fprintf(stderr, "wpctl: the output could not be written\n");
                return status ? status : WPCTL_REFUSED;
        }
        return status;
}
