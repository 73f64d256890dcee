#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The first process of the virtual machine (a shell of busybox): runs the programs that /vm/programs names and reports on the
# second serial port, which nobody else writes to. What a report looks like is what run.sh reads:
#
#   begin NAME
#   | LINE OF OUTPUT               of standard output and standard error
#   end NAME STATUS SECONDS        STATUS: an exit status, or `timeout`
#   done
#
# /vm/programs is shell code that sets BUILD, the build directory, and defines programs(), made of calls of run().

/bin/busybox --install -s /bin 2>/dev/null # sh is there already
export PATH=/bin HOME=/root LC_ALL=C.UTF-8

mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts

exec 3>/dev/ttyS1
# As it is written: no carriage returns, and nothing comes back.
stty -F /dev/ttyS1 raw -echo

uptime() {
        cut -d. -f1 /proc/uptime
}

# run NAME SECONDS PROGRAM ARGUMENT...
run() {
        name=$1 limit=$2
        shift 2
        echo "begin $name" >&3
        start=$(uptime)
        timeout -s KILL "$limit" "$@" >/vm/output 2>&1 </dev/null 3>&-
        status=$?
        seconds=$(($(uptime) - start))
        [ "$status" -ne 137 ] || [ "$seconds" -lt "$limit" ] || status=timeout
        # What a program leaves behind must not disturb the next one: everything but this process.
        kill -KILL -1
        # The end of long output is what tells.
        tail -n 500 /vm/output | awk '{ print "| " $0 }' >&3
        echo "end $name $status $seconds" >&3
}

# shellcheck source=/dev/null
. /vm/programs
# Relative paths among the arguments are relative to it.
cd "$BUILD" || exit 1
programs
echo "done" >&3
# Waits until the port has sent everything.
exec 3>&-
poweroff -f
