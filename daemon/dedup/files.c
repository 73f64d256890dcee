/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Files: regions that are read-only mappings of files, and what becomes of their leases; the theory is in backing.h. */

#include "dedup/merger-private.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "dedup/backing.h"
#include "kernel/lease.h"
#include "util/cleanup.h"
#include "util/clock.h"

#define RETRY_NS     (100 * NSEC_PER_MSEC)
#define RETRY_MAX_NS (30 * NSEC_PER_SEC)

/* Signals can be lost, and clients could end leases: so leases are looked at, too. */
#define LOOK_NS (2 * NSEC_PER_SEC)

/* How often it is looked after a file whose lease is about to end. */
#define BREAK_TICK_NS (10 * NSEC_PER_MSEC)

static struct backing *find_backing(const struct merger *merger, const struct domain *domain,
                                    const struct stat *st)
{
        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->domain == domain && backing->inode == st->st_ino && backing->dev == st->st_dev)
                        return backing;
        }
        return NULL;
}

int files_adopt(struct merger *merger, struct domain *domain, int fd, const struct stat *st,
                struct backing **ret_backing)
{
        struct backing *backing = find_backing(merger, domain, st);
        int r = backing && backing->state != BACKING_LEASED ? -EAGAIN : 0;

        if (r >= 0 && !backing) {
                r = backing_new(domain, fd, st, &backing);
                if (r < 0) {
                        fd_close(fd);
                        return r;
                }
                list_append(&merger->backings, &backing->link);
                fd = -EBADF;
        }
        fd_close(fd); /* we have one already */
        if (r >= 0)
                *ret_backing = backing;
        return r;
}

/* ------------------------------------------------------------------ descriptors that clients have */

/* The number by which the member knows the file; it counts as used once more. */
static int take_number(struct merger *merger, struct member *member, struct backing *backing,
                       uint32_t *ret_number)
{
        uint32_t number = WIRE_FILES;
        int r;

        for (uint32_t i = WIRE_FILES; i-- > 0;)
                if (member->files[i].backing == backing) {
                        member->files[i].n++;
                        *ret_number = i;
                        return 0;
                } else if (!member->files[i].backing) {
                        number = i;
                }
        if (number == WIRE_FILES)
                return -ENOSPC;
        r = member->session ? merger->ops->send_file(member->session, number, backing->fd) : -ENOTCONN;
        if (r < 0)
                return r;
        member->files[number] = (struct member_file){.backing = backing, .n = 1};
        *ret_number = number;
        return 0;
}

void files_forget_numbers(struct merger *merger, struct member *member)
{
        for (uint32_t i = 0; i < WIRE_FILES; i++) {
                struct member_file *file = &member->files[i];

                if (!file->backing || file->n)
                        continue;
                if (member->session)
                        (void)!merger->ops->send_file_gone(member->session, i);
                file->backing = NULL;
        }
}

int files_join(struct merger *merger, struct backing *backing, struct region *region, uint32_t page)
{
        uint32_t number;
        int r = take_number(merger, member_of(region), backing, &number);

        if (r < 0)
                return r;
        region->backing_number = number + 1;
        backing_join(backing, region, page);
        return 0;
}

bool files_may_alias(const struct region *region, const struct region *other)
{
        return region->backing && other->backing && region->backing != other->backing &&
               !(region->protection & PROT_WRITE) && /* an alias cannot be held when it goes back */
               other->backing->state == BACKING_LEASED &&
               backing_readable(other->backing, member_of(region)->space.uid);
}

int files_alias(struct merger *merger, struct region *region, const struct region *other, uint32_t other_page,
                uint32_t *ret_key)
{
        uint32_t number, file_page;
        int r;

        if (!files_may_alias(region, other) || !backing_page(other, other_page, &file_page) ||
            file_page >= ALIAS_MAX_PAGES)
                return -EOPNOTSUPP;
        r = take_number(merger, member_of(region), other->backing, &number);
        if (r < 0)
                return r;
        backing_use(other->backing, file_page);
        *ret_key = number << ALIAS_SHIFT | file_page;
        return 0;
}

void files_unalias(struct member *member, uint32_t key)
{
        struct member_file *file = &member->files[key >> ALIAS_SHIFT];

        file->n--;
        backing_unuse(file->backing, key & (ALIAS_MAX_PAGES - 1));
}

void files_sweep(struct merger *merger, uint64_t now_ns)
{
        list_for_each(link, &merger->members)
                files_forget_numbers(merger, list_entry(link, struct member, link));
        list_for_each_safe(link, next, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (list_empty(&backing->regions) && !backing->n_users && now_ns >= backing->grace_ns)
                        backing_free(backing);
        }
}

