/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The verbs: see the header. Fields that the daemon does not send are shown as "-". */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "util/bits.h"
#include "util/cleanup.h"
#include "wpctl/client.h"
#include "wpctl/table.h"
#include "wpctl/verbs.h"

#define TEXT_INDENT 8

struct verb {
        const char *name;
        const char *operands; /* as the help shows them */
        const char *help;
        const char *method;
        bool takes_wait;
        /* The method's parameters: 0, -ENOMEM, or -EINVAL after saying what is wrong with the operands. */
        int (*parameters)(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters);
        int (*print)(const struct verb_args *args, const json_t *reply, FILE *out);
};

/* errors */

__attribute__((__format__(printf, 2, 3))) static void complain(const struct verb *verb, const char *format,
                                                               ...)
{
        va_list arguments;

        fprintf(stderr, "wpctl: %s: ", verb->name);
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fputc('\n', stderr);
}

/* operands */

static int usage(const struct verb *verb)
{
        complain(verb, "usage: wpctl [--socket=PATH] [--json] %s%s%s%s", verb->name,
                 verb->takes_wait ? " [--wait]" : "", *verb->operands ? " " : "", verb->operands);
        return -EINVAL;
}

static int no_operands(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters)
{
        json_t *parameters;

        if (args->n_operands)
                return usage(verb);
        parameters = json_object();
        if (!parameters)
                return -ENOMEM;
        *ret_parameters = parameters;
        return 0;
}

/* Decimal digits and nothing else: a process that could exist. */
static int parse_pid(const char *text, json_int_t *ret_pid)
{
        unsigned long value;

        if (!*text || strspn(text, "0123456789") != strlen(text))
                return -EINVAL;
        errno = 0;
        value = strtoul(text, NULL, 10);
        if (errno || value < 1 || value > INT_MAX)
                return -EINVAL;
        *ret_pid = (json_int_t)value;
        return 0;
}

/* As /proc/PID/maps and debuggers write it: hexadecimal, with or without 0x. */
static int parse_address(const char *text, json_int_t *ret_address)
{
        const char *digits = strncmp(text, "0x", 2) ? text : text + 2;
        unsigned long long value;

        if (!*digits || strspn(digits, "0123456789abcdefABCDEF") != strlen(digits))
                return -EINVAL;
        errno = 0;
        value = strtoull(digits, NULL, 16);
        if (errno || value > INT64_MAX)
                return -EINVAL;
        *ret_address = (json_int_t)value;
        return 0;
}

static int pid_and_address(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters)
{
        json_int_t pid, address;

        if (args->n_operands != 2)
                return usage(verb);
        if (parse_pid(args->operands[0], &pid) < 0) {
                complain(verb, "'%s' is not a process id", args->operands[0]);
                return -EINVAL;
        }
        if (parse_address(args->operands[1], &address) < 0) {
                complain(verb, "'%s' is not a hexadecimal address", args->operands[1]);
                return -EINVAL;
        }
        *ret_parameters = json_pack("{s:I,s:I}", "pid", pid, "address", address);
        return *ret_parameters ? 0 : -ENOMEM;
}

static int optional_pid(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters)
{
        json_t *parameters;
        json_int_t pid = 0;

        if (args->n_operands > 1)
                return usage(verb);
        if (args->n_operands && parse_pid(args->operands[0], &pid) < 0) {
                complain(verb, "'%s' is not a process id", args->operands[0]);
                return -EINVAL;
        }
        parameters = json_pack("{s:o*,s:o*}", "pid", pid ? json_integer(pid) : NULL, "wait",
                               args->wait ? json_true() : NULL);
        if (!parameters)
                return -ENOMEM;
        *ret_parameters = parameters;
        return 0;
}

/* Text of the command line that JSON cannot carry is a mistake in the usage. */
static int text_parameters(const struct verb *verb, json_t *parameters, json_t **ret_parameters)
{
        if (!parameters) {
                complain(verb, "the setting is not valid UTF-8 text");
                return -EINVAL;
        }
        *ret_parameters = parameters;
        return 0;
}

static int optional_key(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters)
{
        if (!args->n_operands)
                return no_operands(verb, args, ret_parameters);
        if (args->n_operands > 1)
                return usage(verb);
        return text_parameters(verb, json_pack("{s:s}", "key", args->operands[0]), ret_parameters);
}

