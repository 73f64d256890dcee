/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Shields; see the header. */

#include "libwp/shield.h"

#include <errno.h>
#include <string.h>

#include "util/bits.h"
#include "util/clock.h"

static uint64_t shield_end(const struct shield *shield)
{
        return shield->start + shield->n_pages * PAGE_BYTES;
}

/* The first shield that ends behind the address. */
static unsigned search(const struct shields *shields, uint64_t address)
{
        unsigned low = 0, high = shields->n;

        while (low < high) {
                unsigned middle = (low + high) / 2;

                if (shield_end(&shields->shields[middle]) > address)
                        high = middle;
                else
                        low = middle + 1;
        }
        return low;
}

struct shield *shields_find(struct shields *shields, uint64_t address)
{
        unsigned i = search(shields, address);

        return i < shields->n && shields->shields[i].start <= address ? &shields->shields[i] : NULL;
}

int shields_add(struct shields *shields, uint64_t start, size_t n_pages, shield_word *words, uint64_t flags)
{
        unsigned i = search(shields, start);

        if (shields->n == SHIELDS_MAX)
                return -EDQUOT;
        memmove(&shields->shields[i + 1], &shields->shields[i], (shields->n - i) * sizeof(*shields->shields));
        shields->shields[i] =
                (struct shield){.start = start, .n_pages = n_pages, .words = words, .flags = flags};
        shields->n++;
        return 0;
}

static void forget_held(struct shields *shields, uint64_t start, uint64_t length)
{
        for (unsigned i = shields->n_held; i-- > 0;)
                if (shields->held[i].address - start < length)
                        shields->held[i] = shields->held[--shields->n_held];
}

static void forget_hot(struct shields *shields, uint64_t start, uint64_t length)
{
        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++)
                if (shields->hot[i].address - start < length)
                        shields->hot[i] = (struct shield_hot){.used = false};
}

shield_word *shields_remove(struct shields *shields, struct shield *shield)
{
        shield_word *words = shield->words;
        unsigned i = (unsigned)(shield - shields->shields);

        forget_held(shields, shield->start, shield->n_pages * PAGE_BYTES);
        forget_hot(shields, shield->start, shield->n_pages * PAGE_BYTES);
        shields->n--;
        memmove(shield, shield + 1, (shields->n - i) * sizeof(*shield));
        return words;
}

static shield_word *word_at(const struct shield *shield, uint64_t address)
{
        return &shield->words[(address - shield->start) / PAGE_BYTES];
}

bool shields_cover(struct shields *shields, uint64_t start, uint64_t length)
{
        const struct shield *shield = shields_find(shields, start);

        for (uint64_t address = start; shield && address < start + length; address += PAGE_BYTES)
                if (shield_state_of(*word_at(shield, address)) == SHIELD_NONE)
                        return false;
        return shield;
}

bool shields_touch(struct shields *shields, uint64_t start, uint64_t length)
{
        const struct shield *shield = shields_find(shields, start);

        for (uint64_t address = start; shield && address < start + length; address += PAGE_BYTES)
                if (shield_state_of(*word_at(shield, address)) != SHIELD_NONE)
                        return true;
        return false;
}

uint64_t shields_run_end(struct shields *shields, uint64_t start, uint64_t end, bool *ret_protected)
{
        const struct shield *shield = shields_find(shields, start);
        bool protected = shield && shield_state_of(*word_at(shield, start)) != SHIELD_NONE;
        uint64_t address = shield ? start + PAGE_BYTES : end;

        while (address < end && (shield_state_of(*word_at(shield, address)) != SHIELD_NONE) == protected)
                address += PAGE_BYTES;
        *ret_protected = protected;
        return address;
}

size_t shields_count(struct shields *shields, uint64_t address)
{
        const struct shield *shield = shields_find(shields, address);
        size_t n = 0;

        for (size_t page = 0; shield && page < shield->n_pages; page++)
                n += shield_state_of(shield->words[page]) != SHIELD_NONE;
        return n;
}

static bool is_armed(shield_word word)
{
        return shield_state_of(word) == SHIELD_WATCHED || shield_state_of(word) == SHIELD_HELD;
}

bool shields_armed(struct shields *shields, uint64_t address)
{
        const struct shield *shield = shields_find(shields, address);

        return shield && shield_state_of(*word_at(shield, address)) > SHIELD_SPENT;
}

