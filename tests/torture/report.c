/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The reports; see the header. */

#include "torture/report.h"

#include <stdio.h>
#include <string.h>

#include "torture/ops.h"
#include "torture/shared.h"
#include "torture/stall.h"
#include "torture/watchdog.h"

static unsigned long long counted(enum count which)
{
        return atomic_load(&shared->counts[which]);
}

static void print_operations(double seconds)
{
        uint64_t sum = 0;

        for (unsigned i = 0; i < n_ops; i++)
                sum += atomic_load(&shared->op_counts[i]);
        printf("operations      %llu (%.0f a second)\n", (unsigned long long)sum, (double)sum / seconds);
        for (unsigned i = 0; i < n_ops; i++)
                printf("%s%s %llu",
                       i % 6 ? ", "
                       : i   ? "\n                "
                             : "                ",
                       ops[i].name, (unsigned long long)atomic_load(&shared->op_counts[i]));
        printf("\n");
}

static void print_stalls(void)
{
        static const char *const names[N_STALLS] = {
                [STALL_EVER] = "at any time",
                [STALL_ALIVE] = "the daemon there all the time",
                [STALL_MERGING] = "the same, while it merged",
                [STALL_KILL] = "within 1 s after a kill",
                [STALL_STOPPED] = "while it was stopped",
                [STALL_ORPHAN] = "not among these: of children whose client is gone, at any time",
        };

        printf("longest stall of a load or store, and how many took longer than %.0f ms\n",
               (double)STALL_SLOW_NS / 1e6);
        for (unsigned i = 0; i < N_STALLS; i++)
                printf("                %9.3f ms %6llu  %s\n",
                       (double)atomic_load(&shared->stalls[i].longest_ns) / 1e6,
                       (unsigned long long)atomic_load(&shared->stalls[i].n_slow), names[i]);
}

static void print_injected(const struct keeper *keeper)
{
        printf("injected        %u kinds of failures:", keeper->n_injected);
        for (unsigned i = 0; i < keeper->n_injected; i++)
                printf("%s%.*s", i ? ", " : " ", (int)strcspn(keeper->injected[i], "\n"),
                       keeper->injected[i]);
        printf("\n");
}

void report_print(const struct keeper *keeper, double seconds)
{
        const struct figures *total = &keeper->total;

        printf("verified        %llu pages (%.0f a second), each byte compared; %llu written\n",
               counted(COUNT_VERIFIED), (double)counted(COUNT_VERIFIED) / seconds, counted(COUNT_STORES));
        print_operations(seconds);
        printf("daemon          %u lives; killed %u, terminated %u, stopped %u times; pools lost %u times",
               keeper->n_lives, keeper->n_kills, keeper->n_terms, keeper->n_stops, keeper->n_losses);
        if (shared->options.inject)
                printf("; ended by itself, injected, %u", keeper->n_own_ends);
        printf("\nmerging         merges %llu, zero_pages %llu, unmerges %llu, write_faults %llu\n",
               (unsigned long long)total->merges, (unsigned long long)total->zero_pages,
               (unsigned long long)total->unmerges, (unsigned long long)total->write_faults);
        printf("clients         %llu connections, %llu lost; %llu registrations, %llu refused; %llu events\n",
               counted(COUNT_CONNECTS), counted(COUNT_LOST), counted(COUNT_REGISTERED),
               counted(COUNT_REFUSED), counted(COUNT_EVENTS));
        printf("forks           %llu; %llu children outlived their client\n", counted(COUNT_FORKS),
               counted(COUNT_ORPHANS));
        if (shared->has_views)
                printf("files           %llu pages verified; %llu registrations, %llu pages seen merged; written %llu times, "
                       "waited for at most %.0f ms\n",
                       counted(COUNT_FILE_VERIFIED), counted(COUNT_FILE_REGISTERED),
                       counted(COUNT_FILE_MERGED), counted(COUNT_FILE_WRITES),
                       (double)atomic_load(&shared->writer_longest_ns) / 1e6);
        printf("tolerated       %llu documented errors, %llu stale pages of orphans\n",
               counted(COUNT_TOLERATED), counted(COUNT_STALE));
        if (shared->options.inject)
                print_injected(keeper);
        print_stalls();
}

void report_failure(const struct keeper *keeper)
{
        const struct verdict *verdict = &shared->verdict;

        printf("\nFAILED: %s\n", verdict->text);
        if (verdict->address)
                watchdog_describe_address(verdict->pid, verdict->address);
        if (verdict->pid != shared->main_pid)
                watchdog_describe_threads(verdict->pid);
        keeper_describe(keeper);
}
