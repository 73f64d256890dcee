/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The figures and reasons that wpd shows, and the pages that explain them: the same names on both sides. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/page.h"
#include "dedup/policy.h"
#include "document.h"
#include "util/bits.h"

#define MAX_TABLE_COLUMNS 100

struct texts {
        char *counters;
        char *memory;
        char *protocol;
        char *idl;
        char *status;
};

static int read_texts(void **state)
{
        static struct texts texts;

        texts.counters = document_read(TEST_SOURCE_ROOT "/doc/counters.md");
        texts.memory = document_read(TEST_SOURCE_ROOT "/doc/memory.md");
        texts.protocol = document_read(TEST_SOURCE_ROOT "/doc/protocol.md");
        texts.idl = document_read(TEST_SOURCE_ROOT "/doc/io.wpd.Control.varlink");
        texts.status = document_read(TEST_SOURCE_ROOT "/daemon/serve/status.c");
        *state = &texts;
        return texts.counters && texts.memory && texts.protocol && texts.idl && texts.status ? 0 : -1;
}

static int free_texts(void **state)
{
        struct texts *texts = *state;

        free(texts->counters);
        free(texts->memory);
        free(texts->protocol);
        free(texts->idl);
        free(texts->status);
        return 0;
}

/* `name: type` of a Varlink definition; remarks have a '#' first. */
static bool idl_member(const char *line, size_t length, const char **ret_name, size_t *ret_length)
{
        size_t start = strspn(line, " \t"), n = 0;

        while (start + n < length && (isalnum((unsigned char)line[start + n]) || line[start + n] == '_'))
                n++;
        *ret_name = line + start;
        *ret_length = n;
        return n > 0 && start + n < length && line[start + n] == ':';
}

static void compare(const char *what, const struct names *shown, const struct names *documented)
{
        const char *name;

        assert_in_range(shown->n, 1, DOCUMENT_MAX_NAMES);
        name = names_missing(shown, documented);
        if (name)
                fail_msg("%s: `%s` is not documented", what, name);
        name = names_missing(documented, shown);
        if (name)
                fail_msg("%s: `%s` is documented, but is not there or is documented twice", what, name);
}

/* The functions that all other tests here rely on. */
static void test_parsers(void **state)
{
        static const char text[] = "## a\n| t | u |\n|---|---|\n| `x` | one `two` |\n| y | |\nend\n"
                                   "| t |\n|---|\n| z |\n\n## b\n| t |\n|---|\n| w |\n";
        static const char idl[] =
                "type T (\n  # no: remark\n  one: int,\n\n  two: ?string\n)\ntype U (\n three: int\n)\n";
        struct names names, more = {.n = 0};

        document_column(text, "## a", 0, 0, &names);
        assert_int_equal(names.n, 2);
        assert_string_equal(names.name[0], "x");
        assert_string_equal(names.name[1], "y");
        document_column(text, "## a", 0, 1, &names);
        assert_string_equal(names.name[0], "one two");
        assert_string_equal(names.name[1], "");
        document_column(text, "## a", 1, 0, &names);
        assert_int_equal(names.n, 1);
        assert_string_equal(names.name[0], "z");
        document_column(text, "## a", 2, 0, &names);
        assert_int_equal(names.n, 0);
        document_column(text, "## c", 0, 0, &names);
        assert_int_equal(names.n, 0);
        document_members(idl, "type T (", ")", idl_member, &names);
        assert_int_equal(names.n, 2);
        assert_string_equal(names.name[0], "one");
        assert_string_equal(names.name[1], "two");

        names_add(&more, "one", 3);
        assert_null(names_missing(&more, &names));
        assert_string_equal(names_missing(&names, &more), "two");
        names_add(&more, "one", 3);
        assert_string_equal(names_missing(&more, &names), "one");
        assert_true(document_has_word("a wp_b c", "wp_b"));
        assert_false(document_has_word("a wp_bc", "wp_b"));
}

static void test_fields(void **state)
{
        static const struct {
                const char *opening;
                const char *heading;
        } cases[] = {
                {"method Status() -> (", "## status"},
                {"type CpuSeconds (", "### cpu_seconds"},
                {"type Latency (", "### fault_latency_us"},
                {"type Client (", "## clients"},
                {"type Region (", "## regions"},
                {"type Finding (", "## doctor"},
        };
        const struct texts *texts = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct names shown, documented;

                document_members(texts->idl, cases[i].opening, ")", idl_member, &shown);
                document_column(texts->counters, cases[i].heading, 0, 0, &documented);
                compare(cases[i].heading, &shown, &documented);
                document_column(texts->counters, cases[i].heading, 0, 1, &documented);
                for (size_t j = 0; j < documented.n; j++)
                        if (!documented.name[j][0])
                                fail_msg("%s: line %zu says nothing", cases[i].heading, j + 1);
                /* What the interface promises is what the daemon fills in. */
                for (size_t j = 0; j < shown.n; j++) {
                        char quoted[DOCUMENT_MAX_NAME + 2];

                        snprintf(quoted, sizeof(quoted), "\"%s\"", shown.name[j]);
                        if (!strstr(texts->status, quoted))
                                fail_msg("%s: status.c does not fill in %s", cases[i].heading, quoted);
                }
        }
}