static int key_and_value(const struct verb *verb, const struct verb_args *args, json_t **ret_parameters)
{
        const char *operand, *equals;

        if (args->n_operands != 1)
                return usage(verb);
        operand = args->operands[0];
        equals = strchr(operand, '=');
        if (!equals || equals == operand) {
                complain(verb, "'%s' is not KEY=VALUE", operand);
                return -EINVAL;
        }
        return text_parameters(
                verb,
                json_pack("{s:s%,s:s}", "key", operand, (size_t)(equals - operand), "value", equals + 1),
                ret_parameters);
}

/* fields of a reply */

static double number(const json_t *object, const char *key)
{
        return json_number_value(json_object_get(object, key));
}

static const char *string(const json_t *object, const char *key)
{
        const char *text = json_string_value(json_object_get(object, key));

        return text ? text : "-";
}

static const char *count(const json_t *object, const char *key, char buffer[TABLE_NUMBER_MAX])
{
        const json_t *value = json_object_get(object, key);

        if (json_is_integer(value))
                snprintf(buffer, TABLE_NUMBER_MAX, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else
                snprintf(buffer, TABLE_NUMBER_MAX, json_is_real(value) ? "%.2f" : "-",
                         json_real_value(value));
        return buffer;
}

static const char *bytes(const json_t *object, const char *key, char buffer[TABLE_NUMBER_MAX])
{
        const json_t *value = json_object_get(object, key);

        return json_is_integer(value) ? table_bytes(json_integer_value(value), buffer) : "-";
}

static const char *percent(const json_t *object, const char *part, const char *whole,
                           char buffer[TABLE_NUMBER_MAX])
{
        return table_percent(number(object, part), number(object, whole), buffer);
}

static const char *measure(const json_t *object, const char *key, const char *unit,
                           char buffer[TABLE_NUMBER_MAX])
{
        const json_t *value = json_object_get(object, key);

        if (!json_is_number(value))
                return "-";
        snprintf(buffer, TABLE_NUMBER_MAX, "%.2f %s", json_number_value(value), unit);
        return buffer;
}

static double saved_bytes(const json_t *object)
{
        return (number(object, "pages_sharing") + number(object, "zero_pages")) * (double)PAGE_BYTES;
}

/* output */

static int print_table(struct table *table, FILE *out)
{
        _cleanup_free_ char *text = NULL;
        int r;

        r = table_format(table, TABLE_WIDTH, &text);
        if (r >= 0)
                fputs(text, out);
        table_free(table);
        return r;
}

static int print_paragraph(const struct verb_args *args, size_t indent, const char *paragraph, FILE *out)
{
        _cleanup_free_ char *text = NULL;
        int r;

        r = table_wrap(paragraph, indent, TABLE_WIDTH, args->utf8, &text);
        if (r >= 0)
                fputs(text, out);
        return r;
}

static void status_row(struct table *table, const char *label, const char *value, const char *note)
{
        table_cell(table, "  %s", label);
        table_cell(table, "%s", value);
        table_cell(table, "%s", note);
}

static void status_count(struct table *table, const json_t *status, const char *label, const char *key,
                         const char *note)
{
        char value[TABLE_NUMBER_MAX];

        status_row(table, label, count(status, key, value), note);
}

/* A number of pages with its share of all tracked pages. */
static void status_share(struct table *table, const json_t *status, const char *label, const char *key,
                         const char *note)
{
        char value[TABLE_NUMBER_MAX], share[TABLE_NUMBER_MAX];

        table_cell(table, "  %s", label);
        table_cell(table, "%s", count(status, key, value));
        table_cell(table, "%s of tracked, %s", percent(status, key, "pages_tracked", share), note);
}

static void status_memory(struct table *table, const json_t *status)
{
        char first[TABLE_NUMBER_MAX], second[TABLE_NUMBER_MAX];

        table_heading(table, "Memory");
        table_cell(table, "  registered");
        table_cell(table, "%s", bytes(status, "bytes_registered", first));
        table_cell(table, "%s regions, %s clients", count(status, "regions", first),
                   count(status, "clients", second));
        table_cell(table, "  saved");
        table_cell(table, "%s", table_bytes((int64_t)saved_bytes(status), first));
        table_cell(table, "%s of registered",
                   table_percent(saved_bytes(status), number(status, "bytes_registered"), first));
        table_cell(table, "  metadata");
        table_cell(table, "%s", bytes(status, "metadata_bytes", first));
        table_cell(table, "%s bytes per tracked page",
                   table_ratio(number(status, "metadata_bytes"), number(status, "pages_tracked"), first));
        status_row(table, "profit", bytes(status, "general_profit", first), "saved less metadata");
}

static void status_pages(struct table *table, const json_t *status)
{
        table_heading(table, "Pages");
        status_count(table, status, "tracked", "pages_tracked", "");
        status_count(table, status, "shared", "pages_shared", "canonical pages in use");
        status_share(table, status, "sharing", "pages_sharing", "more sites of shared pages");
        status_share(table, status, "zero", "zero_pages", "given back to the kernel's zero page");
        status_share(table, status, "unshared", "pages_unshared", "settled, but alone with their content");
        status_share(table, status, "volatile", "pages_volatile", "written too often or too recently");
}

static void status_scanning(struct table *table, const json_t *status)
{
        json_t *failures = json_object_get(status, "merge_failures"), *value;
        char text[TABLE_NUMBER_MAX];
        json_int_t total = 0;
        const char *reason;

        table_heading(table, "Scanning");
        status_count(table, status, "full scans", "full_scans", "");
        status_count(table, status, "pages scanned", "pages_scanned", "");
        status_count(table, status, "pages skipped", "pages_skipped", "");
        status_count(table, status, "merges", "merges", "");
        json_object_foreach(failures, reason, value) {
                total += json_integer_value(value);
        }
        snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT, total);
        status_row(table, "merge failures", text, "");
        json_object_foreach(failures, reason, value) {
                table_cell(table, "    %s", reason);
                table_cell(table, "%s", count(failures, reason, text));
                table_cell(table, "%s", "");
        }
        status_count(table, status, "unmerges", "unmerges", "");
}

