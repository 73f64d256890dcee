/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Configuration files and run-time settings. inih splits lines into keys and values; because it forgives much
 * that is most likely a mistake, the reader that feeds it looks at every line first.
 */

#include "process/config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "util/bits.h"
#include "util/cleanup.h"

enum type {
        TYPE_u64,
        TYPE_size,
        TYPE_flag,
};

const struct config_key config_keys[] = {
#define X(_section, _key, _type, _default, _min, _max, _runtime, _help)                                      \
        {                                                                                                    \
                .section = #_section,                                                                        \
                .name = #_key,                                                                               \
                .flag = TYPE_##_type == TYPE_flag,                                                           \
                .size = TYPE_##_type == TYPE_size,                                                           \
                .initial = (_default),                                                                       \
                .minimum = (_min),                                                                           \
                .maximum = (_max),                                                                           \
                .runtime = (_runtime),                                                                       \
                .help = (_help),                                                                             \
                .offset = offsetof(struct config, _key),                                                     \
        },
        CONFIG_LIST(X)
#undef X
};

const size_t config_n_keys = ARRAY_SIZE(config_keys);

static void set_error(char error[CONFIG_MAX_ERROR], const char *format, ...)
        __attribute__((__format__(printf, 2, 3)));

static void set_error(char error[CONFIG_MAX_ERROR], const char *format, ...)
{
        va_list args;

        va_start(args, format);
        vsnprintf(error, CONFIG_MAX_ERROR, format, args);
        va_end(args);
}

/* Text from a file or a client goes into messages only in a form that cannot forge lines or move a cursor. */
struct quoted {
        char text[40];
};

static struct quoted quote_bytes(const char *text, size_t length)
{
        struct quoted quoted;
        size_t i;

