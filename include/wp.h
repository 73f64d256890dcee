#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * libwp: generic page write protection and merging, the client side of wpd(8)
 *
 * All calls return 0 or a positive count on success and a negative errno on failure. Out-parameters are
 * called ret_*, come last and are untouched on failure. Destructors accept NULL and return NULL. All calls
 * are thread-safe. The library never writes to standard error, installs no signal handler and does not own
 * the program's event loop.
 *
 * Contract: registered memory is unregistered (or excluded) before it is unmapped, moved or mapped over. It
 * contains no thread stacks, and no page of it is discarded while another thread unregisters or excludes it.
 * Everything else may be done to it at any time, from any thread. libwp(3) says it in full.
 *
 * No thread of the program waits for the daemon when it uses registered memory. When that goes away, is
 * stopped or is replaced, merged memory stays merged and right, and the library connects again by itself.
 *
 * Errors that a caller often meets: -EINVAL (unaligned, empty, overflowing, overlapping a registered region),
 * -EOPNOTSUPP (memory of a kind that cannot take part), -EACCES (not permitted), -EDQUOT (a limit of this user
 * is reached), -ENOTCONN (no daemon, or none that knows the region yet: the memory is intact), -ENOSYS (the
 * kernel lacks a feature). libwp(3) has all of them; wp_strerror_detail() says more.
 */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct wp_client; /* one connection to the daemon */
struct wp_region; /* one registered range of memory */

/* wp_register() */
#define WP_MERGE  (UINT64_C(1) << 0) /* identical pages may be merged */
#define WP_NOTIFY (UINT64_C(1) << 1) /* each first write to a merged page is an event, at once */
#define WP_LAZY   (UINT64_C(1) << 2) /* each write is one once a scan finds it; not with WP_NOTIFY */
#define WP_EXEC                                                                                              \
        (UINT64_C(1) << 3) /* executable mappings of files, too: debuggers then see them under other names */

/* wp_protect(): one of the first two, and of the last with WP_HOLD */
#define WP_WATCH                   (UINT64_C(1) << 0) /* a writer goes on as soon as his event is queued */
#define WP_HOLD                    (UINT64_C(1) << 1) /* a writer waits until wp_release(), but not longer than the bound: */
#define WP_BOUND_MS(_milliseconds) ((uint64_t)(_milliseconds) << 32) /* 1 to 8191; 0, the default: 1000 */

enum wp_event_type {
        WP_EVENT_WRITE = 1, /* a merged page was written and is private again, or a watched one is written */
        WP_EVENT_HELD,      /* a writer to a held page waits to be released; told of the first of each page */
        WP_EVENT_MERGED,    /* reserved: pages are now shared */
        WP_EVENT_UNMERGED,  /* reserved: pages are private again, not by a write of their owner */
        WP_EVENT_GONE,      /* reserved: a region ended without wp_unregister() */
        WP_EVENT_OVERRUN, /* the queue was full: what follows was folded into ranges, order and count are lost */
        WP_EVENT_DISCONNECTED, /* the daemon is gone; memory is intact, the library connects again by itself */
        WP_EVENT_RECONNECTED,  /* there is a daemon again, and it knows the regions, or soon will */
        WP_EVENT_BROKEN,       /* writers of a held page reached their bound, and went on */
};

struct wp_event {
        uint32_t type;    /* enum wp_event_type */
        uint32_t flags;   /* WP_EVENT_F_* */
        uint64_t address; /* first byte concerned; page aligned unless the kernel gave the exact one */
        uint64_t length;  /* bytes */
        uint64_t time_ns; /* CLOCK_MONOTONIC */
        int32_t tid;      /* writing thread, 0 when unknown */
        struct wp_region *region; /* NULL when the region was unregistered meanwhile */
};

#define WP_EVENT_F_FOLDED UINT32_C(1) /* several writes folded into one range */

struct wp_region_stat {
        uint64_t pages;
        uint64_t pages_resident; /* populated, as far as the last scan saw; pages_zero not counted */
        uint64_t pages_merged;   /* sharing a canonical page now, also of an earlier daemon's pool */
        uint64_t pages_zero;     /* given back to the kernel's zero page */
        uint64_t pages_volatile; /* written too recently to be looked at */
        uint64_t pages_excluded;
        uint64_t pages_refused;   /* were merged, and are private copies that cannot be merged again */
        uint64_t pages_protected; /* by wp_protect(), written since or not */
};

