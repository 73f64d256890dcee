/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Index: fingerprint -> stable slot or candidate page
 *
 * Theory of operation
 *
 * Linear probing over entries of 8 bytes: eight to a cache line, so that a search touches few lines, in
 * order. It begins at the place that the key names ("home") and ends at an empty place. The tag comes from
 * the fingerprint's high bits, which no home depends on; only where it agrees is the owner asked for the key,
 * and what does not answer with the one that was looked for is passed over. Entries are never taken out one
 * by one, so that no search ever ends too early.
 *
 * A home is the key scaled to the length of the table, which therefore can be any, and in tables of any
 * length the homes are in the order of the keys: a rebuild walks both tables from one end to the other.
 *
 * An entry is alive when a search for the key that its page or slot has now would arrive at it. The others
 * are stale: their page was written, or is elsewhere in the table. They are dropped when the table is
 * rebuilt, which happens when it has filled up, to a load of 0.85. The new length follows from the number of
 * entries that are alive, which make 0.65 of it (or less, of the smallest table). So a table grows when it is
 * full of live entries, stays when stale ones filled it, and shrinks when its regions went away. How many are
 * alive is known only after a rebuild: it is made for all to be alive, which is right while a table grows,
 * and done once more if that left more than 1.67 places for one that is alive.
 */

#include "dedup/index.h"

#include <stdlib.h>

#include "dedup/fingerprint.h"
#include "util/bits.h"

#define MIN_ENTRIES  ((size_t)4096)
#define LINE_ENTRIES ((size_t)8)

#define ENTRIES_FOR(_n_alive) ((_n_alive)*100 / 65)
#define MAX_ENTRIES(_n_alive) ((_n_alive)*10 / 6)
#define FULL_LOAD(_n)         ((_n) / 20 * 17)

#define SLOT_BIT     (UINT64_C(1) << 63)
#define TAG_SHIFT    47
#define TAG_MASK     (UINT64_C(0xffff) << TAG_SHIFT)
#define REGION_SHIFT 29

void index_deinit(struct index *index)
{
        free(index->entries);
        index->entries = NULL;
        index->n_entries = index->n_used = index->limit = 0;
}

size_t index_bytes(const struct index *index)
{
        return index->n_entries * sizeof(*index->entries);
}

/* Never 0, so that no entry is. */
static uint64_t tag_of(uint64_t fingerprint)
{
        uint64_t tag = fingerprint >> 48;

        return (tag ? tag : 1) << TAG_SHIFT;
}

static uint64_t entry_of(uint64_t fingerprint, struct page_ref ref)
{
        if (page_ref_is_slot(ref))
                return SLOT_BIT | tag_of(fingerprint) | ref.page;
        return tag_of(fingerprint) | (uint64_t)ref.region << REGION_SHIFT | ref.page;
}

static struct page_ref ref_of(uint64_t entry)
{
        struct page_ref ref = {.region = entry >> REGION_SHIFT & (INDEX_MAX_REGIONS - 1),
                               .page = (uint32_t)entry & (INDEX_MAX_PAGES - 1)};

        if (entry & SLOT_BIT)
                ref.region = INDEX_SLOT;
        return ref;
}

static size_t home_of(const struct index *index, uint32_t key)
{
        return (size_t)((uint64_t)key * index->n_entries >> 32);
}

static size_t next_of(const struct index *index, size_t place)
{
        return ++place == index->n_entries ? 0 : place;
}

static bool same_tag(uint64_t entry, uint64_t tag)
{
        return (entry & TAG_MASK) == tag;
}

/* Whether what the entry points at has this key now. */
static bool entry_matches(const struct index *index, uint64_t entry, uint32_t key)
{
        uint32_t now;

        return index->resolve(index->context, ref_of(entry), &now) && now == key;
}

/* Where a search for the key meets this very entry, or else the empty place at which it ends. */
static size_t place_of(const struct index *index, uint32_t key, uint64_t entry)
{
        size_t place = home_of(index, key);

        while (index->entries[place] && index->entries[place] != entry)
                place = next_of(index, place);
        return place;
}

/*
 * The tag is not asked for: where it is an old one, the key is a new one, whose home is elsewhere; where it
 * is near by chance, a place is wasted on an entry that nobody finds.
 */
static bool entry_alive(const struct index *index, size_t place)
{
        uint64_t entry = index->entries[place];
        uint32_t now;

        return index->resolve(index->context, ref_of(entry), &now) && place_of(index, now, entry) == place;
}

