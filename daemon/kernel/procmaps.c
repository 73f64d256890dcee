/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * /proc/PID/smaps and maps: a streaming parser, and the reader that feeds it
 *
 * A mapping is a header line and, in smaps, lines "Key: value" behind it. The only part of the text that a program
 * chooses is the pathname at the end of the header, in which the kernel writes a newline as \012: it cannot
 * look like another line.
 */

#include "kernel/procmaps.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/bits.h"

#define HEX     16
#define DECIMAL 10

/* A part of the line that has not been read yet; every function below takes from its front or fails. */
struct cursor {
        const char *at;
        const char *end;
};

static bool take_char(struct cursor *cursor, char wanted)
{
        if (cursor->at == cursor->end || *cursor->at != wanted)
                return false;
        cursor->at++;
        return true;
}

static void skip_blanks(struct cursor *cursor)
{
        while (take_char(cursor, ' '))
                ;
}

static unsigned digit_of(char c)
{
        if (c >= '0' && c <= '9')
                return (unsigned)(c - '0');
        if (c >= 'a' && c <= 'f')
                return (unsigned)(c - 'a') + 10;
        return UINT32_MAX;
}

static bool take_number(struct cursor *cursor, unsigned base, uint64_t max, uint64_t *ret_value)
{
        const char *start = cursor->at;
        uint64_t value = 0;

        for (; cursor->at < cursor->end; cursor->at++) {
                unsigned digit = digit_of(*cursor->at);

                if (digit >= base)
                        break;
                if (value > (max - digit) / base)
                        return false;
                value = value * base + digit;
        }
        if (cursor->at == start)
                return false;
        *ret_value = value;
        return true;
}

/* One letter of the permissions: `c` sets *ret_set, `other` clears it. */
static bool take_permission(struct cursor *cursor, char c, char other, bool *ret_set)
{
        *ret_set = take_char(cursor, c);
        return *ret_set || take_char(cursor, other);
}

static bool take_permissions(struct cursor *cursor, struct vma *vma)
{
        bool r, w, x;

        if (!take_permission(cursor, 'r', '-', &r) || !take_permission(cursor, 'w', '-', &w) ||
            !take_permission(cursor, 'x', '-', &x) || !take_permission(cursor, 's', 'p', &vma->shared))
                return false;
        vma->protection = (r ? PROT_READ : 0) | (w ? PROT_WRITE : 0) | (x ? PROT_EXEC : 0);
        return true;
}

/* "major:minor" */
static bool take_device(struct cursor *cursor, struct vma *vma)
{
        uint64_t major, minor;

        if (!take_number(cursor, HEX, UINT32_MAX, &major) || !take_char(cursor, ':') ||
            !take_number(cursor, HEX, UINT32_MAX, &minor))
                return false;
        vma->dev_major = (uint32_t)major;
        vma->dev_minor = (uint32_t)minor;
        return true;
}

/* The rest of the line, cut to fit. */
static bool take_name(struct cursor *cursor, struct vma *vma)
{
        size_t length;

        if (cursor->at < cursor->end && !take_char(cursor, ' '))
                return false;
        skip_blanks(cursor);
        length = MIN((size_t)(cursor->end - cursor->at), sizeof(vma->name) - 1);
        memcpy(vma->name, cursor->at, length);
        vma->name[length] = '\0';
        return true;
}

/* "start-end perms offset major:minor inode   name" */
static bool take_header(struct cursor *cursor, struct vma *vma)
{
        return take_number(cursor, HEX, UINT64_MAX, &vma->start) && take_char(cursor, '-') &&
               take_number(cursor, HEX, UINT64_MAX, &vma->end) && take_char(cursor, ' ') &&
               take_permissions(cursor, vma) && take_char(cursor, ' ') &&
               take_number(cursor, HEX, UINT64_MAX, &vma->offset) && take_char(cursor, ' ') &&
               take_device(cursor, vma) && take_char(cursor, ' ') &&
               take_number(cursor, DECIMAL, UINT64_MAX, &vma->inode) && take_name(cursor, vma) &&
               vma->start < vma->end && page_aligned(vma->start) && page_aligned(vma->end);
}

