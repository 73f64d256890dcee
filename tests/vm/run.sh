#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs tests in a virtual machine with several NUMA nodes, on a kernel from Debian's packages: what this machine does not have.
# `./dev vm-test` runs it.
#
#   run.sh BUILD-DIRECTORY CACHE-DIRECTORY [--nodes=N] [--minutes=N] [-- TEST...]
#
# The processors are emulated: this needs no support for virtualization, and is 10 to 20 times slower. The system is an
# initial RAM disk: busybox, what the build made and the shared libraries that it needs, each file at the path that it has here.
# TEST is what `meson test` calls it; without, all facts about the kernel are tried, and what is in SYSTEM_TESTS.
#
# Exit status: 0 all passed or were skipped, 1 something failed or was not run, 77 there is no kernel to be had.
set -euo pipefail

SYSTEM_TESTS=(numa)
# Debian 12's own kernel lacks what wpd needs.
SUITE=bookworm-backports
KERNEL=linux-image-cloud-amd64
MEBIBYTES_PER_NODE=768
PATIENCE=4 # times the time that a test may take elsewhere

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
build=$(realpath "$1")
cache=$2
shift 2
nodes=2
minutes=10
tests=()
work=
vm=

say() {
        printf '%s\n' "$*" >&2
}

die() {
        say "vm-test: $*"
        exit 1
}

skip() {
        echo "skipped: $*"
        exit 77
}

clean_up() {
        local status=$?

        trap - EXIT INT TERM HUP
        if [[ -n $vm ]]; then
                kill "$vm" 2>/dev/null || true
                wait "$vm" 2>/dev/null || true
        fi
        [[ -z $work ]] || rm -rf -- "$work"
        exit "$status"
}

# ---------------------------------------------------------------- the kernel

# private_apt PROGRAM ARGUMENT...: with sources, lists and caches of its own: those of this machine are neither asked nor changed.
private_apt() {
        local program=$1
        shift

        "$program" -q -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
                -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
                -o APT::Sandbox::User=root "$@" </dev/null
}

# Puts the newest one into the cache. Its output says why if it could not.
fetch_kernel() {
        local keyring=/usr/share/keyrings/debian-archive-keyring.gpg package

        mkdir -p "$work/apt/lists"
        echo "deb [signed-by=$keyring] ${DEBIAN_MIRROR:-http://deb.debian.org/debian} $SUITE main" >"$work/apt/sources.list"
        # By default an unreachable mirror is only a warning.
        private_apt apt-get --error-on=any update 2>&1 || return
        package=$(private_apt apt-cache depends "$KERNEL" | sed -n 's/^ *Depends: *\(linux-image-[^ ]*\).*/\1/p' | head -n 1)
        [[ -n $package ]] || { echo "$SUITE has no $KERNEL"; return 1; }
        (cd "$work/apt" && private_apt apt-get download "$package") 2>&1 || return
        dpkg-deb --fsys-tarfile "$work/apt/$package"_*.deb | tar -x -C "$work/apt" --wildcards './boot/vmlinuz-*' || return
        # By renaming, so that a file of that name is a whole one.
        mkdir -p "$cache"
        cp "$work"/apt/boot/vmlinuz-* "$cache/new"
        mv "$cache/new" "$cache/${package/#linux-image/vmlinuz}"
}

# Prints the path of the cached kernel.
find_kernel() {
        local kernels=("$cache"/vmlinuz-*)

        [[ -e ${kernels[0]} ]] && printf '%s\n' "${kernels[-1]}"
}

# ---------------------------------------------------------------- the system