static void status_latency(struct table *table, const struct verb_args *args, const json_t *latency)
{
        static const char *const rows[][2] = {
                {"latency, median", "p50"}, {"latency, 99%", "p99"}, {"latency, worst", "max"}};
        char text[TABLE_NUMBER_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                status_row(table, rows[i][0], measure(latency, rows[i][1], args->utf8 ? "µs" : "us", text),
                           "");
}

static void status_writes(struct table *table, const struct verb_args *args, const json_t *status)
{
        table_heading(table, "Writes to merged pages");
        status_count(table, status, "write faults", "write_faults", "");
        status_latency(table, args, json_object_get(status, "fault_latency_us"));
}

/* Nothing, where nobody maps any. */
static void status_files(struct table *table, const struct verb_args *args, const json_t *status)
{
        if (number(status, "files") <= 0 && number(status, "lease_breaks") <= 0)
                return;
        table_heading(table, "Mappings of files");
        status_count(table, status, "files", "files", "");
        status_count(table, status, "leased", "files_leased", "others are open for writing");
        status_share(table, status, "pages", "file_pages", "of files that equal pages stand for");
        status_count(table, status, "lease breaks", "lease_breaks", "somebody wanted to write");
        status_latency(table, args, json_object_get(status, "lease_break_us"));
}

static void status_cost(struct table *table, const json_t *status)
{
        static const char *const rows[][2] = {{"CPU, control thread", "control"},
                                              {"CPU, fault thread", "fault"},
                                              {"CPU, scan thread", "scan"}};
        const json_t *cpu = json_object_get(status, "cpu_seconds");
        char text[TABLE_NUMBER_MAX];
        double total = 0;

        table_heading(table, "Cost");
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                status_row(table, rows[i][0], measure(cpu, rows[i][1], "s", text), "");
                total += number(cpu, rows[i][1]);
        }
        table_cell(table, "  CPU, all");
        table_cell(table, "%.2f s", total);
        table_cell(table, "%s of one CPU since the start",
                   table_percent(total, number(status, "uptime_seconds"), text));
        status_count(table, status, "VMAs", "vmas", "added by merging");
}

static int print_status(const struct verb_args *args, const json_t *reply, FILE *out)
{
        static const struct table_column columns[] = {
                {NULL, TABLE_LEFT},
                {NULL, TABLE_RIGHT},
                {NULL, TABLE_LEFT},
        };
        char uptime[TABLE_NUMBER_MAX];
        struct table *table;
        int r;

        r = table_new(columns, ARRAY_SIZE(columns), args->utf8, &table);
        if (r < 0)
                return r;
        table_heading(table, "wpd %s, %s, up %s", string(reply, "version"), string(reply, "state"),
                      table_duration((int64_t)number(reply, "uptime_seconds"), uptime));
        status_memory(table, reply);
        status_pages(table, reply);
        status_scanning(table, reply);
        status_writes(table, args, reply);
        status_files(table, args, reply);
        status_cost(table, reply);
        return print_table(table, out);
}

