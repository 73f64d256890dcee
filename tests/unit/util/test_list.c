/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The intrusive list. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "util/list.h"

struct item {
        int number;
        struct list link;
};

static void check(struct list *head, const int *numbers, size_t n)
{
        struct list *back = head->prev;
        size_t i = 0;

        list_for_each(pos, head) {
                assert_true(i < n);
                assert_int_equal(list_entry(pos, struct item, link)->number, numbers[i++]);
        }
        assert_int_equal(i, n);
        for (; i > 0; back = back->prev)
                assert_int_equal(list_entry(back, struct item, link)->number, numbers[--i]);
        assert_ptr_equal(back, head);
        assert_int_equal(list_empty(head), n == 0);
}

static void test_order(void **state)
{
        struct list head = LIST_INIT(head);
        struct item items[3] = {{.number = 1}, {.number = 2}, {.number = 3}};

        check(&head, NULL, 0);
        assert_null(list_first(&head));
        for (int i = 0; i < 3; i++) {
                assert_false(list_linked(&items[i].link));
                list_append(&head, &items[i].link);
                assert_true(list_linked(&items[i].link));
        }
        check(&head, (const int[]){1, 2, 3}, 3);
        assert_ptr_equal(list_first(&head), &items[0].link);
        list_remove(&items[1].link);
        assert_false(list_linked(&items[1].link));
        check(&head, (const int[]){1, 3}, 2);
        list_remove(&items[1].link);
        check(&head, (const int[]){1, 3}, 2);
        list_append(&head, &items[1].link);
        check(&head, (const int[]){1, 3, 2}, 3);
}

static void test_remove_while_walking(void **state)
{
        struct list head = LIST_INIT(head);
        struct item items[5] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}, {.number = 4}};

        for (int i = 0; i < 5; i++)
                list_append(&head, &items[i].link);
        list_for_each_safe(pos, next, &head)
                if (list_entry(pos, struct item, link)->number % 2 == 0)
                        list_remove(pos);
        check(&head, (const int[]){1, 3}, 2);
        list_for_each_safe(pos, next, &head)
                list_remove(pos);
        check(&head, NULL, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_order),
                cmocka_unit_test(test_remove_while_walking),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