# Writes the file that init.sh includes, and the names of the tests, in their order, to a second one.
write_programs() {
        meson introspect --tests "$build" | python3 -c '
import json
import shlex
import sys

build, system_tests, patience, programs_path, names_path, *wanted = sys.argv[1:]
tests = json.load(sys.stdin)
names = {test["name"] for test in tests}
unknown = (set(wanted) | set(system_tests.split())) - names
if unknown:
    sys.exit("vm-test: the build has no test of this name: " + ", ".join(sorted(unknown)))
if wanted:
    # Whatever else is run: what the kernel complained about meanwhile.
    wanted += ["kernel_log_mark", "kernel_log"]
else:
    wanted = [test["name"] for test in tests if "wpd:kernel" in test["suite"]] + system_tests.split()
chosen = sorted((test for test in tests if test["name"] in wanted), key=lambda test: -test["priority"])
with open(programs_path, "w", encoding="utf-8") as programs:
    print(f"BUILD={shlex.quote(build)}\nprograms() {{", file=programs)
    for test in chosen:
        variables = [f"{name}={value}" for name, value in test["env"].items()]
        words = [test["name"], str(test["timeout"] * int(patience)), "env", *variables, *test["cmd"]]
        print("run", shlex.join(words), file=programs)
    print("}", file=programs)
with open(names_path, "w", encoding="utf-8") as file:
    file.writelines(test["name"] + "\n" for test in chosen)
' "$build" "${SYSTEM_TESTS[*]}" "$PATIENCE" "$root/vm/programs" "$work/names" "$@"
}

# copy FILE...: to the same paths below the root, links as what they point to.
copy() {
        cp -L --parents -- "$@" "$root"
}

make_root() {
        local file made=()

        mkdir -p "$root"/{bin,dev,etc,proc,root,run,sys,tmp,var/tmp,vm}
        cp /bin/busybox "$root/bin/"
        ln -s busybox "$root/bin/sh"
        install -m 755 "$here/init.sh" "$root/init"
        printf '%s\n' root:x:0:0::/root:/bin/sh nobody:x:65534:65534::/nonexistent:/bin/false >"$root/etc/passwd"
        printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
        write_programs "$@"
        while IFS= read -r -d '' file; do
                made+=("$file")
        done < <(find "$build" -xtype f \( -executable -o -name '*.so*' \) -not -path "$build/meson-*" -print0)
        copy "${made[@]}"
        # Symbols for debuggers are most of it.
        strip -- "${made[@]/#/$root}" 2>/dev/null || true
        # The build's own library is among them already.
        ldd -- "${made[@]}" 2>/dev/null | sed -nE 's/^\s+(\S+ => )?(\/.*) \(0x[0-9a-f]+\)$/\2/p' | grep -vF "$build/" |
                sort -u >"$work/libraries"
        mapfile -t made <"$work/libraries"
        copy "${made[@]}"
        # Directories on the way to the build may be closed to others here.
        find "$root" -type d -exec chmod 755 {} +
        chmod 1777 "$root/tmp" "$root/var/tmp"
        (cd "$root" && find . -print0 | cpio --quiet --null -o -H newc -R 0:0) >"$work/initrd"
}

# ---------------------------------------------------------------- the machine

start_vm() {
        local node options=() cpus

        # Not more than there are here: a processor that waits for one that does not run makes facts about races take minutes.
        cpus=$(($(nproc) / nodes))
        cpus=$((cpus < 1 ? 1 : cpus > 2 ? 2 : cpus))
        for ((node = 0; node < nodes; node++)); do
                options+=(-object "memory-backend-ram,id=memory$node,size=${MEBIBYTES_PER_NODE}M"
                          -numa "node,nodeid=$node,memdev=memory$node,cpus=$((node * cpus))-$(((node + 1) * cpus - 1))")
        done
        # numa_balancing: memory stays on the node where it was put, whoever uses it.
        # cx16: cmpxchg16b, which the kernel's allocator uses if it is there, spoils other flags in emulators before QEMU 8.0.
        exec {report}< <(exec timeout --kill-after=5 "${minutes}m" \
                qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-cx16 -smp "$((nodes * cpus)),sockets=$nodes" \
                -m "$((nodes * MEBIBYTES_PER_NODE))" "${options[@]}" -nodefaults -no-user-config -no-reboot -display none \
                -kernel "$1" -initrd "$work/initrd" -append "console=ttyS0 loglevel=5 panic=-1 numa_balancing=disable" \
                -serial "file:$work/console" -serial stdio </dev/null 2>"$work/qemu")
        vm=$!
}