void shields_set(struct shields *shields, uint64_t start, uint64_t length, shield_word word)
{
        const struct shield *shield = shields_find(shields, start);

        if (!is_armed(word))
                forget_held(shields, start, length);
        for (uint64_t address = start; shield && address < start + length; address += PAGE_BYTES)
                if (!is_armed(word) || shield_state_of(*word_at(shield, address)) != SHIELD_WAITED)
                        *word_at(shield, address) = word;
}

static enum shield_verdict hold(struct shields *shields, uint64_t page, shield_word *word, uint64_t now_ns)
{
        unsigned milliseconds = shield_milliseconds(*word);

        if (shields->n_held == SHIELDS_MAX_HELD) {
                *word = shield_make(SHIELD_SPENT, 0);
                return SHIELD_CROWDED;
        }
        *word = shield_make(SHIELD_WAITED, milliseconds);
        shields->held[shields->n_held++] = (struct shield_held){
                .address = page, .deadline_ns = now_ns + milliseconds * NSEC_PER_MSEC, .n_waiters = 1};
        return SHIELD_HOLD;
}

static bool is_hot(const struct shields *shields, uint64_t page)
{
        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++)
                if (shields->hot[i].used && shields->hot[i].address == page)
                        return true;
        return false;
}

/* A place that nobody has, or whose page is not protected now: the newest crowd is what matters. */
static void make_hot(struct shields *shields, uint64_t page)
{
        struct shield_hot *place = NULL;

        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++)
                if (!shields->hot[i].placed && (!place || !shields->hot[i].used))
                        place = &shields->hot[i];
        if (place)
                *place = (struct shield_hot){.address = page, .used = true};
}

static enum shield_verdict wait_there(struct shields *shields, uint64_t page)
{
        for (unsigned i = 0; i < shields->n_held; i++)
                if (shields->held[i].address == page && ++shields->held[i].n_waiters == SHIELD_CROWD &&
                    !is_hot(shields, page))
                        make_hot(shields, page);
        return SHIELD_WAIT;
}

int shields_place(const struct shields *shields, uint64_t address)
{
        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++)
                if (shields->hot[i].placed && shields->hot[i].address == page_down(address))
                        return (int)i;
        return -1;
}

static bool is_spent(struct shields *shields, uint64_t address)
{
        const struct shield *shield = shields_find(shields, address);

        return shield && shield_state_of(*word_at(shield, address)) == SHIELD_SPENT;
}

int shields_misplaced(struct shields *shields, uint64_t start, uint64_t length)
{
        for (unsigned i = 0; i < SHIELDS_MAX_HOT; i++) {
                const struct shield_hot *hot = &shields->hot[i];

                if (hot->used && !hot->placed && hot->address - start < length &&
                    is_spent(shields, hot->address))
                        return (int)i;
        }
        return -1;
}

enum shield_verdict shields_judge(struct shields *shields, uint64_t address, uint64_t now_ns)
{
        const struct shield *shield = shields_find(shields, address);
        shield_word *word = shield ? word_at(shield, address) : NULL;

        switch (word ? shield_state_of(*word) : SHIELD_NONE) {
        case SHIELD_NONE:
                return SHIELD_UNKNOWN;
        case SHIELD_SPENT:
                return SHIELD_STALE;
        case SHIELD_WATCHED:
                *word = shield_make(SHIELD_SPENT, 0);
                return SHIELD_WRITE;
        case SHIELD_HELD:
                return hold(shields, page_down(address), word, now_ns);
        case SHIELD_WAITED:
                return wait_there(shields, page_down(address));
        }
        return SHIELD_UNKNOWN;
}

uint64_t shields_deadline(const struct shields *shields)
{
        uint64_t first_ns = UINT64_MAX;

        for (unsigned i = 0; i < shields->n_held; i++)
                first_ns = MIN(first_ns, shields->held[i].deadline_ns);
        return first_ns;
}

bool shields_overdue(struct shields *shields, uint64_t now_ns, uint64_t *ret_address)
{
        for (unsigned i = 0; i < shields->n_held; i++) {
                uint64_t address = shields->held[i].address;

                if (shields->held[i].deadline_ns > now_ns)
                        continue;
                shields->held[i] = shields->held[--shields->n_held];
                *word_at(shields_find(shields, address), address) = shield_make(SHIELD_SPENT, 0);
                *ret_address = address;
                return true;
        }
        return false;
}