static void client_row(struct table *table, const json_t *client)
{
        char text[TABLE_NUMBER_MAX];

        table_cell(table, "%s", count(client, "pid", text));
        table_cell(table, "%s", count(client, "uid", text));
        table_cell(table, "%s", string(client, "name"));
        table_cell(table, "%s", string(client, "state"));
        table_cell(table, "%s", count(client, "regions", text));
        table_cell(table, "%s", bytes(client, "bytes_registered", text));
        table_cell(table, "%s", table_bytes((int64_t)saved_bytes(client), text));
        table_cell(table, "%s", table_percent(saved_bytes(client), number(client, "bytes_registered"), text));
        table_cell(table, "%s", count(client, "write_faults", text));
        table_cell(table, "%s", count(client, "vmas", text));
        table_cell(table, "%s", percent(client, "vmas", "vma_budget", text));
}

static int print_clients(const struct verb_args *args, const json_t *reply, FILE *out)
{
        static const struct table_column columns[] = {
                {"PID", TABLE_RIGHT},   {"UID", TABLE_RIGHT},     {"NAME", TABLE_LEFT},
                {"STATE", TABLE_LEFT},  {"REGIONS", TABLE_RIGHT}, {"REGISTERED", TABLE_RIGHT},
                {"SAVED", TABLE_RIGHT}, {"SHARE", TABLE_RIGHT},   {"FAULTS", TABLE_RIGHT},
                {"VMAS", TABLE_RIGHT},  {"BUDGET", TABLE_RIGHT},
        };
        const json_t *rows = json_object_get(reply, "clients");
        struct table *table;
        int r;

        r = table_new(columns, ARRAY_SIZE(columns), args->utf8, &table);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_array_size(rows); i++)
                client_row(table, json_array_get(rows, i));
        return print_table(table, out);
}

/* The words, with commas between; cut where the buffer ends, for a table cell is cut anyway. */
static const char *join(const json_t *words, char *buffer, size_t size)
{
        const char *word;
        size_t used = 0;

        snprintf(buffer, size, "%s", json_array_size(words) ? "" : "-");
        for (size_t i = 0; i < json_array_size(words) && used < size; i++) {
                word = json_string_value(json_array_get(words, i));
                used += (size_t)snprintf(buffer + used, size - used, "%s%s", i ? "," : "", word ? word : "?");
        }
        return buffer;
}

static const char *address(const json_t *object, char buffer[TABLE_NUMBER_MAX])
{
        const json_t *value = json_object_get(object, "address");

        if (!json_is_integer(value))
                return "-";
        snprintf(buffer, TABLE_NUMBER_MAX, "0x%" PRIx64, (uint64_t)json_integer_value(value));
        return buffer;
}

static void region_row(struct table *table, const json_t *region)
{
        char text[TABLE_NUMBER_MAX], flags[2 * TABLE_WIDTH];

        table_cell(table, "%s", count(region, "pid", text));
        table_cell(table, "%s", count(region, "region", text));
        table_cell(table, "%s", address(region, text));
        table_cell(table, "%s", bytes(region, "length", text));
        table_cell(table, "%s", join(json_object_get(region, "flags"), flags, sizeof(flags)));
        table_cell(table, "%s", percent(region, "pages_merged", "pages", text));
        table_cell(table, "%s", percent(region, "zero_pages", "pages", text));
        table_cell(table, "%s", percent(region, "pages_volatile", "pages", text));
        table_cell(table, "%s", percent(region, "pages_refused", "pages", text));
        table_cell(table, "%s", count(region, "runs", text));
}

