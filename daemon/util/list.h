#pragma once
/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Intrusive doubly linked list: a head is a link that points at itself when the list is empty. */

#include <stdbool.h>
#include <stddef.h>

struct list {
        struct list *next;
        struct list *prev;
};

#define LIST_INIT(_head)                                                                                     \
        {                                                                                                    \
                .next = &(_head), .prev = &(_head)                                                           \
        }

#define list_entry(_link, _type, _member) ((_type *)((char *)(_link)-offsetof(_type, _member)))

#define list_for_each(_pos, _head) for (struct list *_pos = (_head)->next; _pos != (_head); _pos = _pos->next)

#define list_for_each_safe(_pos, _next, _head)                                                               \
        for (struct list *_pos = (_head)->next, *_next = _pos->next; _pos != (_head);                        \
             _pos = _next, _next = _pos->next)

static inline void list_init(struct list *head)
{
        head->next = head->prev = head;
}

static inline bool list_empty(const struct list *head)
{
        return head->next == head;
}

/* Whether the link is on a list; a link must be initialised with list_init() or zeroed before it is asked. */
static inline bool list_linked(const struct list *link)
{
        return link->next && link->next != link;
}

static inline void list_append(struct list *head, struct list *link)
{
        link->prev = head->prev;
        link->next = head;
        head->prev->next = link;
        head->prev = link;
}

/* Takes the link off its list; harmless for one that is on none. */
static inline void list_remove(struct list *link)
{
        if (!list_linked(link))
                return;
        link->prev->next = link->next;
        link->next->prev = link->prev;
        list_init(link);
}

static inline struct list *list_first(struct list *head)
{
        return list_empty(head) ? NULL : head->next;
}
