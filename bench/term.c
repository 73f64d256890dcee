/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/term.h"

#include <langinfo.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"

#define MAX_COLUMNS 100
#define MIN_COLUMNS                                                                                          \
        60 /* what the widest frame needs; lines must not wrap, or going back over them is wrong */

void term_init(struct term *term, FILE *out, bool plain)
{
        const char *name = getenv("TERM");
        struct winsize size = {.ws_col = 0};
        int fd = fileno(out);

        *term = (struct term){.out = out, .columns = MAX_COLUMNS};
        term->utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
        if (!plain && isatty(fd) && name && *name && strcmp(name, "dumb") != 0)
                term->live = true;
        if (term->live && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col)
                term->columns = MIN(size.ws_col, MAX_COLUMNS);
        if (term->columns < MIN_COLUMNS)
                term->live = false;
}

void term_bar(const struct term *term, char *text, size_t size, unsigned width, double fraction)
{
        const char *full = term->utf8 ? "\u2588" : "#", *empty = term->utf8 ? "\u2591" : ".";
        unsigned done = (unsigned)(MIN(MAX(fraction, 0.0), 1.0) * width);
        size_t used = 0;

        text[0] = 0;
        for (unsigned i = 0; i < width; i++) {
                const char *cell = i < done ? full : empty;

                if (used + strlen(cell) >= size)
                        return;
                used += (size_t)snprintf(text + used, size - used, "%s", cell);
        }
}

void term_frame(struct term *term, char lines[][TERM_LINE], unsigned n_lines, const char *summary, bool last)
{
        uint64_t now = clock_now();

        if (!term->live) {
                if (!last && term->printed_ns && now - term->printed_ns < NSEC_PER_SEC)
                        return;
                fprintf(term->out, "%s\n", summary);
                fflush(term->out);
                term->printed_ns = now;
                return;
        }
        if (term->n_drawn)
                fprintf(term->out, "\033[%uA", term->n_drawn);
        for (unsigned i = 0; i < n_lines; i++)
                fprintf(term->out, "\r\033[K%s\n", lines[i]);
        fflush(term->out);
        term->n_drawn = last ? 0 : n_lines;
}

const char *term_bytes(char *text, size_t size, double bytes)
{
        double mib = bytes / (1 << 20), magnitude = mib < 0 ? -mib : mib;

        if (magnitude >= 10240)
                snprintf(text, size, "%.1f GiB", mib / 1024);
        else
                snprintf(text, size, "%.1f MiB", mib);
        return text;
}
