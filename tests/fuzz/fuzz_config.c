/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The text of a configuration file: no value out of bounds, no file taken by half, no message that forges
 * lines. */

#include <string.h>

#include "process/config.h"
#include "tests/fuzz/fuzz.h"

static void check_error(const char error[CONFIG_MAX_ERROR])
{
        size_t length = strnlen(error, CONFIG_MAX_ERROR);

        fuzz_assert(length > 0 && length < CONFIG_MAX_ERROR && !strncmp(error, "fuzz:", 5));
        for (size_t i = 0; i < length; i++)
                fuzz_assert(error[i] >= ' ' && error[i] <= '~');
}

/* What was accepted is within bounds, and is read again from what it is printed as. */
static void check_values(const struct config *config)
{
        struct config again;

        config_init(&again);
        for (size_t i = 0; i < config_n_keys; i++) {
                const struct config_key *key = &config_keys[i];
                char error[CONFIG_MAX_ERROR], text[32];
                uint64_t value;

                memcpy(&value, (const char *)config + key->offset, sizeof(value));
                fuzz_assert(value >= key->minimum && value <= key->maximum);
                config_format(config, key, text, sizeof(text));
                fuzz_assert(config_set(&again, key->name, text, false, error) == 0);
        }
        fuzz_assert(!memcmp(config, &again, sizeof(again)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        char error[CONFIG_MAX_ERROR] = "";
        struct config config, before;

        config_init(&config);
        before = config;
        if (config_parse(&config, (const char *)data, size, "fuzz", error) == 0)
                check_values(&config);
        else {
                check_error(error);
                fuzz_assert(!memcmp(&config, &before, sizeof(config)));
        }
        return 0;
}
