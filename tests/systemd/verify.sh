#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Installs into a directory of its own and has systemd look at the result: units verify without a word, the
# group and the directory are declared in a way that systemd understands, and the service is not exposed
# more than it was.
#
# verify.sh BUILD-DIR UNIT-DIR SYSUSERS-DIR TMPFILES-DIR SYSCTL-DIR MAN-DIR SYSCONF-DIR

set -eu

source=$(cd "$(dirname "$0")/../.." && pwd)
build=$1 units=$2 sysusers=$3 tmpfiles=$4 sysctl=$5 man=$6 sysconf=$7

# Tenths of systemd's exposure level (0 to 100, less is better). What is left is what the comments in
# wpd.service explain.
threshold=25

skip() {
        echo "skipped: $*"
        exit 77
}

fail() {
        echo "FAILED: $*" >&2
        exit 1
}

command -v systemd-analyze >/dev/null || skip "systemd-analyze is not installed"
command -v meson >/dev/null || skip "meson is not on the path, nothing can be installed"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
trap 'exit 1' HUP INT TERM

DESTDIR=$stage meson install -C "$build" --no-rebuild --quiet >"$stage/install.log" 2>&1 ||
        { cat "$stage/install.log" >&2; fail "meson install"; }

echo "- installed files"
for file in "$units/wpd.service" "$units/wpd-client.socket" "$units/wpd-control.socket" "$sysusers/wpd.conf" \
            "$tmpfiles/wpd.conf" "$sysctl/60-wpd.conf" "$sysconf/wpd/wpd.conf" "$man/man8/wpd.8" \
            "$man/man5/wpd.conf.5"; do
        [ -f "$stage$file" ] || fail "$file is not installed"
done
[ -d "$stage$sysconf/wpd/wpd.conf.d" ] || fail "$sysconf/wpd/wpd.conf.d is not installed"
# No placeholder is left.
! grep -n '@[A-Z]' "$stage$units"/wpd* | grep -v '^[^:]*:[0-9]*:#' || fail "a placeholder was not replaced"

# The service manager's own units, which ours refer to, are looked up in the stage as well.
if [ "$units" != /lib/systemd/system ] && [ "$units" != /usr/lib/systemd/system ]; then
        mkdir -p "$stage/usr/lib/systemd/system"
        cp "$stage$units"/wpd* "$stage/usr/lib/systemd/system/"
fi
for dir in /usr/lib/systemd/system /lib/systemd/system; do
        [ -d "$dir" ] || continue
        mkdir -p "$stage/usr/lib/systemd/system"
        for target in sysinit basic sockets shutdown multi-user local-fs swap paths slices timers umount; do
                [ ! -f "$dir/$target.target" ] ||
                        cp -n "$dir/$target.target" "$stage/usr/lib/systemd/system/"
        done
done

echo "- systemd-analyze verify"
mkdir -p "$stage/bin"
cp /bin/kill "$stage/bin/"
# Manual pages are looked for in the system and not in the stage; that they are installed was seen above.
output=$(systemd-analyze verify --root="$stage" --man=no --recursive-errors=one "$stage$units/wpd.service" \
         "$stage$units/wpd-client.socket" "$stage$units/wpd-control.socket" 2>&1) ||
        { echo "$output" >&2; fail "systemd-analyze verify"; }
[ -z "$output" ] || { echo "$output" >&2; fail "systemd-analyze verify is not silent"; }

echo "- systemd-sysusers, systemd-tmpfiles"
if [ "$(id -u)" = 0 ] && command -v systemd-sysusers >/dev/null && command -v systemd-tmpfiles >/dev/null
then
        mkdir -p "$stage/etc"
        printf 'root:x:0:\n' >"$stage/etc/group"
        printf 'root:x:0:0::/root:/bin/sh\n' >"$stage/etc/passwd"
        systemd-sysusers --root="$stage" "$stage$sysusers/wpd.conf"
        grep -q '^wpd:' "$stage/etc/group" || fail "no group wpd"
        systemd-tmpfiles --root="$stage" --create "$stage$tmpfiles/wpd.conf"
        [ "$(stat -c '%a %U %G' "$stage/run/wpd")" = "755 root root" ] || fail "/run/wpd"
fi

echo "- sysctl.d"
sed -e '/^[#;]/d' -e '/^$/d' "$stage$sysctl/60-wpd.conf" | while read -r key equals value rest; do
        path=/proc/sys/$(echo "$key" | tr . /)
        [ "$equals" = = ] && [ -z "$rest" ] && [ -e "$path" ] && [ "$value" -gt 65530 ] ||
                fail "60-wpd.conf: $key $equals $value $rest"
done

echo "- system calls"
# What a set of systemd's contains, one call a line, sets within it resolved.
calls_of() {
        for name; do
                case $name in
                @*)
                        # shellcheck disable=SC2046 # names are words
                        calls_of $(systemd-analyze --no-pager syscall-filter "$name" |
                                   sed -n 's/^    \([@a-z0-9_-]*\)$/\1/p')
                        ;;
                *) echo "$name" ;;
                esac
        done
}
: >"$stage/permitted"
sed -n 's/^SystemCallFilter=//p' "$stage$units/wpd.service" >"$stage/filters"
while read -r filter; do
        # shellcheck disable=SC2086 # a list of words
        calls_of ${filter#"~"} | sort -u >"$stage/calls"
        case $filter in
        "~"*) comm -23 "$stage/permitted" "$stage/calls" >"$stage/result" ;;
        *) sort -u "$stage/permitted" "$stage/calls" >"$stage/result" ;;
        esac
        mv "$stage/result" "$stage/permitted"
done <"$stage/filters"
# The daemon's own list, and what it needs before that is loaded.
{
        sed -n '/^static const struct rule rules\[\]/,/^};/p' "$source/daemon/process/sandbox.c" |
                sed -n 's/.*{CALL(\([a-z0-9_]*\)).*/\1/p; s/.*{CALL_IF(\([a-z0-9_]*\),.*/\1/p'
        printf '%s\n' ioctl fcntl prctl capset seccomp fsopen fsconfig fsmount
} | sort -u >"$stage/needed"
[ "$(wc -l <"$stage/needed")" -gt 50 ] || fail "the daemon's list of calls was not found"
missing=$(comm -13 "$stage/permitted" "$stage/needed")
[ -z "$missing" ] || fail "wpd.service forbids what the daemon does: $missing"

echo "- systemd-analyze security"
systemd-analyze security --offline=true --no-pager --threshold="$threshold" --root="$stage" wpd.service ||
        fail "exposure is worse than $threshold tenths"
