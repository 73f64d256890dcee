/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The manual page of the library against its header, and its example against a compiler. */

#undef NDEBUG
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <ctype.h>
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "document.h"
#include "util/bits.h"

#define MAX_COMPILER_WORDS 16

struct texts {
        char *page;
        char *header;
        char *map;
};

static char **compiler; /* its words, as the build calls it; ends with NULL */

static int read_texts(void **state)
{
        static struct texts texts;

        texts.page = document_read(TEST_SOURCE_ROOT "/doc/libwp.3");
        texts.header = document_read(TEST_SOURCE_ROOT "/include/wp.h");
        texts.map = document_read(TEST_SOURCE_ROOT "/libwp/libwp.map");
        *state = &texts;
        return texts.page && texts.header && texts.map ? 0 : -1;
}

static int free_texts(void **state)
{
        struct texts *texts = *state;

        free(texts->page);
        free(texts->header);
        free(texts->map);
        return 0;
}

static size_t word_length(const char *text)
{
        size_t n = 0;

        while (isalnum((unsigned char)text[n]) || text[n] == '_')
                n++;
        return n;
}

/* Every word of the text that begins so, once. */
static void words(const char *text, const char *prefix, struct names *ret_words)
{
        ret_words->n = 0;
        while (*text) {
                size_t length = word_length(text);
                struct names one = {.n = 0};

                if (!length) {
                        text++;
                        continue;
                }
                names_add(&one, text, MIN(length, (size_t)DOCUMENT_MAX_NAME - 1));
                if (!strncmp(text, prefix, strlen(prefix)) && names_missing(&one, ret_words))
                        names_add(ret_words, text, length);
                text += length;
        }
}

static void compare(const char *what, const struct names *here, const struct names *documented)
{
        const char *name;

        assert_in_range(here->n, 1, DOCUMENT_MAX_NAMES);
        name = names_missing(here, documented);
        if (name)
                fail_msg("%s: %s is not documented", what, name);
        name = names_missing(documented, here);
        if (name)
                fail_msg("%s: %s is documented, but is not there or is documented twice", what, name);
}

/* The word behind a macro at the start of a line, such as ".Fo wp_connect". */
static bool macro_argument(const char *macro, const char *line, const char **ret_name, size_t *ret_length)
{
        if (strncmp(line, macro, strlen(macro)))
                return false;
        *ret_name = line + strlen(macro);
        *ret_length = word_length(*ret_name);
        return *ret_length > 0;
}

static bool name_line(const char *line, size_t length, const char **ret_name, size_t *ret_length)
{
        return macro_argument(".Nm ", line, ret_name, ret_length);
}

static bool function_line(const char *line, size_t length, const char **ret_name, size_t *ret_length)
{
        return macro_argument(".Fo ", line, ret_name, ret_length) ||
               macro_argument(".Fn ", line, ret_name, ret_length);
}

static void test_functions(void **state)
{
        const struct texts *texts = *state;
        struct names exported, documented;

        words(texts->map, "wp_", &exported);
        document_members(texts->page, ".Sh NAME", ".Sh", name_line, &documented);
        compare("NAME", &exported, &documented);
        document_members(texts->page, ".Sh SYNOPSIS", ".Sh", function_line, &documented);
        compare("SYNOPSIS", &exported, &documented);
}

/* The parameters of a function in the header, "type name" each, with single spaces; `at` is behind its parenthesis. */
static void header_parameters(const char *at, struct names *ret_parameters)
{
        ret_parameters->n = 0;
        while (*at != ')') {
                size_t n = strcspn(at, ",)");

                if (strncmp(at, "void)", 5))
                        names_add(ret_parameters, at, n);
                at += n;
                at += *at == ',';
                at += strspn(at, " \n");
        }
}

static const char *header_function(const char *header, const char *name)
{
        char call[DOCUMENT_MAX_NAME + 1];

        /* The prototype is the last mention: remarks stand in front of it. */
        const char *at = NULL, *next = header;

        snprintf(call, sizeof(call), "%s(", name);
        while ((next = strstr(next, call))) {
                next += strlen(call);
                if (*next != ')')
                        at = next;
        }
        return at;
}

/* Fa "type name" */
static bool parameter_line(const char *line, size_t length, const char **ret_name, size_t *ret_length)
{
        if (strncmp(line, ".Fa \"", 5) || length < 7)
                return false;
        *ret_name = line + 5;
        *ret_length = length - 6;
        return true;
}

