/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Tables of expected output, and random tables that must keep their promises. */

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include <cmocka.h>

#include "util/bits.h"
#include "wpctl/table.h"

#ifdef NDEBUG
#error "tests rely on assertions"
#endif

static bool have_utf8;
static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint32_t random_below(uint32_t n)
{
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return (uint32_t)(random_state >> 32) % n;
}

static const struct table_column people[] = {
        {"PID", TABLE_RIGHT}, {"NAME", TABLE_LEFT}, {"SIZE", TABLE_RIGHT}};

/* Columns of the widest line, as the C library counts them; the text must be valid in the locale. */
static size_t widest_line(const char *text)
{
        wchar_t line[1024];
        size_t widest = 0, n;
        char copy[4096];
        int width;

        while (*text) {
                n = strcspn(text, "\n");
                assert_true(n < sizeof(copy));
                memcpy(copy, text, n);
                copy[n] = '\0';
                assert_true(mbstowcs(line, copy, ARRAY_SIZE(line)) < ARRAY_SIZE(line));
                width = wcswidth(line, ARRAY_SIZE(line));
                assert_true(width >= 0);
                widest = MAX(widest, (size_t)width);
                text += n + (text[n] == '\n');
        }
        return widest;
}

static void expect_table(struct table *table, size_t width, const char *expected)
{
        char *text;

        assert_int_equal(table_format(table, width, &text), 0);
        assert_string_equal(text, expected);
        free(text);
}

static struct table *people_table(bool utf8)
{
        struct table *table;

        assert_int_equal(table_new(people, ARRAY_SIZE(people), utf8, &table), 0);
        return table;
}

static void add_person(struct table *table, int pid, const char *name, const char *size)
{
        table_cell(table, "%d", pid);
        table_cell(table, "%s", name);
        table_cell(table, "%s", size);
}

static void test_alignment(void **state)
{
        struct table *table = people_table(false);

        expect_table(table, 100, "PID  NAME  SIZE\n");
        add_person(table, 1, "init", "8.0 KiB");
        add_person(table, 4711, "a", "1.5 GiB");
        add_person(table, 22, "", "");
        expect_table(table, 100,
                     " PID  NAME     SIZE\n"
                     "   1  init  8.0 KiB\n"
                     "4711  a     1.5 GiB\n"
                     "  22\n");
        table_free(table);
        assert_null(table_free(NULL));
}

static void test_headings(void **state)
{
        static const struct table_column columns[] = {{NULL, TABLE_LEFT}, {NULL, TABLE_RIGHT}};
        struct table *table;

        assert_int_equal(table_new(columns, 2, false, &table), 0);
        table_heading(table, "%s of %d columns", "A heading", 2);
        table_cell(table, "  one");
        table_cell(table, "1");
        table_heading(table, "Another");
        table_cell(table, "  eleven");
        table_cell(table, "11");
        table_cell(table, "  unfinished");
        expect_table(table, 40,
                     "A heading of 2 columns\n"
                     "  one          1\n"
                     "\n"
                     "Another\n"
                     "  eleven      11\n"
                     "  unfinished\n");
        table_free(table);
}

/* The text gives way, not the numbers; the widest text first. */
static void test_cut(void **state)
{
        static const struct table_column columns[] = {
                {"FIRST", TABLE_LEFT}, {"SECOND", TABLE_LEFT}, {"NUMBER", TABLE_RIGHT}};
        struct table *table;

        assert_int_equal(table_new(columns, 3, false, &table), 0);
        table_cell(table, "abcdefghijklmnopqrstuvwxyz");
        table_cell(table, "0123456789abcdef");
        table_cell(table, "1234567890123");
        expect_table(table, 59,
                     "FIRST                       SECOND                   NUMBER\n"
                     "abcdefghijklmnopqrstuvwxyz  0123456789abcdef  1234567890123\n");
        expect_table(table, 58,
                     "FIRST                      SECOND                   NUMBER\n"
                     "abcdefghijklmnopqrstuv...  0123456789abcdef  1234567890123\n");
        expect_table(table, 45,
                     "FIRST           SECOND                 NUMBER\n"
                     "abcdefghijk...  0123456789a...  1234567890123\n");
        table_free(table);
}

static void test_too_narrow(void **state)
{
        struct table *table = people_table(false);
        char *text = NULL;

        add_person(table, 1234567, "abcdefghijklmnopqrstuvwxyz", "123456");
        assert_int_equal(table_format(table, 8, &text), -EINVAL);
        assert_null(text);
        for (size_t width = 9; width < 60; width++) {
                assert_int_equal(table_format(table, width, &text), 0);
                assert_true(widest_line(text) <= width);
                free(text);
        }
        table_free(table);
}