struct wp_merge_stat {
        uint64_t pages_examined; /* with content that may be merged, or that are */
        uint64_t pages_merged;   /* that were not before */
        uint64_t pages_zero;     /* given back to the kernel's zero page; were not before */
        uint64_t pages_failed;   /* have an equal page, but were busy, refused or changed meanwhile */
};

/*
 * Connects to the daemon and starts the library's two threads.
 * socket_path: NULL means $WPD_SOCKET, else /run/wpd/client.sock.
 * -ENOTCONN: no daemon listens there (it is not tried again); -EACCES: the socket may not be opened; -ENOSYS:
 * the kernel lacks a feature; -ETIMEDOUT: the daemon does not answer.
 */
int wp_connect(const char *socket_path, struct wp_client **ret_client);

/*
 * Gives every page back to its owner first, then ends the connection. Regions of the client are gone after
 * it. Where memory does not suffice, pages stay merged and right, and a thread of the library stays to serve them.
 */
struct wp_client *wp_disconnect(struct wp_client *client);

/*
 * Registers [addr, addr+length): readable and writable memory, with WP_MERGE private and anonymous, without also that
 * of a memfd or a tmpfs, private or shared. With WP_MERGE alone, or with WP_EXEC, also one mapping of a file of a local file system
 * that is not both shared and writable; one that is writable is merged by wp_merge() only. flags: WP_MERGE, WP_NOTIFY,
 * WP_LAZY, WP_EXEC. With WP_NOTIFY a first write to a merged page waits for a thread of the library; otherwise for nobody.
 * The region belongs to the client and lives until wp_unregister() or wp_disconnect(), whatever the daemon does.
 */
int wp_register(struct wp_client *client, void *addr, size_t length, uint64_t flags,
                struct wp_region **ret_region);

/*
 * Ends a region, with or without a daemon; its memory is private again. -ENOMEM leaves it registered, with
 * everything as it was.
 */
int wp_unregister(struct wp_region *region);

/*
 * Merges a part of a region registered with WP_MERGE now, as far as equal pages are known to the daemon, and waits until that is
 * done: useful after loading data. Of two who do so the second finds the pages of the first. ret_stat may be NULL. -EBUSY: scanning
 * is paused, or another call changes the region. Page aligned, in bytes.
 */
int wp_merge(struct wp_region *region, size_t offset, size_t length, struct wp_merge_stat *ret_stat);

/*
 * Makes what is merged in a part of a region private again, with or without a daemon. A scan may merge it again: see wp_exclude().
 * -ENOMEM: some of it may still be merged, and all of it is right; -EBUSY: some of it is protected. Page aligned, in bytes.
 */
int wp_unmerge(struct wp_region *region, size_t offset, size_t length);

/*
 * Never merge this part (DMA, latency), with or without a daemon; what is merged there is given back first. Page
 * aligned, in bytes.
 */
int wp_exclude(struct wp_region *region, size_t offset, size_t length);
int wp_include(struct wp_region *region, size_t offset, size_t length);

/*
 * Protects the pages of a range, merged or not: of each the first write - a store, or a system call that writes
 * into it - is an event, once, until it is protected again. flags: WP_WATCH or WP_HOLD, see there. Between the event and
 * wp_release() a held page does not change.
 * Nothing of the range is merged meanwhile; what is merged already stays so until it is written. Not protected: what
 * forked children write to their copies, and pages that the program discards (MADV_DONTNEED), from then on.
 * The end of the daemon, of which WP_EVENT_DISCONNECTED tells, ends all protection, and lets everybody go on.
 * -EDQUOT: too many regions have protected pages. After an error nothing of the range is protected. Page aligned, in bytes.
 */
int wp_protect(struct wp_region *region, size_t offset, size_t length, uint64_t flags);

/*
 * Ends the protection of a range, and lets all writers that wait there go on. Also of pages that were not protected.
 * -ENOMEM: that is done, but the process has so many mappings that nothing of the range can be merged until it is released again.
 */
int wp_release(struct wp_region *region, size_t offset, size_t length);

/* A descriptor that is readable while an event waits; owned by the client. */
int wp_event_fd(struct wp_client *client);

/* Takes the next event: 1 an event, 0 none. Never blocks. */
int wp_next_event(struct wp_client *client, struct wp_event *ret_event);

int wp_region_stat(struct wp_region *region, struct wp_region_stat *ret_stat);

/* What the last failure of the calling thread on this client was about, in words; never NULL. */
const char *wp_strerror_detail(struct wp_client *client);

/* The library's version, "MAJOR.MINOR.PATCH". */
const char *wp_version(void);

#ifdef __cplusplus
}
#endif