static void test_parameters(void **state)
{
        const struct texts *texts = *state;
        struct names functions;

        document_members(texts->page, ".Sh SYNOPSIS", ".Sh", function_line, &functions);
        assert_in_range(functions.n, 1, DOCUMENT_MAX_NAMES);
        for (size_t i = 0; i < functions.n; i++) {
                const char *at = header_function(texts->header, functions.name[i]);
                char opening[DOCUMENT_MAX_NAME + 5];
                struct names here, documented;

                assert_non_null(at);
                header_parameters(at, &here);
                snprintf(opening, sizeof(opening), ".Fo %s", functions.name[i]);
                document_members(texts->page, opening, ".Fc", parameter_line, &documented);
                if (here.n || documented.n)
                        compare(functions.name[i], &here, &documented);
        }
}

static void test_constants(void **state)
{
        const struct texts *texts = *state;
        struct names constants;

        words(texts->header, "WP_", &constants);
        assert_in_range(constants.n, 5, DOCUMENT_MAX_NAMES);
        for (size_t i = 0; i < constants.n; i++) {
                size_t length = strlen(constants.name[i]);

                /* WP_EVENT_F_*: a remark about all of them. */
                if (constants.name[i][length - 1] != '_' &&
                    !document_has_word(texts->page, constants.name[i]))
                        fail_msg("%s is not documented", constants.name[i]);
        }
}

/* `type name;` with anything behind it. */
static bool struct_member(const char *line, size_t length, const char **ret_name, size_t *ret_length)
{
        size_t start = strspn(line, " ");

        *ret_name = line + start;
        *ret_length = strcspn(*ret_name, ";\n");
        return start > 0 && (*ret_name)[*ret_length] == ';';
}

static void test_structures(void **state)
{
        static const char *const openings[] = {"struct wp_event {", "struct wp_region_stat {"};
        const struct texts *texts = *state;

        for (size_t i = 0; i < ARRAY_SIZE(openings); i++) {
                struct names here, documented;

                document_members(texts->header, openings[i], "};", struct_member, &here);
                document_members(texts->page, openings[i], "};", struct_member, &documented);
                compare(openings[i], &here, &documented);
                for (size_t j = 0; j < here.n; j++)
                        assert_string_equal(here.name[j], documented.name[j]);
        }
}

/* The literal text of the first display after .Sh EXAMPLES, into the file. */
static void extract_example(const char *page, FILE *file)
{
        const char *line = strstr(page, "\n.Sh EXAMPLES\n");

        assert_non_null(line);
        line = strstr(line, "\n.Bd -literal");
        assert_non_null(line);
        for (line = strchr(line + 1, '\n') + 1; strncmp(line, ".Ed\n", 4); line += strcspn(line, "\n") + 1) {
                assert_true(*line && *line != '.' && *line != '\'');
                for (const char *c = line; *c != '\n'; c++) {
                        /* The only escape that a program needs is that of the backslash. */
                        if (*c == '\\')
                                assert_int_equal(*++c, 'e');
                        fputc(c > line && c[-1] == '\\' ? '\\' : *c, file);
                }
                fputc('\n', file);
        }
}

/* Runs the compiler on a file; its exit status. */
static int compile(const char *path)
{
        static const char *const options[] = {"-std=gnu11", "-Wall", "-Wextra",
                                              "-Werror",    "-c",    "-o",
                                              "/dev/null",  "-I",    TEST_SOURCE_ROOT "/include"};
        char *arguments[MAX_COMPILER_WORDS + ARRAY_SIZE(options) + 2];
        size_t n = 0;
        int status;
        pid_t pid;

        for (; compiler[n]; n++) {
                assert_in_range(n, 0, MAX_COMPILER_WORDS - 1);
                arguments[n] = compiler[n];
        }
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                arguments[n++] = (char *)options[i];
        arguments[n++] = (char *)path;
        arguments[n] = NULL;
        assert_int_equal(posix_spawnp(&pid, arguments[0], NULL, NULL, arguments, environ), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_example(void **state)
{
        const struct texts *texts = *state;
        char path[] = "/tmp/wpd-example-XXXXXX.c";
        int fd = mkstemps(path, 2), failed, status;
        FILE *file;

        assert_in_range(fd, 0, INT32_MAX);
        file = fdopen(fd, "w");
        assert_non_null(file);
        extract_example(texts->page, file);
        failed = fclose(file);
        status = compile(path);
        unlink(path);
        assert_int_equal(failed, 0);
        assert_int_equal(status, 0);
}

int main(int argc, char **argv)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_functions), cmocka_unit_test(test_parameters),
                cmocka_unit_test(test_constants), cmocka_unit_test(test_structures),
                cmocka_unit_test(test_example),
        };

        if (argc < 2) {
                fprintf(stderr, "usage: %s COMPILER [ARGUMENT...]\n", argv[0]);
                return 2;
        }
        compiler = argv + 1;
        return cmocka_run_group_tests_name("doc/manual", tests, read_texts, free_texts);
}