/* What could steer a terminal is not passed on; beyond ASCII only where it can be shown. */
static const struct clean_case {
        const char *text, *ascii, *utf8;
} clean_cases[] = {
        {"plain text ~", "plain text ~", "plain text ~"},
        {"", "", ""},
        {"a\033[31mb\r\n\tc\x7f", "a?[31mb???c?", "a?[31mb???c?"},
        {"caf\xc3\xa9", "caf?", "caf\xc3\xa9"},
        {"\xe4\xb8\xad", "?", "\xe4\xb8\xad"},
        {"\xf0\x9f\x98\x80!", "?!", "\xf0\x9f\x98\x80!"},
        {"csi\xc2\x9bm", "csi?m", "csi?m"},
        {"bidi\xe2\x80\xaex", "bidi?x", "bidi?x"},
        {"zero\xe2\x80\x8bwidth", "zero?width", "zero?width"},
        {"bad\xff\xfe", "bad??", "bad??"},
        {"cut\xe4\xb8", "cut??", "cut??"},
        {"overlong\xc0\xaf", "overlong??", "overlong??"},
        {"surrogate\xed\xa0\x80", "surrogate???", "surrogate???"},
        {"beyond\xf4\x90\x80\x80", "beyond????", "beyond????"},
        {"lone\x80", "lone?", "lone?"},
};

static void test_clean(void **state)
{
        char *text;

        for (size_t i = 0; i < ARRAY_SIZE(clean_cases); i++) {
                text = table_clean(clean_cases[i].text, false);
                assert_string_equal(text, clean_cases[i].ascii);
                free(text);
                if (!have_utf8)
                        continue;
                text = table_clean(clean_cases[i].text, true);
                assert_string_equal(text, clean_cases[i].utf8);
                free(text);
        }
}

static void test_wide(void **state)
{
        struct table *table;

        if (!have_utf8)
                skip();
        table = people_table(true);
        add_person(table, 1, "\xe4\xb8\xad\xe6\x96\x87", "1");
        add_person(table, 2, "\xc3\xa9t\xc3\xa9", "22");
        expect_table(table, 100,
                     "PID  NAME  SIZE\n"
                     "  1  \xe4\xb8\xad\xe6\x96\x87     1\n"
                     "  2  \xc3\xa9t\xc3\xa9     22\n");
        expect_table(table, 14,
                     "PID  NA\xe2\x80\xa6  SIZE\n"
                     "  1  \xe4\xb8\xad\xe2\x80\xa6     1\n"
                     "  2  \xc3\xa9t\xc3\xa9    22\n");
        expect_table(table, 13,
                     "PID  NA\xe2\x80\xa6  SI\xe2\x80\xa6\n"
                     "  1  \xe4\xb8\xad\xe2\x80\xa6    1\n"
                     "  2  \xc3\xa9t\xc3\xa9   22\n");
        table_free(table);
        /* Half of a wide character does not fit: a blank stands for it. */
        table = people_table(true);
        add_person(table, 1, "\xe4\xb8\xad\xe6\x96\x87\xe4\xb8\xad", "1");
        expect_table(table, 16,
                     "PID  NAME   SIZE\n"
                     "  1  \xe4\xb8\xad\xe6\x96\x87\xe2\x80\xa6     1\n");
        expect_table(table, 15,
                     "PID  NAME  SIZE\n"
                     "  1  \xe4\xb8\xad\xe2\x80\xa6      1\n");
        table_free(table);
}

/* Random tables: as wide as allowed, one line a row, every line valid text, nothing cut while there is room.
 */
static void test_random(void **state)
{
        static const char *const bits[] = {"a",  "bc", "-", " ", "\xc3\xa9", "\xe4\xb8\xad", "\x1b", "\xff",
                                           "12", "Z",  "%", "…", "q",        "\xe2\x80\xae", "\n",   "\t"};
        struct table_column columns[8];
        char cell[512], *text;
        struct table *table;

        for (int round = 0; round < 3000; round++) {
                size_t n_columns = 1 + random_below(ARRAY_SIZE(columns)), n_rows = random_below(6), lines = 0;
                size_t width = n_columns * 3 + random_below(120);
                bool utf8 = have_utf8 && random_below(2);

                for (size_t i = 0; i < n_columns; i++)
                        columns[i] = (struct table_column){random_below(4) ? "TITLE" : "T",
                                                           random_below(2) ? TABLE_LEFT : TABLE_RIGHT};
                assert_int_equal(table_new(columns, n_columns, utf8, &table), 0);
                for (size_t i = 0; i < n_rows * n_columns; i++) {
                        cell[0] = '\0';
                        for (uint32_t n = random_below(random_below(5) ? 6 : 60); n; n--)
                                strcat(cell, bits[random_below(ARRAY_SIZE(bits))]);
                        table_cell(table, "%s", cell);
                }
                assert_int_equal(table_format(table, width, &text), 0);
                assert_true(widest_line(text) <= width);
                for (const char *at = text; *at; at++) {
                        lines += *at == '\n';
                        assert_true(*at == '\n' || (unsigned char)*at >= 0x20);
                        assert_true(utf8 || (unsigned char)*at < 0x80);
                }
                assert_int_equal(lines, n_rows + 1);
                assert_true(!strstr(text, " \n"));
                free(text);
                table_free(table);
        }
}