static int print_regions(const struct verb_args *args, const json_t *reply, FILE *out)
{
        static const struct table_column columns[] = {
                {"PID", TABLE_RIGHT},  {"REGION", TABLE_RIGHT},   {"ADDRESS", TABLE_RIGHT},
                {"SIZE", TABLE_RIGHT}, {"FLAGS", TABLE_LEFT},     {"MERGED", TABLE_RIGHT},
                {"ZERO", TABLE_RIGHT}, {"VOLATILE", TABLE_RIGHT}, {"REFUSED", TABLE_RIGHT},
                {"RUNS", TABLE_RIGHT},
        };
        const json_t *rows = json_object_get(reply, "regions");
        struct table *table;
        int r;

        r = table_new(columns, ARRAY_SIZE(columns), args->utf8, &table);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_array_size(rows); i++)
                region_row(table, json_array_get(rows, i));
        return print_table(table, out);
}

/* Where it is: ", region 2, at 0x7f0000000000, 8.0 KiB, 2 pages", or as much of that as there is. */
static int finding_place(const json_t *finding, char **ret_place)
{
        char text[TABLE_NUMBER_MAX];
        size_t size;
        FILE *place;

        place = open_memstream(ret_place, &size);
        if (!place)
                return -ENOMEM;
        if (number(finding, "region"))
                fprintf(place, ", region %s", count(finding, "region", text));
        if (number(finding, "address"))
                fprintf(place, ", at %s", address(finding, text));
        if (number(finding, "length"))
                fprintf(place, ", %s", bytes(finding, "length", text));
        if (number(finding, "pages"))
                fprintf(place, ", %s page%s", count(finding, "pages", text),
                        number(finding, "pages") == 1 ? "" : "s");
        return fclose(place) ? -ENOMEM : 0;
}

static int finding_title(const json_t *finding, char **ret_title)
{
        _cleanup_free_ char *place = NULL;
        char pid[TABLE_NUMBER_MAX];
        int r;

        r = finding_place(finding, &place);
        if (r < 0)
                return r;
        if (asprintf(ret_title, "Process %s%s: %s", count(finding, "pid", pid), place,
                     string(finding, "reason")) < 0)
                return -ENOMEM;
        return 0;
}

static int print_finding(const struct verb_args *args, const json_t *finding, FILE *out)
{
        _cleanup_free_ char *title = NULL, *remedy = NULL;
        int r;

        r = finding_title(finding, &title);
        if (r < 0)
                return r;
        if (asprintf(&remedy, "Remedy: %s", string(finding, "remedy")) < 0) {
                remedy = NULL;
                return -ENOMEM;
        }
        if ((r = print_paragraph(args, 0, title, out)) < 0 ||
            (r = print_paragraph(args, TEXT_INDENT, string(finding, "text"), out)) < 0)
                return r;
        return *string(finding, "remedy") ? print_paragraph(args, TEXT_INDENT, remedy, out) : 0;
}

