#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What wpd costs programs that have nothing to do with it: bonnie++, dbench, sysbench and stress-ng on this machine while wpd is
# absent, idle and busy. `./dev bench --suite=system` runs it.
#
#   system.sh BUILD-DIRECTORY [REPETITIONS]
#
# Beside them run two processes with the same 256 MiB each (bench/load.c):
#   absent   they do nothing, and there is no wpd            absent2  the same once more: how much figures differ by themselves
#   idle     wpd has merged their memory                     churn    without wpd, they rewrite 2 % of it a second
#   busy     the same with wpd, which merges it again and again
# So idle is to be compared with absent, busy with churn. Figures are medians; CPU is what wpd and its clients used, in percent
# of one CPU.
set -euo pipefail

BUILD=$1
REPETITIONS=${2:-3}
SECONDS_EACH=${SECONDS_EACH:-8}
MODES=(absent idle churn busy absent2)

work=$(mktemp -d /var/tmp/wpd-system.XXXXXX)
wpd_pid=
load_pid=

say() {
        printf '%s\n' "$*" >&2
}

stop() {
        if [[ -n $load_pid ]]; then
                kill "$load_pid" 2>/dev/null || true
                wait "$load_pid" 2>/dev/null || true
                load_pid=
        fi
        if [[ -n $wpd_pid ]]; then
                kill "$wpd_pid" 2>/dev/null || true
                wait "$wpd_pid" 2>/dev/null || true
                wpd_pid=
        fi
}

clean_up() {
        stop
        rm -rf -- "$work"
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---------------------------------------------------------------- the surroundings

await() {
        local i

        for ((i = 0; i < 600; i++)); do
                "$@" && return 0
                sleep 0.1
        done
        say "bench: waited too long for: $*"
        exit 1
}

# begin MODE: starts what belongs to it, and returns when nothing changes any more that should not.
begin() {
        local options=()

        case $1 in
        idle | busy)
                "$BUILD/daemon/wpd" --runtime-dir="$work/run" >"$work/log" 2>&1 &
                wpd_pid=$!
                await test -S "$work/run/client.sock"
                options+=("--socket=$work/run/client.sock")
                ;;
        esac
        case $1 in
        churn | busy) options+=(--rewrite=2) ;;
        esac
        rm -f "$work/ready"
        "$BUILD/bench/wpd-bench-load" "${options[@]}" >"$work/ready" &
        load_pid=$!
        await test -s "$work/ready"
        sleep 2
}

# Clock ticks that wpd and the processes with the memory have used so far.
ticks() {
        local pid

        for pid in $wpd_pid $load_pid $(pgrep -P "$load_pid"); do
                awk '{print $14 + $15}' "/proc/$pid/stat"
        done | awk '{sum += $1} END {print sum}'
}

# ---------------------------------------------------------------- the programs: NAME VALUE lines

run_bonnie() {
        local directory=$work/bonnie

        mkdir -p "$directory"
        chmod 777 "$directory"
        # Columns of version 1.98; what went too fast to be measured is "+++++", and left out.
        bonnie++ -d "$directory" -u nobody -s 2G -r 512 -n 64 -f -q 2>/dev/null | tail -n 1 | awk -F, '
                function show(name, value, divisor) {
                        if (value ~ /^[0-9.]+$/)
                                print "bonnie++_" name, value / divisor
                }
                {
                        show("write_MiB/s", $12, 1024)
                        show("rewrite_MiB/s", $14, 1024)
                        show("read_MiB/s", $18, 1024)
                        show("files_created/s", $27, 1)
                        show("files_deleted/s", $31, 1)
                        show("files_created_random/s", $33, 1)
                        show("files_deleted_random/s", $37, 1)
                }'
}

run_dbench() {
        mkdir -p "$work/dbench"
        dbench -D "$work/dbench" -t "$SECONDS_EACH" 2 2>/dev/null | awk '/^Throughput/ {print "dbench_MiB/s", $2}'
}

run_sysbench() {
        sysbench cpu --threads=2 --time="$SECONDS_EACH" run | awk '/events per second/ {print "sysbench_cpu_events/s", $4}'
        sysbench memory --threads=2 --time="$SECONDS_EACH" --memory-total-size=1000G run |
                awk '/transferred/ {gsub(/[(]/, "", $4); print "sysbench_memory_MiB/s", $4}'
        sysbench threads --threads=8 --time="$SECONDS_EACH" run |
                awk '/total number of events/ {print "sysbench_threads_events", $5}'
}

run_stress() {
        local stressor

        for stressor in fork mmap vm pipe; do
                stress-ng "--$stressor" 2 --timeout "$SECONDS_EACH" --metrics-brief 2>&1 |
                        awk -v name="stress-ng_${stressor}_ops/s" -v stressor="$stressor" '$4 == stressor && $5 ~ /^[0-9]+$/ {print name, $9}'
        done
}

measure() {
        local before after start end

        begin "$1"
        before=$(ticks)
        start=$(date +%s.%N)
        {
                run_bonnie
                run_dbench
                run_sysbench
                run_stress
        } >>"$work/$1"
        after=$(ticks)
        end=$(date +%s.%N)
        awk -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v start="$start" -v end="$end" \
                'BEGIN {printf "CPU_%% %.2f\n", 100 * ticks / hz / (end - start)}' >>"$work/$1"
        stop
}

# ---------------------------------------------------------------- the report

medians() {
        sort -k1,1 -k2,2n "$work/$1" | awk '
                $1 != name {flush_median(); name = $1; n = 0}
                {values[n++] = $2}
                function flush_median() {if (n) print name, values[int((n - 1) / 2)]}
                END {flush_median()}'
}

report() {
        local mode name

        for mode in "${MODES[@]}"; do
                medians "$mode" >"$work/$mode.median"
        done
        printf '%-28s %12s %12s %7s %12s %7s %12s %12s %7s\n' \
                '' absent again ratio idle ratio churn busy ratio
        while read -r name _; do
                awk -v name="$name" '
                        $1 == name {value[FILENAME] = $2}
                        function of(mode) {return value[directory "/" mode ".median"]}
                        function ratio(a, b) {return b > 0 ? sprintf("%.3f", a / b) : "-"}
                        END {
                                printf "%-28s %12.6g %12.6g %7s %12.6g %7s %12.6g %12.6g %7s\n", name,
                                        of("absent"), of("absent2"), ratio(of("absent2"), of("absent")),
                                        of("idle"), ratio(of("idle"), of("absent")),
                                        of("churn"), of("busy"), ratio(of("busy"), of("churn"))
                        }' directory="$work" "$work"/*.median
        done <"$work/absent.median"
}

for ((repetition = 1; repetition <= REPETITIONS; repetition++)); do
        for mode in "${MODES[@]}"; do
                say "$repetition/$REPETITIONS $mode"
                measure "$mode"
        done
done
printf '%s, %s CPUs; medians of %s\n' "$(uname -sr)" "$(nproc)" "$REPETITIONS"
report