static const struct wrap_case {
        const char *text;
        size_t indent, width;
        const char *expected;
} wrap_cases[] = {
        {"", 0, 10, ""},
        {"   ", 0, 10, ""},
        {"one", 0, 10, "one\n"},
        {"one two", 2, 10, "  one two\n"},
        {"one two three", 0, 7, "one two\nthree\n"},
        {"one two three", 0, 6, "one\ntwo\nthree\n"},
        {"one  two", 0, 100, "one  two\n"},
        {" one two ", 1, 100, " one two\n"},
        {"abcdefghij", 0, 4, "abcd\nefgh\nij\n"},
        {"ab cdefghij kl", 1, 5, " ab\n cdef\n ghij\n kl\n"},
        {"exactly ten", 0, 11, "exactly ten\n"},
        {"line\nbreak", 0, 20, "line?break\n"},
};

static void test_wrap(void **state)
{
        char *text = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(wrap_cases); i++) {
                const struct wrap_case *c = &wrap_cases[i];

                assert_int_equal(table_wrap(c->text, c->indent, c->width, false, &text), 0);
                assert_string_equal(text, c->expected);
                free(text);
        }
        text = NULL;
        assert_int_equal(table_wrap("a", 9, 10, false, &text), -EINVAL);
        assert_null(text);
}

/* All words come out, in order, in lines that are not too wide; a wide character is never halved. */
static void test_wrap_random(void **state)
{
        static const char *const bits[] = {"a", "bcd", " ", " ", "efghijklm", "x", "…", "\xe4\xb8\xad"};
        char paragraph[2048], *text, *from, *to;

        for (int round = 0; round < 2000; round++) {
                size_t indent = random_below(10), width = indent + 2 + random_below(100);
                bool utf8 = have_utf8;

                paragraph[0] = '\0';
                for (uint32_t n = random_below(150); n; n--)
                        strcat(paragraph, bits[random_below(utf8 ? ARRAY_SIZE(bits) : 6)]);
                assert_int_equal(table_wrap(paragraph, indent, width, utf8, &text), 0);
                assert_true(widest_line(text) <= width);
                for (from = paragraph, to = text;; from++, to++) {
                        from += strspn(from, " ");
                        to += strspn(to, " \n");
                        assert_int_equal(*from, *to);
                        if (!*from)
                                break;
                }
                free(text);
        }
}

static void test_numbers(void **state)
{
        static const struct {
                int64_t bytes;
                const char *text;
        } sizes[] = {
                {0, "0 B"},
                {1, "1 B"},
                {1023, "1023 B"},
                {1024, "1.0 KiB"},
                {1536, "1.5 KiB"},
                {1048524, "1023.9 KiB"},
                {1048525, "1.0 MiB"},
                {1048576, "1.0 MiB"},
                {-4096, "-4.0 KiB"},
                {(int64_t)3 << 40, "3.0 TiB"},
                {INT64_MAX, "8.0 EiB"},
                {INT64_MIN, "-8.0 EiB"},
        };
        static const struct {
                int64_t seconds;
                const char *text;
        } durations[] = {
                {0, "0s"},         {59, "59s"},      {60, "1m 00s"},     {187, "3m 07s"},
                {3599, "59m 59s"}, {3600, "1h 00m"}, {86399, "23h 59m"}, {93784, "1d 02h"},
        };
        char buffer[TABLE_NUMBER_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
                assert_string_equal(table_bytes(sizes[i].bytes, buffer), sizes[i].text);
        for (size_t i = 0; i < ARRAY_SIZE(durations); i++)
                assert_string_equal(table_duration(durations[i].seconds, buffer), durations[i].text);
        assert_string_equal(table_percent(1, 8, buffer), "12.5%");
        assert_string_equal(table_percent(0, 8, buffer), "0.0%");
        assert_string_equal(table_percent(8, 8, buffer), "100.0%");
        assert_string_equal(table_percent(0, 0, buffer), "-");
        assert_string_equal(table_ratio(25, 2, buffer), "12.5");
        assert_string_equal(table_ratio(1, 0, buffer), "-");
}

int main(void)
{
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_alignment),   cmocka_unit_test(test_headings),
                cmocka_unit_test(test_cut),         cmocka_unit_test(test_too_narrow),
                cmocka_unit_test(test_clean),       cmocka_unit_test(test_wide),
                cmocka_unit_test(test_random),      cmocka_unit_test(test_wrap),
                cmocka_unit_test(test_wrap_random), cmocka_unit_test(test_numbers),
        };

        have_utf8 = setlocale(LC_CTYPE, "C.UTF-8");
        return cmocka_run_group_tests(tests, NULL, NULL);
}