/* The file itself is forgotten later, by files_sweep(). */
void files_leave(struct merger *merger, struct region *region)
{
        if (region->backing_number)
                member_of(region)->files[region->backing_number - 1].n--;
        region->backing_number = 0;
        backing_leave(region);
}

void files_hang_up(struct member *member)
{
        uint64_t until_ns = clock_now() + BACKING_BREAK_NS;

        if (member_dead(member))
                return;
        for (uint32_t i = 0; i < WIRE_FILES; i++)
                if (member->files[i].backing)
                        member->files[i].backing->grace_ns = until_ns;
}

/* ------------------------------------------------------------------ rounds */

bool files_leased(const struct region *region)
{
        return !region->backing || region->backing->state == BACKING_LEASED;
}

bool files_promotable(const struct region *region)
{
        return files_leased(region) && !(region->protection & (PROT_WRITE | PROT_EXEC));
}

/* What is writable is looked at when its owner asks for it, and no other time. */
bool files_scannable(const struct region *region)
{
        return !(region->protection & PROT_WRITE) && region->backing->state == BACKING_LEASED &&
               region->count[PAGE_EMPTY] + region->count[PAGE_TRACKED] + region->count[PAGE_VOLATILE] > 0;
}

/* Whether the page is to be read in this round. */
static bool readable(struct region *region, uint32_t page, bool at_once)
{
        enum page_state state = region_state(region, page);

        /* Nobody else makes it share, so it is looked whether somebody has come meanwhile. */
        if (state == PAGE_CANDIDATE && at_once && region->protection & PROT_WRITE) {
                region_set_state(region, page, PAGE_TRACKED, 0);
                return true;
        }
        if (state != PAGE_EMPTY && state != PAGE_TRACKED && state != PAGE_VOLATILE)
                return false;
        if (region_make_chunk(region, page) < 0)
                return false;
        if (state != PAGE_TRACKED)
                region_set_state(region, page, PAGE_TRACKED, 0);
        return at_once || !(region_flags(region, page) & PAGE_F_FAILED) || !region_patient(region, page);
}

int files_digest(struct region *region, uint32_t first, uint32_t end, bool at_once, struct range_list *read)
{
        uint32_t file_page;
        int r = 0;

        for (uint32_t page = first;
             files_leased(region) && page < end && backing_page(region, page, &file_page) && r >= 0; page++)
                if (readable(region, page, at_once))
                        r = range_list_add(read, page);
        return r;
}

uint64_t files_read_offset(const struct region *region, uint32_t page)
{
        return ((uint64_t)region->backing_page + page) << PAGE_SHIFT;
}

/* ------------------------------------------------------------------ what is of no use any more */

void files_merged(struct region *region, uint32_t page)
{
        uint32_t file_page;

        backing_share(region, page);
        /* Out of memory: the page stays in the page cache until the kernel wants it back. */
        if (backing_page(region, page, &file_page))
                (void)!range_list_add(&region->backing->drops, file_page);
}

/* The list is the worker's until files_dropped(). */
bool files_prepare_drops(struct merger *merger)
{
        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (!backing->drops.n)
                        continue;
                merger->dropping = backing->drops;
                backing->drops = (struct range_list){.ranges = NULL};
                merger->drop_fd = (int)error_from(fcntl(backing->fd, F_DUPFD_CLOEXEC, 3));
                if (merger->drop_fd < 0) {
                        range_list_deinit(&merger->dropping);
                        continue;
                }
                merger->work.drop_fd = merger->drop_fd;
                merger->work.drops = merger->dropping.ranges;
                merger->work.n_drops = merger->dropping.n;
                return true;
        }
        return false;
}

bool files_dropped(struct merger *merger)
{
        if (merger->drop_fd < 0)
                return false;
        merger->drop_fd = fd_close(merger->drop_fd);
        range_list_deinit(&merger->dropping);
        return true;
}

/* ------------------------------------------------------------------ leases that end */

static bool has_task(const struct region *region)
{
        list_for_each(link, &member_of(region)->tasks)
                if (list_entry(link, struct task, link)->region == region)
                        return true;
        return false;
}

static void restored(void *context, int error, struct region *region, const char *detail)
{
}

/* Who was asked before, or is about to unregister it, needs not be asked. Out of memory: another time. */
static void restore_region(struct merger *merger, struct region *region)
{
        if (backing_merged(region) && !has_task(region))
                (void)!merger_unmerge(merger, region, 0, region->n_pages, restored, NULL);
}

/* Whether pages of the member's are aliases of the file, or are planned to be, or it has a mapping of it. */
static bool has_file(const struct member *member, const struct backing *backing)
{
        for (uint32_t i = 0; i < WIRE_FILES; i++)
                if (member->files[i].backing == backing && member->files[i].n)
                        return true;
        return false;
}

