/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "bench/result.h"

#include <math.h>
#include <string.h>

#include "bench/measure.h"
#include "util/bits.h"

static const struct {
        const char *name;
        const char *label;
        double scale;
        int digits;
        bool table;
} metrics[] = {
#define X(_name, _label, _scale, _digits, _table) {#_name, _label, _scale, _digits, _table},
        RESULT_METRICS(X)
#undef X
};

static const char *const engine_names[] = {
        [ENGINE_NONE] = "none",
        [ENGINE_WPD] = "wpd",
        [ENGINE_KSM] = "ksm_default",
        [ENGINE_KSM_TUNED] = "ksm_tuned",
};

_Static_assert(ARRAY_SIZE(metrics) == N_METRICS, "one row each");
_Static_assert(ARRAY_SIZE(engine_names) == N_ENGINES, "one name each");

const char *result_engine_name(enum engine engine)
{
        return engine_names[engine];
}

double result_median(const struct result *result, enum metric metric)
{
        double values[RESULT_MAX_REPETITIONS];
        size_t n = 0;

        for (unsigned i = 0; i < result->n_repetitions; i++)
                if (!isnan(result->value[i][metric]))
                        values[n++] = result->value[i][metric];
        return n ? measure_median(values, n) : NAN;
}

static double ratio(const struct result_set *set, enum engine engine, enum metric metric)
{
        double wpd = result_median(&set->result[ENGINE_WPD], metric),
               other = result_median(&set->result[engine], metric);

        return other > 0 ? wpd / other : NAN;
}

static void print_cell(FILE *out, double value, int digits)
{
        if (isnan(value))
                fprintf(out, " %11s", "-");
        else
                fprintf(out, " %11.*f", digits, value);
}

static void print_row(FILE *out, const struct result_set *set, enum metric metric)
{
        static const enum engine columns[] = {ENGINE_WPD, ENGINE_KSM, ENGINE_KSM_TUNED};
        bool any = false;

        for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
                any = any || !isnan(result_median(&set->result[columns[i]], metric));
        if (!any)
                return;
        fprintf(out, "  %-38s", metrics[metric].label);
        for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
                print_cell(out, result_median(&set->result[columns[i]], metric) * metrics[metric].scale,
                           metrics[metric].digits);
        print_cell(out, ratio(set, ENGINE_KSM, metric), 3);
        print_cell(out, ratio(set, ENGINE_KSM_TUNED, metric), 3);
        fputc('\n', out);
}

void result_print(FILE *out, const struct result_set *set)
{
        fprintf(out, "\n%s: %s\n", set->name, set->title);
        fprintf(out, "  %-38s %11s %11s %11s %11s %11s\n", "", "", "KSM", "KSM", "wpd / KSM", "wpd / KSM");
        fprintf(out, "  %-38s %11s %11s %11s %11s %11s\n", "", "wpd", "default", "tuned", "default", "tuned");
        for (unsigned metric = 0; metric < N_METRICS; metric++)
                if (metrics[metric].table)
                        print_row(out, set, metric);
        for (unsigned engine = 0; engine < N_ENGINES; engine++) {
                const struct result *result = &set->result[engine];

                if (result->n_converged < result->n_repetitions)
                        fprintf(out, "  %s did not converge in %u of %u repetitions\n", engine_names[engine],
                                result->n_repetitions - result->n_converged, result->n_repetitions);
        }
}

/* JSON has no NAN: what was not measured is left out. */
static json_t *engine_json(const struct result *result)
{
        json_t *median = json_object(), *samples = json_object();

        for (unsigned metric = 0; metric < N_METRICS; metric++) {
                double value = result_median(result, metric);
                json_t *array;

                if (isnan(value))
                        continue;
                array = json_array();
                for (unsigned i = 0; i < result->n_repetitions; i++)
                        if (!isnan(result->value[i][metric]))
                                json_array_append_new(array, json_real(result->value[i][metric]));
                json_object_set_new(median, metrics[metric].name, json_real(value));
                json_object_set_new(samples, metrics[metric].name, array);
        }
        return json_pack("{s:i, s:i, s:o, s:o}", "repetitions", (int)result->n_repetitions, "converged",
                         (int)result->n_converged, "median", median, "samples", samples);
}

static json_t *ratios_json(const struct result_set *set, enum engine engine)
{
        json_t *ratios = json_object();

        for (unsigned metric = 0; metric < N_METRICS; metric++) {
                double value = ratio(set, engine, metric);

                if (!isnan(value))
                        json_object_set_new(ratios, metrics[metric].name, json_real(value));
        }
        return ratios;
}

json_t *result_json(const struct result_set *set)
{
        json_t *engines = json_object(), *ratios = json_object();

        for (unsigned engine = 0; engine < N_ENGINES; engine++)
                if (set->result[engine].n_repetitions)
                        json_object_set_new(engines, engine_names[engine], engine_json(&set->result[engine]));
        for (unsigned engine = ENGINE_KSM; engine < N_ENGINES; engine++)
                if (set->result[engine].n_repetitions && set->result[ENGINE_WPD].n_repetitions)
                        json_object_set_new(ratios, engine_names[engine], ratios_json(set, engine));
        return json_pack("{s:s, s:s, s:I, s:o, s:o}", "name", set->name, "title", set->title,
                         "possible_pages", (json_int_t)set->possible_pages, "engines", engines, "wpd_to_ksm",
                         ratios);
}