bool index_find(const struct index *index, uint64_t fingerprint, struct page_ref *ret_ref)
{
        uint64_t tag = tag_of(fingerprint), entry, page = 0;
        uint32_t key = fingerprint_key(fingerprint);

        if (!index->n_entries)
                return false;
        for (size_t place = home_of(index, key); (entry = index->entries[place]);
             place = next_of(index, place)) {
                if (!same_tag(entry, tag) || (page && !(entry & SLOT_BIT)) ||
                    !entry_matches(index, entry, key))
                        continue;
                if (entry & SLOT_BIT) {
                        *ret_ref = ref_of(entry);
                        return true;
                }
                page = entry;
        }
        if (!page)
                return false;
        *ret_ref = ref_of(page);
        return true;
}

/*
 * Enters what is alive in `from` into the empty table `to`, which has room for it. The keys of a whole cache
 * line are asked for before any is used, so that the processor fetches them side by side: most are not in its
 * caches.
 */
static void copy_alive(struct index *to, const struct index *from)
{
        for (size_t first = 0; first < from->n_entries; first += LINE_ENTRIES) {
                const uint64_t *entries = from->entries + first;
                uint32_t keys[LINE_ENTRIES];
                bool resolved[LINE_ENTRIES];

                for (size_t i = 0; i < LINE_ENTRIES; i++)
                        resolved[i] =
                                entries[i] && from->resolve(from->context, ref_of(entries[i]), &keys[i]);
                for (size_t i = 0; i < LINE_ENTRIES; i++) {
                        if (!resolved[i] || place_of(from, keys[i], entries[i]) != first + i)
                                continue;
                        to->entries[place_of(to, keys[i], entries[i])] = entries[i];
                        to->n_used++;
                }
        }
}

static int rebuild_at(struct index *index, size_t n_entries)
{
        struct index new = INDEX_INIT(index->resolve, index->context);

        new.entries = calloc(n_entries, sizeof(*new.entries));
        if (!new.entries)
                return -ENOMEM;
        new.n_entries = n_entries;
        new.limit = FULL_LOAD(n_entries);
        copy_alive(&new, index);
        index_deinit(index);
        *index = new;
        return 0;
}

/* The length at which this many live entries have room for more. */
static size_t length_for(size_t n_alive)
{
        return MAX(ENTRIES_FOR(n_alive) / LINE_ENTRIES * LINE_ENTRIES, MIN_ENTRIES);
}

/* Where memory for another length is missing at the end, everything that is alive is still there. */
static int rebuild(struct index *index)
{
        size_t n_entries = length_for(index->n_used);
        int r;

        r = rebuild_at(index, n_entries);
        if (r < 0)
                return r;
        if (n_entries > MAX(MAX_ENTRIES(index->n_used), MIN_ENTRIES))
                (void)!rebuild_at(index, length_for(index->n_used));
        return 0;
}

/*
 * Where to write the entry: its own place if it is there already, else that of a stale entry with the same
 * tag (only those are worth asking about: the page behind another one is not in the cache), else the empty
 * place at the end.
 */
static size_t place_for(const struct index *index, uint64_t fingerprint, uint64_t entry)
{
        uint64_t tag = tag_of(fingerprint);
        size_t stale = SIZE_MAX, place;

        for (place = home_of(index, fingerprint_key(fingerprint)); index->entries[place];
             place = next_of(index, place)) {
                if (index->entries[place] == entry)
                        return place;
                if (stale == SIZE_MAX && same_tag(index->entries[place], tag) && !entry_alive(index, place))
                        stale = place;
        }
        return stale != SIZE_MAX ? stale : place;
}

int index_insert(struct index *index, uint64_t fingerprint, struct page_ref ref)
{
        uint64_t entry;
        size_t place;
        int r;

        if ((!page_ref_is_slot(ref) && ref.region >= INDEX_MAX_REGIONS) || ref.page >= INDEX_MAX_PAGES)
                return -ERANGE;
        entry = entry_of(fingerprint, ref);
        if (index->n_entries) {
                place = place_for(index, fingerprint, entry);
                if (index->entries[place] || index->n_used < index->limit) {
                        index->n_used += !index->entries[place];
                        index->entries[place] = entry;
                        return 0;
                }
        }
        r = rebuild(index);
        if (r < 0)
                return r;
        index->entries[place_of(index, fingerprint_key(fingerprint), entry)] = entry;
        index->n_used++;
        return 0;
}