static void test_states(void **state)
{
        const struct texts *texts = *state;
        struct names shown = {.n = 0}, documented;

        for (unsigned i = 0; i < PAGE_N_STATES; i++) {
                const char *name = page_state_name((enum page_state)i);

                names_add(&shown, name, strlen(name));
        }
        document_column(texts->counters, "## Where a page is", 0, 0, &documented);
        compare("states", &shown, &documented);
}

static void test_reasons(void **state)
{
        const struct texts *texts = *state;
        struct names shown = {.n = 0}, documented, meanings, remedies;

        for (unsigned i = REASON_NONE + 1; i < REASON_N; i++) {
                const char *name = reason_name((enum reason)i);

                names_add(&shown, name, strlen(name));
        }
        document_column(texts->counters, "## Reasons", 0, 0, &documented);
        document_column(texts->counters, "## Reasons", 0, 2, &meanings);
        document_column(texts->counters, "## Reasons", 0, 3, &remedies);
        compare("reasons", &shown, &documented);
        assert_int_equal(meanings.n, shown.n);
        assert_int_equal(remedies.n, shown.n);
        for (unsigned i = 0; i < shown.n; i++) {
                const char *text = reason_text((enum reason)(REASON_NONE + 1 + i));

                /* In the order of the list; shortened at the end at most. */
                assert_string_equal(documented.name[i], shown.name[i]);
                if (!meanings.name[i][0] || strncmp(text, meanings.name[i], strlen(meanings.name[i])))
                        fail_msg("reason `%s`: \"%s\" is not how \"%s\" begins", shown.name[i],
                                 meanings.name[i], text);
                if (!remedies.name[i][0])
                        fail_msg("reason `%s` has no remedy", shown.name[i]);
        }
}

/* What doctor says of pages that were not refused: {PAGE_..., "reason", ... in status.c. */
static void test_findings(void **state)
{
        const struct texts *texts = *state;
        struct names documented;

        document_column(texts->counters, "## doctor", 1, 0, &documented);
        assert_in_range(documented.n, 1, DOCUMENT_MAX_NAMES);
        for (size_t i = 0; i < documented.n; i++) {
                char quoted[DOCUMENT_MAX_NAME + 2];

                snprintf(quoted, sizeof(quoted), "\"%s\"", documented.name[i]);
                if (!strstr(texts->status, quoted))
                        fail_msg("doctor never says %s", quoted);
        }
        for (const char *at = texts->status; (at = strstr(at, "{PAGE_")); at++) {
                struct names shown = {.n = 0};
                const char *reason = strchr(at, '"');

                assert_non_null(reason);
                names_add(&shown, reason + 1, strcspn(reason + 1, "\""));
                if (names_missing(&shown, &documented))
                        fail_msg("doctor's `%s` is not documented", shown.name[0]);
        }
}

/* The list of memory that is refused names exactly the reasons with which registering fails. */
static void test_refusals(void **state)
{
        const struct texts *texts = *state;
        struct names reasons, where, listed, refusals = {.n = 0};

        document_column(texts->counters, "## Reasons", 0, 0, &reasons);
        document_column(texts->counters, "## Reasons", 0, 1, &where);
        assert_int_equal(reasons.n, where.n);
        for (size_t i = 0; i < reasons.n; i++)
                if (!strcmp(where.name[i], "R"))
                        names_add(&refusals, reasons.name[i], strlen(reasons.name[i]));
        document_column(texts->memory, "## Which memory can take part", 0, 1, &listed);
        compare("memory.md", &refusals, &listed);
}

/* In characters: what continues a UTF-8 sequence is not counted. */
static size_t columns_of(const char *line)
{
        size_t n = 0;

        for (; *line && *line != '\n'; line++)
                n += ((unsigned char)*line & 0xc0) != 0x80;
        return n;
}

static void test_width(void **state)
{
        const struct texts *texts = *state;
        const char *const documents[] = {texts->counters, texts->memory, texts->protocol};

        for (size_t i = 0; i < ARRAY_SIZE(documents); i++) {
                size_t n_rows = 0;

                for (const char *line = documents[i]; line; line = strchr(line, '\n')) {
                        line += *line == '\n';
                        n_rows += *line == '|';
                        if (*line == '|' && columns_of(line) > MAX_TABLE_COLUMNS)
                                fail_msg("a row of %zu columns: %.60s", columns_of(line), line);
                }
                assert_in_range(n_rows, 10, 1000);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parsers),  cmocka_unit_test(test_fields),
                cmocka_unit_test(test_states),   cmocka_unit_test(test_reasons),
                cmocka_unit_test(test_findings), cmocka_unit_test(test_refusals),
                cmocka_unit_test(test_width),
        };

        return cmocka_run_group_tests_name("doc/counters", tests, read_texts, free_texts);
}