static uint32_t flag_of(const char *code)
{
        static const struct {
                char code[3];
                uint32_t flag;
        } flags[] = {
                {"lo", VMA_LOCKED},       {"io", VMA_IO},         {"pf", VMA_PFNMAP},
                {"ht", VMA_HUGETLB},      {"gd", VMA_GROWSDOWN},  {"dc", VMA_DONTFORK},
                {"dd", VMA_DONTDUMP},     {"wf", VMA_WIPEONFORK}, {"mg", VMA_MERGEABLE},
                {"um", VMA_UFFD_MISSING}, {"uw", VMA_UFFD_WP},    {"ui", VMA_UFFD_MINOR},
                {"sl", VMA_SEALED},       {"mm", VMA_MIXED},      {"ss", VMA_SHARED_STACK},
                {"rr", VMA_RANDOM},       {"sr", VMA_SEQUENTIAL}, {"dp", VMA_DROPPABLE},
                {"nr", VMA_NORESERVE},    {"hg", VMA_HUGEPAGE},   {"nh", VMA_NOHUGEPAGE},
        };

        for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
                if (code[0] == flags[i].code[0] && code[1] == flags[i].code[1])
                        return flags[i].flag;
        return 0;
}

/* Codes of two characters between blanks; what has another length is none that we know. */
static void take_flags(struct cursor *cursor, struct vma *vma)
{
        while (skip_blanks(cursor), cursor->at < cursor->end) {
                const char *code = cursor->at;

                while (cursor->at < cursor->end && *cursor->at != ' ')
                        cursor->at++;
                if (cursor->at - code == 2)
                        vma->flags |= flag_of(code);
        }
}

static bool take_key(struct cursor *cursor, const char *key)
{
        size_t length = strlen(key);

        if ((size_t)(cursor->end - cursor->at) < length || memcmp(cursor->at, key, length))
                return false;
        cursor->at += length;
        return true;
}

/* Whether the line is "Key: ..." at all; keys begin with a capital, headers with a digit in lower case. */
static bool is_field(const struct cursor *cursor)
{
        const char *at = cursor->at;

        if (at == cursor->end || *at < 'A' || *at > 'Z')
                return false;
        return memchr(at, ':', (size_t)(cursor->end - at));
}

static bool parse_field(struct procmaps_parser *parser, struct cursor *cursor)
{
        uint64_t pkey;

        if (!parser->open || !is_field(cursor))
                return false;
        if (take_key(cursor, "VmFlags:")) {
                take_flags(cursor, &parser->vma);
        } else if (take_key(cursor, "ProtectionKey:")) {
                skip_blanks(cursor);
                if (!take_number(cursor, DECIMAL, INT32_MAX, &pkey))
                        return false;
                parser->vma.pkey = (int)pkey;
        }
        return true;
}

static int report(struct procmaps_parser *parser)
{
        if (!parser->open)
                return 0;
        parser->open = false;
        return parser->visit(parser->context, &parser->vma);
}

static int parse_line(struct procmaps_parser *parser)
{
        struct cursor cursor = {parser->line, parser->line + parser->n_line};
        int r;

        parser->n_line = 0;
        if (cursor.at == cursor.end || digit_of(*cursor.at) >= HEX)
                return parse_field(parser, &cursor) ? 0 : -EBADMSG;
        r = report(parser);
        if (r)
                return r;
        parser->vma = (struct vma){0};
        if (!take_header(&cursor, &parser->vma))
                return -EBADMSG;
        parser->open = true;
        return 0;
}

static void keep(struct procmaps_parser *parser, const char *text, size_t length)
{
        length = MIN(length, sizeof(parser->line) - parser->n_line);
        memcpy(parser->line + parser->n_line, text, length);
        parser->n_line += length;
}

int procmaps_feed(struct procmaps_parser *parser, const char *text, size_t length)
{
        const char *newline;
        int r = 0;

        while (!r && length > 0) {
                newline = memchr(text, '\n', length);
                if (!newline) {
                        keep(parser, text, length);
                        return 0;
                }
                keep(parser, text, (size_t)(newline - text));
                length -= (size_t)(newline - text) + 1;
                text = newline + 1;
                r = parse_line(parser);
        }
        return r;
}

int procmaps_finish(struct procmaps_parser *parser)
{
        if (parser->n_line > 0)
                return -EBADMSG; /* the last line has no end */
        return report(parser);
}

int procmaps_read(int maps_fd, procmaps_visit visit, void *context)
{
        struct procmaps_parser parser = PROCMAPS_PARSER_INIT(visit, context);
        char text[4096]; /* the kernel gives a page at a time, whatever is asked for */
        off_t offset = 0;
        long n;
        int r = 0;

        do {
                n = error_from(pread(maps_fd, text, sizeof(text), offset));
                if (n > 0) {
                        offset += n;
                        r = procmaps_feed(&parser, text, (size_t)n);
                }
        } while (!r && (n > 0 || n == -EINTR));
        if (n < 0)
                return (int)n;
        if (!r)
                r = procmaps_finish(&parser);
        return MIN(r, 0);
}