static int print_doctor(const struct verb_args *args, const json_t *reply, FILE *out)
{
        const json_t *findings = json_object_get(reply, "findings");
        int r;

        if (!json_array_size(findings))
                fprintf(out, "All is well: nothing keeps the registered memory%s from being merged.\n",
                        args->n_operands ? " of this process" : "");
        for (size_t i = 0; i < json_array_size(findings); i++) {
                if (i)
                        fputc('\n', out);
                r = print_finding(args, json_array_get(findings, i), out);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* A daemon that does not say listed clients alone. */
static const char *sharer_kind(const json_t *row)
{
        return json_is_false(json_object_get(row, "client")) ? "child" : "client";
}

static int print_sharers(const struct verb_args *args, const json_t *reply, FILE *out)
{
        static const struct table_column columns[] = {
                {"PID", TABLE_RIGHT}, {"ADDRESS", TABLE_RIGHT}, {"WHO", TABLE_LEFT}};
        const json_t *rows = json_object_get(reply, "sharers");
        bool incomplete = json_is_false(json_object_get(reply, "complete"));
        char text[TABLE_NUMBER_MAX];
        struct table *table;
        int r;

        if (!json_array_size(rows) && !incomplete) {
                /* The state is what wpd saw last, the rows are what the kernel says now. */
                if (!strcmp(string(reply, "state"), "merged"))
                        fputs("The page is shared with nobody any more: it was written or discarded.\n", out);
                else
                        fprintf(out, "The page is shared with nobody: it is %s.\n", string(reply, "state"));
                return 0;
        }
        r = table_new(columns, ARRAY_SIZE(columns), args->utf8, &table);
        if (r < 0)
                return r;
        for (size_t i = 0; i < json_array_size(rows); i++) {
                table_cell(table, "%s", count(json_array_get(rows, i), "pid", text));
                table_cell(table, "%s", address(json_array_get(rows, i), text));
                table_cell(table, "%s", sharer_kind(json_array_get(rows, i)));
        }
        r = print_table(table, out);
        if (r < 0 || !incomplete)
                return r;
        fputc('\n', out);
        return print_paragraph(args, 0, "There may be more, who could not all be looked at.", out);
}

static int print_scan(const struct verb_args *args, const json_t *reply, FILE *out)
{
        char scanned[TABLE_NUMBER_MAX], merged[TABLE_NUMBER_MAX], zero[TABLE_NUMBER_MAX],
                failed[TABLE_NUMBER_MAX], seconds[TABLE_NUMBER_MAX], text[8 * TABLE_NUMBER_MAX];

        if (!args->wait)
                return print_paragraph(args, 0, "A full pass has been started.", out);
        if (!json_object_get(reply, "pages_scanned"))
                return print_paragraph(args, 0, "A full pass is over.", out);
        snprintf(text, sizeof(text),
                 "A full pass is over: %s pages scanned, %s merged, %s zero, %s failed, %s seconds.",
                 count(reply, "pages_scanned", scanned), count(reply, "pages_merged", merged),
                 count(reply, "zero_pages", zero), count(reply, "pages_failed", failed),
                 count(reply, "seconds", seconds));
        return print_paragraph(args, 0, text, out);
}

static int print_pause(const struct verb_args *args, const json_t *reply, FILE *out)
{
        return print_paragraph(args, 0, "Scanning is paused; merged memory stays merged.", out);
}

static int print_resume(const struct verb_args *args, const json_t *reply, FILE *out)
{
        return print_paragraph(args, 0, "Scanning goes on.", out);
}

/* A setting as text, whatever JSON type it travelled as. */
static void setting_cell(struct table *table, const json_t *value)
{
        _cleanup_free_ char *text =
                json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

        table_cell(table, "%s", json_is_string(value) ? json_string_value(value) : text ? text : "?");
}

/* All settings with their keys; a single one alone, for scripts. */
static int print_get(const struct verb_args *args, const json_t *reply, FILE *out)
{
        static const struct table_column columns[] = {{"KEY", TABLE_LEFT}, {"VALUE", TABLE_LEFT}};
        static const struct table_column value_column[] = {{NULL, TABLE_LEFT}};
        bool single = args->n_operands;
        struct table *table;
        const char *key;
        json_t *value;
        int r;

        r = table_new(single ? value_column : columns, single ? 1 : 2, args->utf8, &table);
        if (r < 0)
                return r;
        json_object_foreach(json_object_get(reply, "settings"), key, value) {
                if (!single)
                        table_cell(table, "%s", key);
                setting_cell(table, value);
        }
        return print_table(table, out);
}

static int print_nothing(const struct verb_args *args, const json_t *reply, FILE *out)
{
        return 0;
}

static const struct verb verbs[] = {
        {"status", "", "the totals: memory saved, pages, scanning, write faults, cost", "Status", false,
         no_operands, print_status},
        {"clients", "", "one line for each client, with what it saves", "Clients", false, no_operands,
         print_clients},
        {"regions", "[PID]", "one line for each registered region", "Regions", false, optional_pid,
         print_regions},
        {"doctor", "[PID]", "why memory is not being merged, and what helps", "Doctor", false, optional_pid,
         print_doctor},
        {"sharers", "PID ADDRESS", "who shares the page at this address", "Sharers", false, pid_and_address,
         print_sharers},
        {"scan", "[PID]", "scan and merge now; with --wait, return when one full pass is over", "Scan", true,
         optional_pid, print_scan},
        {"pause", "", "stop scanning; merged memory stays merged", "Pause", false, no_operands, print_pause},
        {"resume", "", "go on scanning", "Resume", false, no_operands, print_resume},
        {"get", "[KEY]", "the settings, or the value of one", "Get", false, optional_key, print_get},
        {"set", "KEY=VALUE", "change a setting until wpd stops or reads its configuration", "Set", false,
         key_and_value, print_nothing},
};

const struct verb *verb_find(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
                if (!strcmp(verbs[i].name, name))
                        return &verbs[i];
        return NULL;
}

int verbs_help(FILE *out)
{
        static const struct table_column columns[] = {{NULL, TABLE_LEFT}, {NULL, TABLE_LEFT}};
        struct table *table;
        int r;

        r = table_new(columns, ARRAY_SIZE(columns), false, &table);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
                table_cell(table, "  %s%s%s%s", verbs[i].name, verbs[i].takes_wait ? " [--wait]" : "",
                           *verbs[i].operands ? " " : "", verbs[i].operands);
                table_cell(table, "%s", verbs[i].help);
        }
        return print_table(table, out);
}

/* Says in words what the daemon refused. */
static void explain(const struct verb *verb, const struct verb_args *args, const struct varlink_reply *reply)
{
        _cleanup_free_ char *reason = table_clean(string(reply->parameters, "reason"), args->utf8);
        _cleanup_free_ char *error = table_clean(reply->error, args->utf8);
        _cleanup_free_ char *key = table_clean(string(reply->parameters, "key"), args->utf8);
        char pid[TABLE_NUMBER_MAX];

        if (!reason || !error || !key)
                complain(verb, "%s", strerror(ENOMEM));
        else if (!strcmp(error, CLIENT_INTERFACE ".PermissionDenied"))
                complain(verb, "permission denied: %s", reason);
        else if (!strcmp(error, CLIENT_INTERFACE ".NoSuchClient"))
                complain(verb, "process %s is not a client of wpd", count(reply->parameters, "pid", pid));
        else if (!strcmp(error, CLIENT_INTERFACE ".NoSuchPage"))
                complain(verb, "process %s has registered nothing there",
                         count(reply->parameters, "pid", pid));
        else if (!strcmp(error, CLIENT_INTERFACE ".InvalidSetting"))
                complain(verb, "%s%s%s", strstr(reason, key) ? "" : key, strstr(reason, key) ? "" : ": ",
                         reason);
        else if (json_object_get(reply->parameters, "reason"))
                complain(verb, "refused: %s", reason);
        else
                complain(verb, "the daemon answers %s; is it of another version?", error);
}

static enum wpctl_exit unreachable(const struct verb *verb, const struct verb_args *args, int error)
{
        if (error == -ECONNRESET)
                complain(verb, "%s: the daemon hung up", args->socket);
        else if (error == -ETIMEDOUT)
                complain(verb, "%s: the daemon does not answer", args->socket);
        else if (error == -EBADMSG || error == -EMSGSIZE)
                complain(verb, "%s: what answers there is not wpd", args->socket);
        else
                complain(verb, "cannot reach the daemon at %s: %s", args->socket, strerror(-error));
        return WPCTL_UNREACHABLE;
}

static int print_json(const struct verb_args *args, const json_t *reply, FILE *out)
{
        int r;

        r = json_dumpf(reply, out, JSON_INDENT(2) | (args->utf8 ? 0 : JSON_ENSURE_ASCII));
        fputc('\n', out);
        return r < 0 ? -EIO : 0;
}

static enum wpctl_exit answer(const struct verb *verb, const struct verb_args *args,
                              const struct varlink_reply *reply, FILE *out)
{
        int r;

        if (reply->error) {
                explain(verb, args, reply);
                return WPCTL_REFUSED;
        }
        r = (args->json ? print_json : verb->print)(args, reply->parameters, out);
        /* What is wrong with the output itself is found by whoever closes it. */
        if (r < 0 && !ferror(out)) {
                complain(verb, "%s", strerror(-r));
                return WPCTL_REFUSED;
        }
        return WPCTL_DONE;
}

enum wpctl_exit verb_run(const struct verb *verb, const struct verb_args *args, FILE *out)
{
        struct varlink_reply reply = VARLINK_REPLY_INIT;
        json_t *parameters = NULL;
        struct client *client;
        enum wpctl_exit status;
        int r;

        if (args->wait && !verb->takes_wait) {
                complain(verb, "--wait is for scan only");
                return WPCTL_USAGE;
        }
        r = verb->parameters(verb, args, &parameters);
        if (r == -EINVAL)
                return WPCTL_USAGE;
        if (r < 0)
                return unreachable(verb, args, r);
        r = client_connect(args->socket, &client);
        if (r < 0) {
                json_decref(parameters);
                return unreachable(verb, args, r);
        }
        r = client_call(client, verb->method, parameters, args->wait, &reply);
        status = r < 0 ? unreachable(verb, args, r) : answer(verb, args, &reply, out);
        varlink_reply_deinit(&reply);
        client_free(client);
        return status;
}