# print_each PREFIX LINES
print_each() {
        local line

        while IFS= read -r line; do
                printf '%s%s\n' "$1" "$line"
        done <<<"$2"
}

# conclude NAME STATUS SECONDS: the verdict on a program whose output is in $output.
conclude() {
        local name=$1 status=$2 seconds=$3 skips

        reported["$name"]=1
        skips=$(sed -n 's/^SKIP //p' <<<"$output") # of a program of several tests
        case $status in
        0)
                passed=$((passed + 1))
                printf 'ok %s (%d s)\n' "$name" "$seconds"
                [[ -z $skips ]] || print_each "skipped $name/" "$skips"
                ;;
        77)
                skipped=$((skipped + 1))
                if [[ -n $skips ]]; then
                        print_each "skipped $name/" "$skips"
                else
                        printf 'skipped %s: %s\n' "$name" "$(tail -n 1 <<<"${output%$'\n'}" | sed 's/^skipped: //')"
                fi
                ;;
        *)
                failed=$((failed + 1))
                [[ $status == timeout ]] || status="exit status $status"
                printf 'FAILED %s: %s (%d s)\n' "$name" "$status" "$seconds"
                print_each '        ' "${output%$'\n'}"
                ;;
        esac
}

# Reads the report until the machine has ended. False if not every program passed or was skipped.
follow() {
        local line name status seconds current='' output='' finished='' vm_status=0
        local passed=0 failed=0 skipped=0
        local -A reported=()

        while IFS= read -r line <&"$report"; do
                line=${line%$'\r'}
                case $line in
                'begin '*)
                        current=${line#begin }
                        output=
                        ;;
                '| '*) output+=${line#'| '}$'\n' ;;
                'end '*)
                        read -r _ name status seconds <<<"$line"
                        [[ $name == "$current" ]] || die "not a report: $line"
                        conclude "$name" "$status" "$seconds"
                        current=
                        ;;
                done) finished=1 ;;
                esac
        done
        wait "$vm" || vm_status=$?
        vm=
        while IFS= read -r name; do
                [[ -z ${reported["$name"]-} ]] || continue
                failed=$((failed + 1))
                if [[ $name == "$current" ]]; then
                        echo "FAILED $name: the machine ended while it ran"
                else
                        echo "FAILED $name: was not run"
                fi
        done <"$work/names"
        if [[ -z $finished || $vm_status -ne 0 ]]; then
                [[ $failed -gt 0 ]] || failed=1
                [[ $vm_status -ne 124 ]] || say "vm-test: the machine was stopped after $minutes minutes"
                say "vm-test: the machine ended with status $vm_status; its console:"
                tail -n 60 "$work/console" "$work/qemu" >&2 || true
        fi
        echo "$passed passed, $failed failed, $skipped skipped"
        [[ $failed -eq 0 ]]
}

# ---------------------------------------------------------------- all of it

while [[ $# -gt 0 ]]; do
        case $1 in
        --nodes=[1-8]) nodes=${1#*=} ;;
        --minutes=[1-9]*) minutes=${1#*=} ;;
        --)
                tests=("${@:2}")
                break
                ;;
        *)
                say "usage: ./dev vm-test [--nodes=1...8] [--minutes=N] [-- TEST...]"
                exit 2
                ;;
        esac
        shift
done

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
work=$(mktemp -d /var/tmp/wpd-vm.XXXXXX)
root=$work/root

if ! kernel=$(find_kernel); then
        say "vm-test: fetching $KERNEL from $SUITE"
        reason=$(fetch_kernel) || skip "no kernel from $SUITE: $(grep -m 1 '^E: ' <<<"$reason" || tail -n 1 <<<"$reason")"
        kernel=$(find_kernel)
fi
make_root "${tests[@]}"
say "vm-test: Linux ${kernel##*/vmlinuz-}, NUMA nodes: $nodes, programs: $(wc -l <"$work/names")"
start_vm "$kernel"
follow