        for (i = 0; i < length && i < sizeof(quoted.text) - 1; i++)
                quoted.text[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
        quoted.text[i] = '\0';
        return quoted;
}

static struct quoted quote(const char *text)
{
        return quote_bytes(text, strlen(text));
}

static uint64_t *value_of(struct config *config, const struct config_key *key)
{
        return (uint64_t *)(void *)((char *)config + key->offset);
}

void config_init(struct config *config)
{
        for (size_t i = 0; i < config_n_keys; i++)
                *value_of(config, &config_keys[i]) = config_keys[i].initial;
}

static const struct config_key *find_key(const char *section, size_t n_section, const char *name)
{
        for (size_t i = 0; i < config_n_keys; i++) {
                const struct config_key *key = &config_keys[i];

                if (strcmp(key->name, name))
                        continue;
                if (!section ||
                    (strlen(key->section) == n_section && !memcmp(key->section, section, n_section)))
                        return key;
        }
        return NULL;
}

const struct config_key *config_find(const char *name)
{
        const char *dot = strchr(name, '.');

        return dot ? find_key(name, (size_t)(dot - name), dot + 1) : find_key(NULL, 0, name);
}

static int parse_flag(const char *text, uint64_t *ret_value)
{
        static const struct {
                const char *text;
                uint64_t value;
        } flags[] = {
                {"yes", 1}, {"true", 1}, {"on", 1}, {"1", 1}, {"no", 0}, {"false", 0}, {"off", 0}, {"0", 0},
        };

        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (!strcmp(flags[i].text, text)) {
                        *ret_value = flags[i].value;
                        return 0;
                }
        return -EINVAL;
}

/* Decimal digits only: no sign, no blanks, no other base. -ERANGE when 64 bits do not hold the number. */
static int parse_number(const char *text, bool suffix_allowed, uint64_t *ret_value)
{
        static const char suffixes[] = "KMGT";
        const char *suffix;
        uint64_t value = 0;

        if (*text < '0' || *text > '9')
                return -EINVAL;
        for (; *text >= '0' && *text <= '9'; text++)
                if (__builtin_mul_overflow(value, (uint64_t)10, &value) ||
                    __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
                        return -ERANGE;
        if (*text && suffix_allowed) {
                suffix = strchr(suffixes, *text++);
                if (!suffix)
                        return -EINVAL;
                if (__builtin_mul_overflow(value, UINT64_C(1024) << 10 * (suffix - suffixes), &value))
                        return -ERANGE;
        }
        if (*text)
                return -EINVAL;
        *ret_value = value;
        return 0;
}

/* What is wanted for the key, as the end of a sentence. */
static void describe(const struct config_key *key, char *text, size_t size)
{
        const char *kind = key->size ? "a size in bytes (K, M, G, T may follow)" : "a number";

        if (key->flag)
                snprintf(text, size, "yes or no");
        else if (key->maximum == UINT64_MAX && key->minimum == 0)
                snprintf(text, size, "%s", kind);
        else if (key->maximum == UINT64_MAX)
                snprintf(text, size, "%s of at least %" PRIu64, kind, key->minimum);
        else
                snprintf(text, size, "%s from %" PRIu64 " to %" PRIu64, kind, key->minimum, key->maximum);
}

/* `where` is the beginning of the message: "file:line: ", or nothing. */
static int set_value(struct config *config, const struct config_key *key, const char *text, const char *where,
                     char error[CONFIG_MAX_ERROR])
{
        char wanted[96];
        uint64_t value = 0;
        int r;

        r = key->flag ? parse_flag(text, &value) : parse_number(text, key->size, &value);
        if (r >= 0 && value >= key->minimum && value <= key->maximum) {
                *value_of(config, key) = value;
                return 0;
        }
        describe(key, wanted, sizeof(wanted));
        set_error(error, "%s%s.%s: '%s' is not %s", where, key->section, key->name, quote(text).text, wanted);
        return -EINVAL;
}

int config_set(struct config *config, const char *name, const char *value, bool runtime,
               char error[CONFIG_MAX_ERROR])
{
        const struct config_key *key = config_find(name);

        if (!key) {
                set_error(error, "%s: no such key", quote(name).text);
                return -ENOENT;
        }
        if (runtime && !key->runtime) {
                set_error(error, "%s.%s: can be changed only in the configuration file", key->section,
                          key->name);
                return -EPERM;
        }
        return set_value(config, key, value, "", error);
}

void config_format(const struct config *config, const struct config_key *key, char *text, size_t size)
{
        uint64_t value = *value_of((struct config *)config, key);

        if (key->flag)
                snprintf(text, size, "%s", value ? "yes" : "no");
        else
                snprintf(text, size, "%" PRIu64, value);
}

/* One text on its way through inih. */
struct parse {
        struct config config;
        const char *name;
        const char *next; /* the first byte that has not been handed to inih */
        const char *end;
        unsigned line; /* the line that inih has got last, from 1 */
        uint64_t seen[BITMAP_WORDS(ARRAY_SIZE(config_keys))];
        int result; /* the first error, which ends everything; its message is in `error` */
        char *error;
};

static int refuse(struct parse *parse, const char *format, ...) __attribute__((__format__(printf, 2, 3)));

static int refuse(struct parse *parse, const char *format, ...)
{
        char text[160];
        va_list args;

        va_start(args, format);
        vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        set_error(parse->error, "%.80s:%u: %s", parse->name, parse->line, text);
        return parse->result = -EINVAL;
}

/* The length of a line without the white space at its end. */
static size_t trimmed(const char *line, size_t length)
{
        while (length > 0 && strchr(" \t\r\n\v\f", line[length - 1]))
                length--;
        return length;
}

/* inih takes any text in brackets, and ignores what follows them. */
static int check_section(struct parse *parse, const char *line, size_t length)
{
        const char *close = memchr(line, ']', length);
        size_t n_name;

        if (!close)
                return refuse(parse, "a section without ']'");
        n_name = (size_t)(close - line) - 1;
        for (size_t i = 0; i < config_n_keys; i++)
                if (strlen(config_keys[i].section) == n_name &&
                    !memcmp(config_keys[i].section, line + 1, n_name))
                        return close + 1 == line + length ? 0
                                                          : refuse(parse, "[%s]: text after the section",
                                                                   config_keys[i].section);
        return refuse(parse, "[%s]: no such section", quote_bytes(line + 1, n_name).text);
}

/*
 * Hands the next line to inih, into `buffer` of `size` bytes. White space at the start of a line is taken
 * away: inih would read the line as the continuation of the one before.
 */
static char *read_line(char *buffer, int size, void *context)
{
        struct parse *parse = context;
        const char *line = parse->next, *newline;
        size_t length;

        if (parse->result < 0 || line == parse->end)
                return NULL;
        parse->line++;
        newline = memchr(line, '\n', (size_t)(parse->end - line));
        parse->next = newline ? newline + 1 : parse->end;
        length = (size_t)(parse->next - line);
        if (memchr(line, '\0', length)) {
                refuse(parse, "a NUL byte");
                return NULL;
        }
        while (length > 0 && (*line == ' ' || *line == '\t'))
                line++, length--;
        length = trimmed(line, length);
        if (length + 2 > (size_t)size) {
                refuse(parse, "a line of more than %d bytes", size - 2);
                return NULL;
        }
        if (length > 0 && *line == '[' && check_section(parse, line, length) < 0)
                return NULL;
        memcpy(buffer, line, length);
        memcpy(buffer + length, "\n", 2);
        return buffer;
}

/* inih's convention: 1 goes on. */
static int take_pair(void *context, const char *section, const char *name, const char *value)
{
        struct parse *parse = context;
        const struct config_key *key;
        char where[128];
        size_t i;

        if (parse->result < 0)
                return 0;
        if (!*section) {
                refuse(parse, "%s: comes before any section", quote(name).text);
                return 0;
        }
        key = find_key(section, strlen(section), name);
        if (!key) {
                refuse(parse, "%s.%s: no such key", quote(section).text, quote(name).text);
                return 0;
        }
        i = (size_t)(key - config_keys);
        if (bitmap_get(parse->seen, i)) {
                refuse(parse, "%s.%s: given twice", key->section, key->name);
                return 0;
        }
        bitmap_set(parse->seen, i);
        snprintf(where, sizeof(where), "%.80s:%u: ", parse->name, parse->line);
        parse->result = set_value(&parse->config, key, value ? value : "", where, parse->error);
        return parse->result >= 0;
}

int config_parse(struct config *config, const char *text, size_t length, const char *name,
                 char error[CONFIG_MAX_ERROR])
{
        struct parse parse = {
                .config = *config, .name = name, .next = text, .end = text + length, .error = error};
        int r;

        r = ini_parse_stream(read_line, &parse, take_pair, &parse);
        if (r < 0) {
                set_error(error, "%.80s: out of memory", name);
                return -ENOMEM;
        }
        /* The first line that inih itself could not split comes before any error that was found later. */
        if (r > 0 && (parse.result >= 0 || (unsigned)r < parse.line)) {
                parse.line = (unsigned)r;
                return refuse(&parse, "neither a [section] nor a key = value");
        }
        if (parse.result < 0)
                return parse.result;
        *config = parse.config;
        return 0;
}

/* An empty device is how administrators mask a drop-in; anything else that is no regular file is a mistake.
 */
static int check_kind(int fd)
{
        struct stat status;

        if (fstat(fd, &status) < 0)
                return -errno;
        if (S_ISREG(status.st_mode) || (S_ISCHR(status.st_mode) && status.st_rdev == makedev(1, 3)))
                return 0;
        return S_ISDIR(status.st_mode) ? -EISDIR : -EINVAL;
}

/* Reads at most `size` bytes. */
static ssize_t read_all(int fd, char *buffer, size_t size)
{
        size_t length = 0;

        while (length < size) {
                ssize_t n = error_from(read(fd, buffer + length, size - length));

                if (n == -EINTR)
                        continue;
                if (n < 0)
                        return n;
                if (n == 0)
                        break;
                length += (size_t)n;
        }
        return (ssize_t)length;
}

static int load_file(struct config *config, const char *path, char error[CONFIG_MAX_ERROR])
{
        _cleanup_fd_ int fd = -EBADF;
        _cleanup_free_ char *text = NULL;
        ssize_t length;

        text = malloc(CONFIG_MAX_FILE + 1);
        if (!text)
                length = -ENOMEM;
        else {
                /* O_NONBLOCK: a FIFO in the place of the file must not stop the daemon. */
                fd = (int)error_from(open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
                length = fd < 0 ? fd : check_kind(fd);
                if (length >= 0)
                        length = read_all(fd, text, CONFIG_MAX_FILE + 1);
        }
        if (length > CONFIG_MAX_FILE)
                length = -EFBIG;
        if (length < 0) {
                set_error(error, "%.120s: %s", path, strerror((int)-length));
                return (int)length;
        }
        return config_parse(config, text, (size_t)length, path, error);
}

static int is_drop_in(const struct dirent *entry)
{
        size_t length = strlen(entry->d_name);

        return entry->d_name[0] != '.' && length > 5 && !strcmp(entry->d_name + length - 5, ".conf");
}

/* By bytes, not by the language of the environment. */
static int compare_names(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_entry(struct config *config, const char *directory, const char *name,
                      char error[CONFIG_MAX_ERROR])
{
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/%s", directory, name) < 0) {
                path = NULL;
                set_error(error, "%.120s: %s", name, strerror(ENOMEM));
                return -ENOMEM;
        }
        return load_file(config, path, error);
}

static int load_drop_ins(struct config *config, const char *path, char error[CONFIG_MAX_ERROR])
{
        _cleanup_free_ char *directory = NULL;
        _cleanup_free_ struct dirent **entries = NULL;
        int n, r = 0;

        if (asprintf(&directory, "%s.d", path) < 0) {
                directory = NULL;
                set_error(error, "%.120s.d: %s", path, strerror(ENOMEM));
                return -ENOMEM;
        }
        n = (int)error_from(scandir(directory, &entries, is_drop_in, compare_names));
        if (n == -ENOENT)
                return 0;
        if (n < 0) {
                set_error(error, "%.120s: %s", directory, strerror(-n));
                return n;
        }
        for (int i = 0; i < n; i++) {
                if (r >= 0)
                        r = load_entry(config, directory, entries[i]->d_name, error);
                free(entries[i]);
        }
        return r;
}

int config_load(struct config *config, const char *path, bool required, char error[CONFIG_MAX_ERROR])
{
        struct config loaded = *config;
        int r;

        r = load_file(&loaded, path, error);
        if (r == -ENOENT && !required)
                r = 0;
        if (r >= 0)
                r = load_drop_ins(&loaded, path, error);
        if (r < 0)
                return r;
        *config = loaded;
        return 0;
}