/* Of those who have the file, all that is a mapping of any: aliases are not told apart. */
static void restore_regions(struct merger *merger, const struct backing *backing)
{
        list_for_each(link, &merger->members) {
                struct member *member = list_entry(link, struct member, link);

                if (!has_file(member, backing))
                        continue;
                list_for_each_safe(region_link, next, &member->space.regions) {
                        struct region *region = list_entry(region_link, struct region, link);

                        if (region->backing == backing || region->count[PAGE_ALIASED] ||
                            (region->backing && region->count[PAGE_PLANNED]))
                                restore_region(merger, region);
                }
        }
}

/* Those that have not given back what is merged go on with what the file was, until they see that they are alone. */
static void send_away(struct merger *merger, const struct backing *backing)
{
        list_for_each(link, &merger->members) {
                struct member *member = list_entry(link, struct member, link);
                bool merged = false;

                list_for_each(region_link, &member->space.regions)
                        merged |= list_entry(region_link, struct region, link)->backing &&
                                  backing_merged(list_entry(region_link, struct region, link));
                if (merged && member->session && has_file(member, backing))
                        merger->ops->send_away(member->session,
                                               "it did not give back pages of a file in time");
        }
}

/* A lease that ended sooner than it was waited for was not worth it: the next one is waited for longer. */
static void let_writer_go(struct merger *merger, struct backing *backing, uint64_t now_ns)
{
        bool short_lived = now_ns - backing->leased_ns < backing->retry_ns;

        lease_release(backing->fd);
        hist_add(&merger->lease_wait, clock_now() - backing->asked_ns);
        backing->state = BACKING_OPEN;
        backing->retry_ns = short_lived ? MIN(backing->retry_ns * 2, RETRY_MAX_NS) : RETRY_NS;
        backing->deadline_ns = now_ns + backing->retry_ns;
}

static void advance_breaking(struct merger *merger, struct backing *backing, uint64_t now_ns)
{
        bool late = now_ns >= backing->deadline_ns;
        bool used = backing_in_use(backing) || now_ns < backing->grace_ns;

        restore_regions(merger, backing);
        if (used && late)
                send_away(merger, backing);
        if (!used || late)
                let_writer_go(merger, backing, now_ns);
}

/* Whatever was read of it may have changed. */
static void advance_open(struct merger *merger, struct backing *backing, uint64_t now_ns)
{
        int r;

        if (now_ns < backing->deadline_ns || backing_in_use(backing))
                return;
        r = lease_take(backing->fd);
        if (r >= 0)
                r = backing_measure(backing);
        if (r < 0) {
                lease_release(backing->fd);
                backing->retry_ns = MIN(backing->retry_ns * 2, RETRY_MAX_NS);
                backing->deadline_ns = now_ns + backing->retry_ns;
                return;
        }
        list_for_each(link, &backing->regions)
                region_retry_candidates(list_entry(link, struct region, sibling));
        backing->state = BACKING_LEASED;
        backing->deadline_ns = now_ns + LOOK_NS;
        backing->leased_ns = now_ns;
        merger_wake(merger);
}

static void begin_breaking(struct backing *backing, uint64_t now_ns)
{
        backing->state = BACKING_BREAKING;
        backing->asked_ns = now_ns;
        backing->deadline_ns = now_ns + BACKING_BREAK_NS;
}

uint64_t files_advance(struct merger *merger, uint64_t now_ns)
{
        uint64_t next = UINT64_MAX;

        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->state == BACKING_LEASED && now_ns >= backing->deadline_ns) {
                        backing->deadline_ns = now_ns + LOOK_NS;
                        if (!lease_quiet(backing->fd))
                                begin_breaking(backing, now_ns);
                }
                if (backing->state == BACKING_BREAKING)
                        advance_breaking(merger, backing, now_ns);
                else if (backing->state == BACKING_OPEN)
                        advance_open(merger, backing, now_ns);
                if (backing->state == BACKING_BREAKING)
                        next = MIN(next, now_ns + BREAK_TICK_NS);
                else
                        next = MIN(next, MAX(backing->deadline_ns, now_ns + BREAK_TICK_NS));
        }
        return next;
}

void merger_lease_broken(struct merger *merger, int fd)
{
        uint64_t now_ns = clock_now();

        list_for_each(link, &merger->backings) {
                struct backing *backing = list_entry(link, struct backing, link);

                if (backing->state != BACKING_LEASED || (fd >= 0 && fd != backing->fd) ||
                    lease_quiet(backing->fd))
                        continue;
                begin_breaking(backing, now_ns);
        }
        (void)files_advance(merger, now_ns);
}
