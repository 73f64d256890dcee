/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Runs a fuzz target without a fuzzer: driver ITERATIONS [FILE]...
 *
 * Every file is an input; then come ITERATIONS inputs that are made of the files, or of nothing, by random
 * changes. The same arguments make the same inputs on every machine.
 */

#include <stdbool.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/model/random.h"
#include "util/bits.h"

#define MAX_SIZE  4096
#define MAX_FILES 64

struct input {
        size_t size;
        uint8_t data[MAX_SIZE];
};

static struct input corpus[MAX_FILES];
static size_t n_corpus;

/* From memory of exactly the input's size, so that a sanitizer sees every read beyond it. */
static void run(const struct input *input)
{
        uint8_t *copy = malloc(input->size);

        if (!copy && input->size)
                abort();
        if (input->size)
                memcpy(copy, input->data, input->size);
        LLVMFuzzerTestOneInput(copy, input->size);
        free(copy);
}

static int read_file(const char *path)
{
        FILE *file = fopen(path, "re");

        if (!file || n_corpus == MAX_FILES) {
                fprintf(stderr, "%s: cannot be read, or is one too many\n", path);
                return -1;
        }
        corpus[n_corpus].size = fread(corpus[n_corpus].data, 1, MAX_SIZE, file);
        n_corpus++;
        fclose(file);
        return 0;
}

static void insert(struct input *input, size_t at, const void *data, size_t size)
{
        size = MIN(size, MAX_SIZE - input->size);
        memmove(input->data + at + size, input->data + at, input->size - at);
        memcpy(input->data + at, data, size);
        input->size += size;
}

static void cut(struct input *input, size_t at, size_t size)
{
        size = MIN(size, input->size - at);
        memmove(input->data + at, input->data + at + size, input->size - at - size);
        input->size -= size;
}

static void overwrite(struct input *input, size_t at, const void *data, size_t size)
{
        memcpy(input->data + at, data, MIN(size, input->size - at));
}

/* A piece of the input itself or of a file. */
static void splice(struct input *input, size_t at, struct random *random)
{
        static struct input from;
        size_t start, size;

        from = n_corpus ? corpus[random_below(random, n_corpus)] : *input;
        if (!from.size)
                return;
        start = random_below(random, from.size);
        size = 1 + random_below(random, from.size - start);
        insert(input, at, from.data + start, size);
}

static void change(struct input *input, struct random *random)
{
        static const uint64_t borders[] = {
                0,     1,     2,         3,          4,         16,         127,
                128,   255,   256,       512,        513,       4095,       4096,
                65535, 65536, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX, UINT64_MAX - 4095};
        size_t at = random_below(random, input->size + 1);
        uint64_t value = random_next(random), border = borders[random_below(random, ARRAY_SIZE(borders))];

        switch (random_below(random, 8)) {
        case 0:
                insert(input, at, &value, 1 + random_below(random, 8));
                break;
        case 1:
                cut(input, at, 1 + random_below(random, 8));
                break;
        case 2:
                cut(input, at, random_below(random, input->size + 1));
                break;
        case 3:
                splice(input, at, random);
                break;
        case 4:
                overwrite(input, at, &border, (size_t)1 << random_below(random, 4));
                break;
        case 5:
                overwrite(input, at & ~(size_t)3, &border, 8);
                break;
        case 6:
                overwrite(input, at, &value, 1 + random_below(random, 8));
                break;
        default:
                if (at < input->size)
                        input->data[at] ^= (uint8_t)(1 << random_below(random, 8));
        }
}

static void make(struct input *input, struct random *random)
{
        if (n_corpus && random_below(random, 8)) {
                *input = corpus[random_below(random, n_corpus)];
        } else {
                input->size = random_below(random, random_below(random, 2) ? 64 : MAX_SIZE);
                for (size_t i = 0; i < input->size; i++)
                        input->data[i] = (uint8_t)random_next(random);
        }
        for (uint64_t n = random_below(random, 8); n > 0; n--)
                change(input, random);
}

int main(int argc, char **argv)
{
        static struct input input;
        struct random random = RANDOM_INIT(1);
        unsigned long n;

        if (argc < 2 || !(n = strtoul(argv[1], NULL, 10))) {
                fprintf(stderr, "usage: %s ITERATIONS [FILE]...\n", argv[0]);
                return 2;
        }
        for (int i = 2; i < argc; i++)
                if (read_file(argv[i]) < 0)
                        return 2;
        for (size_t i = 0; i < n_corpus; i++)
                run(&corpus[i]);
        for (unsigned long i = 0; i < n; i++) {
                make(&input, &random);
                run(&input);
        }
        printf("%zu files and %lu inputs made of them\n", n_corpus, n);
        return 0;
}
