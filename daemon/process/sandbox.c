/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The process boundary
 *
 * Theory of operation
 *
 * wpd starts as root and serves everybody. What it reads from clients is untrusted: packets, descriptors, the
 * contents of their memory. Should one of them ever take over the daemon, it shall find a process that can do
 * little more than the daemon's work. Privilege is therefore given up in stages; none is ever taken back.
 *
 * Stage 1, open (daemon.c), with all of root's capabilities
 *   Should    open everything that needs privilege: both sockets, /dev/userfaultfd, the pool's tmpfs
 *             (CAP_SYS_ADMIN for fsopen(2) and fsmount(2)). Read the configuration.
 *             Start the helper's process (helper.h), which goes through stage 3 by itself.
 *   Mustn't   accept a connection, start a thread, or keep a descriptor of a directory other than the pool's.
 *
 * Stage 2, lock: sandbox_lock_memory(), CAP_SYS_RESOURCE unless the service manager has set the limits
 *   already Should    raise RLIMIT_NOFILE and RLIMIT_MEMLOCK, then lock memory, what will be mapped later
 *   included. The
 *             fault service must never wait for its own memory to come back from swap: whoever waits for it
 *             may be the one for whom it was swapped out. RLIMIT_MEMLOCK is infinite before CAP_IPC_LOCK
 *             goes, so that later mappings are locked without that capability. Where the limit cannot be
 *             raised (containers without CAP_SYS_RESOURCE), CAP_IPC_LOCK stays instead: without either,
 *             mapping more memory than the limit would fail.
 *   Mustn't   populate what is locked (MCL_ONFAULT): stacks and tables are mapped larger than they are used.
 *
 * Stage 3, confine: sandbox_confine()
 *   Should    reduce the bounding, permitted and effective sets to SANDBOX_CAPS and empty the inheritable and
 *             the ambient one; set no_new_privs; load the filter of system calls. In this order: dropping
 *             from the bounding set needs CAP_SETPCAP, loading a filter without no_new_privs would need
 *             CAP_SYS_ADMIN.
 *   Mustn't   run when there is a second thread: capabilities and filter belong to threads, and one that is
 *             older would keep what it has. That is checked.
 *
 * Stage 4, serve (everything else)
 *   Should    do only what the table below lists.
 *   Mustn't   execute a program, load code (dlopen(3): so no name-service look-ups, no character-set
 *             conversion), make memory executable, trace a process, open an existing file for writing, speak
 *             any network protocol, change its identity, mounts, limits or namespaces, signal another
 *             process. Each of these kills the daemon at once (SECCOMP_RET_KILL_PROCESS; the audit log names
 *             the call). Clients survive that: see wpd(8).
 *
 * Capabilities that stay
 *   CAP_SYS_PTRACE   UFFDIO_API refuses UFFD_FEATURE_EVENT_FORK without it, and a client that forks while its
 *                    memory is merged cannot be followed without that event; /proc/PID/smaps of other users'
 *                    processes says what memory is before it is touched.
 *   CAP_IPC_LOCK     only in the case that stage 2 names.
 *   CAP_LEASE, CAP_CHECKPOINT_RESTORE, CAP_DAC_READ_SEARCH
 *                    only if mappings of files take part (sandbox_keep_files()): a file that clients map is opened through
 *                    their /proc/PID/map_files, for reading, and a lease on it taken, whoever owns it.
 *
 * Capabilities that could be thought to be needed and are not
 *   CAP_DAC_READ_SEARCH   (without files) clients open their own /proc/self/mem and /proc/self/pagemap and pass the
 *                         descriptors; for page maps that nobody passes there is the helper
 *   CAP_SYS_ADMIN         only the mount of stage 1 needs it; its files are created with ordinary rights
 *   CAP_KILL              clients are never signalled
 *
 * The helper
 *   Who maps a page stands in /proc/PID/pagemap, which only the owner of the process may open, and clients pass their
 *   own alone. With CAP_DAC_READ_SEARCH the daemon could open those of all others, and so can the memory of every process
 *   and every file be opened with it and CAP_SYS_PTRACE. That is too much for a process that reads what clients send. So
 *   both are a second process's (helper.h), which is forked in stage 1 and closes all that it got. It hears nobody but the
 *   daemon, of which it takes some numbers and to which it gives process ids and addresses; all that it reads of others is
 *   /proc/PID/maps. It can open files for reading and do nothing else, and has nobody but the daemon to tell.
 *
 * What the boundary does not promise
 *   CAP_SYS_PTRACE is a strong capability. Without execution, ptrace(2) and process_vm_writev(2), and with
 *   files opened for reading only, what is left of it is reading: the memory of processes of the daemon's own
 *   user. Writing through /proc/PID/mem is kept out by the flags that openat(2) may have. Operations inside
 *   an io_uring are not seen by a system-call filter; so the rings are made before it is loaded, each
 *   restricted to the operations that it is for (kernel/ring.h), and no other can be made.
 *
 * Sanitizers: the run-time libraries of instrumented builds make calls of their own (leak checking starts a
 * process that traces this one). The build defines WPD_SANITIZER for them, which adds a second table. No
 * release is built so.
 */

#include "process/sandbox.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel/uapi.h"
#include "util/bits.h"
#include "util/cleanup.h"

/* As many descriptors as the kernel gives anybody by default (fs.nr_open). */
#define DESCRIPTORS_WANTED (1 << 20)

static const cap_value_t sandbox_caps[] = SANDBOX_CAPS;
static const cap_value_t file_caps[] = SANDBOX_FILE_CAPS;
static const cap_value_t helper_caps[] = SANDBOX_HELPER_CAPS;

/* Mappings of files take part. */
static bool files_kept;

/* Memory is locked beyond RLIMIT_MEMLOCK, which only CAP_IPC_LOCK allows. */
static bool lock_needs_cap;

/* All bits that the kernel looks at in an argument of type int. */
#define INT_BITS UINT64_C(0xffffffff)

/*
 * One permitted call. Every condition wants `argument & mask == value`; several rows of one call are
 * alternatives.
 */
struct rule {
        int call;
        unsigned n_conditions;
        struct {
                unsigned argument;
                uint64_t mask;
                uint64_t value;
        } conditions[2];
};

#define CALL(_call) .call = SCMP_SYS(_call)
#define CALL_IF(_call, _argument, _mask, _value)                                                             \
        CALL(_call), .n_conditions = 1, .conditions = {{_argument, _mask, _value}}
#define IOCTL(_request) CALL_IF(ioctl, 1, INT_BITS, (_request))
#define FCNTL(_command) CALL_IF(fcntl, 1, INT_BITS, (_command))
#define FCNTL_TO(_command, _value)                                                                           \
        CALL(fcntl), .n_conditions = 2, .conditions = {{1, INT_BITS, (_command)}, {2, INT_BITS, (_value)}}
#define PRCTL(_option) CALL_IF(prctl, 0, INT_BITS, (_option))

#define CLONE_NEW_ANY                                                                                        \
        (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |        \
         CLONE_NEWNET)

/* One row a call, its reason beside it. */
static const struct rule rules[] = {
        /* The loops: libev on the control thread, plain waits on the others. */
        {CALL(epoll_create1)},   /* libev starts its loop */
        {CALL(epoll_ctl)},       /* libev: watchers come and go */
        {CALL(epoll_wait)},      /* libev sleeps */
        {CALL(epoll_pwait)},     /* libev sleeps, as newer C libraries spell it */
        {CALL(eventfd2)},        /* libev's wake-up from signals and threads */
        {CALL(signalfd4)},       /* libev, for SIGHUP, SIGINT and SIGTERM, where it is asked for */
        {CALL(timerfd_create)},  /* libev notices jumps of the clock */
        {CALL(timerfd_settime)}, /* the same */
        {CALL(poll)},            /* waiting for one descriptor outside the loop */
        {CALL(ppoll)},           /* the same */
        {CALL(nanosleep)},       /* the scan thread keeps to its share of a CPU */
        {CALL(clock_nanosleep)}, /* the same */
        {CALL(clock_gettime)},   /* where the vDSO cannot tell the time */
        {CALL(clock_getres)},    /* the same */
        {CALL(gettimeofday)},    /* the same; jansson seeds its tables */
        {CALL(restart_syscall)}, /* the kernel goes on with a sleep after SIGSTOP and SIGCONT */

        /* Sockets: clients, control, and the service manager's notification socket. */
        {CALL_IF(socket, 0, INT_BITS, AF_UNIX)}, /* sd_notify(3) */
        {CALL(connect)},                         /* sd_notify(3) */
        {CALL(accept4)},                         /* a client arrives */
        {CALL(sendmsg)},                         /* replies with descriptors; sd_notify(3) */
        {CALL(recvmsg)},                         /* requests with descriptors */
        {CALL(sendto)},                          /* replies */
        {CALL(recvfrom)},                        /* requests */
        {CALL(shutdown)},                        /* a client is sent away */
        {CALL(getsockopt)},                      /* SO_PEERCRED */
        {CALL(setsockopt)},                      /* send buffers; sd_notify(3) */
        {CALL(getsockname)},                     /* what kind of socket was passed */
        {CALL(getpeername)},                     /* the same */

        /* The fault service. */
        {CALL(io_uring_enter)},     /* submit and wait; the rings were made before, see stage 1 */
        {CALL(io_uring_register)},  /* anchors of the pool; what a ring permits was fixed when it was made */
        {IOCTL(UFFDIO_API)},        /* the contexts of a new client; a forked child's */
        {IOCTL(UFFDIO_REGISTER)},   /* memory comes under protection */
        {IOCTL(UFFDIO_UNREGISTER)}, /* and leaves it */
        {IOCTL(UFFDIO_WRITEPROTECT)}, /* answers a write */
        {IOCTL(UFFDIO_COPY)},         /* answers a discarded page with zeros */
        {IOCTL(UFFDIO_WAKE)},         /* answers a fault that needs no page */

        /* Scanning, and looking at clients. */
        {IOCTL(PAGEMAP_SCAN)}, /* which pages were written */
        {CALL(pread64)},       /* a client's memory, through the descriptor that it passed */
        {CALL_IF(move_pages, 3, UINT64_MAX, 0)}, /* on which NUMA nodes pages lie; it moves none */
        {CALL(set_mempolicy)},                   /* on which node canonical pages are to lie */

        /*
         * Files by name: for reading only (/proc/PID/smaps and status, /proc/sys/vm/max_map_count, the
         * configuration when it is read again), or a new file that only its creator can read (the pool's).
         */
        {CALL_IF(openat, 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)},
        {.call = SCMP_SYS(openat),
         .n_conditions = 2,
         .conditions = {{2, INT_BITS, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC}, {3, INT_BITS, 0400}}},
        {CALL(unlinkat)},   /* the pool's file loses its name; the sockets go at the end */
        {CALL(getdents64)}, /* the drop-ins, when the configuration is read again */
        {CALL(fstat)},      /* kinds of files; the pool's size */
        {CALL(newfstatat)}, /* the same, as the C library spells it */
        {CALL(statx)},      /* the same, on newer C libraries */
        {CALL(fstatfs)},    /* of which file system a file is */
        {CALL(readlink)},   /* whether a descriptor is a userfaultfd */
        {CALL(readlinkat)}, /* the same, on newer C libraries */

        /* Descriptors. */
        {CALL(read)},     /* events, timers, files */
        {CALL(readv)},    /* the same, several buffers at once */
        {CALL(write)},    /* wake-ups, the log */
        {CALL(writev)},   /* the same, several buffers at once */
        {CALL(pwrite64)}, /* canonical pages */
        {CALL(lseek)},    /* stdio on files in /proc; where an adopted pool has content */
        {CALL(close)},
        {CALL(fallocate)}, /* canonical pages that nobody maps go back to the system */
        {FCNTL(F_GETFD)},
        {FCNTL(F_SETFD)}, /* close on exec */
        {FCNTL(F_GETFL)},
        {FCNTL(F_SETFL)},         /* libev and the ring want O_NONBLOCK, one of them the contrary */
        {FCNTL(F_DUPFD_CLOEXEC)}, /* a descriptor for a second owner */
        {FCNTL(F_OFD_SETLK)},     /* pages of the pool that are about to be given back */
        {FCNTL_TO(F_SETLEASE,
                  F_RDLCK)}, /* files whose pages are merged stay as they are; so the next three */
        {FCNTL_TO(F_SETLEASE, F_UNLCK)},
        {FCNTL(F_GETLEASE)},
        {FCNTL(F_SETSIG)},
        {CALL(preadv2)},   /* their content, as far as it is in memory */
        {CALL(fadvise64)}, /* pages of theirs that nobody maps any more go */
        {IOCTL(TCGETS)},   /* isatty(3): how to write the log */

        /* Memory; nothing executable, ever. */
        {CALL(brk)}, /* malloc(3) */
        {CALL_IF(mmap, 2, PROT_EXEC, 0)},
        {CALL_IF(mprotect, 2, PROT_EXEC, 0)},
        {CALL(mremap)}, /* tables grow */
        {CALL(munmap)},
        {CALL(madvise)}, /* malloc(3) and ended threads give memory back */
        {CALL(mlock)},   /* what the fault service touches, populated */
        {CALL(mlock2)},
        {CALL(munlock)},

        /* Threads. clone3(2) keeps its flags in memory and is answered with ENOSYS; C libraries then take
           clone(2). */
        {CALL_IF(clone, 0, CLONE_THREAD | CLONE_NEW_ANY, CLONE_THREAD)},
        {CALL(set_robust_list)}, /* a thread starts */
        {CALL(rseq)},            /* the same */
        {CALL(futex)},           /* locks, and waiting for a thread's end */
        {CALL(membarrier)},      /* between the fault thread and the others */
        {CALL(sched_yield)},     /* spinning for a fault */
        {CALL(setpriority)}, /* all threads but the fault service step back; none can come forward again */
        {CALL(sched_getaffinity)}, /* how many CPUs there are */
        {CALL(exit)},              /* a thread ends */
        {CALL(wait4)},             /* the helper has ended: libev, and daemon.c at its end */
        {PRCTL(PR_SET_NAME)},      /* pthread_setname_np(3) */
        {PRCTL(PR_SET_VMA)},       /* newer C libraries name their mappings */

        /* Signals. abort(3) may signal this process, see add_signals(). */
        {CALL(rt_sigaction)},
        {CALL(rt_sigprocmask)}, /* a thread starts with signals blocked */
        {CALL(rt_sigreturn)},
        {CALL(rt_sigpending)},
        {CALL(rt_sigtimedwait)},

        /* Asking about oneself and the host. */
        {CALL(getpid)},
        {CALL(gettid)},
        {CALL(getuid)}, /* sd_notify(3): whether it must send credentials; so the next three */
        {CALL(geteuid)},
        {CALL(getgid)},
        {CALL(getegid)},
        {CALL(getrandom)},                      /* a domain's secret; malloc(3) */
        {CALL(getrusage)},                      /* CPU seconds of each thread, for `wpctl status` */
        {CALL(sysinfo)},                        /* memory, before pages are given back */
        {CALL(uname)},                          /* the kernel's release, for the log */
        {CALL_IF(prlimit64, 2, UINT64_MAX, 0)}, /* getrlimit(2), setting nothing */
        {CALL(exit_group)},
};

static const struct rule helper_rules[] = {
        {CALL_IF(openat, 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY)}, /* what is in /proc, with openat(2) */
        {CALL(getdents64)},                                            /* which processes there are */
        {CALL(fstat)},                                                 /* whose they are */
        {CALL(newfstatat)},    /* the same, as the C library spells it */
        {CALL(pread64)},       /* /proc/PID/maps */
        {IOCTL(PAGEMAP_SCAN)}, /* /proc/PID/pagemap */
        {CALL(close)},
        {CALL(recvfrom)},      /* a question */
        {CALL(sendto)},        /* an answer */
        {CALL(poll)},          /* whether the daemon is there */
        {CALL(clock_gettime)}, /* where the vDSO cannot tell the time */
        {CALL(brk)},           /* free(3), once: of what made this list */
        {CALL(munmap)},        /* the same */
        {CALL(exit_group)},
};

#ifdef WPD_SANITIZER
/* What AddressSanitizer, UndefinedBehaviorSanitizer and LeakSanitizer do in a process that they watch. */
static const struct rule sanitizer_rules[] = {
        {CALL(clone)},  /* the leak checker's process */
        {CALL(ptrace)}, /* stops the threads and reads their registers */
        {CALL(wait4)},
        {CALL(kill)},
        {CALL(tgkill)},
        {CALL(getppid)},
        {CALL(prctl)},
        {CALL(prlimit64)},
        {CALL(process_vm_readv)}, /* reads memory that may not be there */
        {CALL(sigaltstack)},      /* every thread has one */
        {CALL(open)}, /* /proc/self/maps and task; the library makes the calls itself, in old forms */
        {CALL(openat)},
        {CALL(stat)},
        {CALL(lstat)},
        {CALL(access)},
        {CALL(getdents)},
        {CALL(dup)},
        {CALL(pipe)},
        {CALL(pipe2)},
        {CALL(getcwd)},
        {CALL(arch_prctl)},
        {CALL(mincore)},
};
#endif

static void release_filter(scmp_filter_ctx *filter)
{
        if (*filter)
                seccomp_release(*filter);
}

static void free_caps(cap_t *caps)
{
        if (*caps)
                cap_free(*caps);
}

static int add_rules(scmp_filter_ctx filter, const struct rule *list, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                struct scmp_arg_cmp conditions[ARRAY_SIZE(list[i].conditions)];
                int r;

                for (unsigned k = 0; k < list[i].n_conditions; k++)
                        conditions[k] = (struct scmp_arg_cmp){
                                .arg = list[i].conditions[k].argument,
                                .op = SCMP_CMP_MASKED_EQ,
                                .datum_a = list[i].conditions[k].mask,
                                .datum_b = list[i].conditions[k].value,
                        };
                r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, list[i].call, list[i].n_conditions,
                                           conditions);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* abort(3) sends SIGABRT to the calling thread, and leases signal this process; no other can be reached. */
static int add_signals(scmp_filter_ctx filter)
{
        struct scmp_arg_cmp self = SCMP_A0(SCMP_CMP_MASKED_EQ, INT_BITS, (scmp_datum_t)getpid());
        struct scmp_arg_cmp own[] = {SCMP_A1(SCMP_CMP_MASKED_EQ, INT_BITS, F_SETOWN),
                                     SCMP_A2(SCMP_CMP_MASKED_EQ, INT_BITS, (scmp_datum_t)getpid())};
        int r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, &self);

        if (r >= 0)
                r = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), ARRAY_SIZE(own), own);
        return r;
}

static int load_filter(const struct rule *list, size_t n)
{
        _cleanup_(release_filter) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
        int r;

        if (!filter)
                return -ENOMEM;
        /* Calls of the 32-bit and x32 interfaces do not exist here. */
        r = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
        /* A tree instead of a list: the ioctls of the fault service are on the way of every write that is
         * served. */
        if (r >= 0)
                r = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
        if (r >= 0)
                r = add_rules(filter, list, n);
        if (r >= 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
        if (r >= 0)
                r = add_signals(filter);
#ifdef WPD_SANITIZER
        if (r >= 0)
                r = add_rules(filter, sanitizer_rules, ARRAY_SIZE(sanitizer_rules));
        if (r >= 0 && list != rules)
                r = add_rules(filter, rules, ARRAY_SIZE(rules));
#endif
        return r < 0 ? r : seccomp_load(filter);
}

static int drop_bounding_set(uint64_t kept)
{
        /* cap_get_bound() is negative beyond the last capability of this kernel. */
        for (cap_value_t cap = 0; cap_get_bound(cap) >= 0; cap++)
                if (!(kept >> cap & 1) && cap_get_bound(cap) > 0 && cap_drop_bound(cap) < 0)
                        return -errno;
        return 0;
}

/* kept: a bit for each. */
static int drop_capabilities(uint64_t kept)
{
        _cleanup_(free_caps) cap_t caps = cap_init();
        int r;

        if (!caps)
                return -ENOMEM;
        r = drop_bounding_set(kept);
        if (r < 0)
                return r;
        for (cap_value_t cap = 0; cap <= CAP_LAST_CAP; cap++)
                if (kept >> cap & 1 && (cap_set_flag(caps, CAP_PERMITTED, 1, &cap, CAP_SET) < 0 ||
                                        cap_set_flag(caps, CAP_EFFECTIVE, 1, &cap, CAP_SET) < 0))
                        return -errno;
        if (cap_reset_ambient() < 0 || cap_set_proc(caps) < 0)
                return -errno;
        return 0;
}

/* A directory has one link for itself, one in its parent, and one for each subdirectory: here, for each
 * thread. */
static int check_single_thread(void)
{
        struct stat status;

        if (stat("/proc/self/task", &status) < 0)
                return -errno;
        return status.st_nlink > 3 ? -EBUSY : 0;
}

int sandbox_set_nice(int nice)
{
        return (int)error_from(setpriority(PRIO_PROCESS, 0, nice));
}

static int confine(uint64_t kept_caps, const struct rule *list, size_t n)
{
        int r;

        r = check_single_thread();
        if (r < 0)
                return r;
        r = drop_capabilities(kept_caps);
        if (r < 0)
                return r;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return -errno;
        return load_filter(list, n);
}

int sandbox_confine(void)
{
        uint64_t kept = lock_needs_cap ? UINT64_C(1) << CAP_IPC_LOCK : 0;

        for (size_t i = 0; i < ARRAY_SIZE(sandbox_caps); i++)
                kept |= UINT64_C(1) << sandbox_caps[i];
        for (size_t i = 0; i < ARRAY_SIZE(file_caps) && files_kept; i++)
                kept |= UINT64_C(1) << file_caps[i];
        return confine(kept, rules, ARRAY_SIZE(rules));
}

/* Raises both limits to `wanted`, or the soft one as far as the hard one allows where that needs a privilege
 * we lack. */
static int raise_limit(__rlimit_resource_t resource, rlim_t wanted)
{
        struct rlimit limit;

        if (getrlimit(resource, &limit) < 0)
                return -errno;
        if (limit.rlim_cur >= wanted)
                return 0;
        if (setrlimit(resource, &(struct rlimit){wanted, MAX(wanted, limit.rlim_max)}) >= 0)
                return 0;
        limit.rlim_cur = MIN(wanted, limit.rlim_max);
        if (setrlimit(resource, &limit) < 0)
                return -errno;
        return limit.rlim_cur < wanted ? -EPERM : 0;
}

static bool has_cap(cap_value_t cap)
{
        _cleanup_(free_caps) cap_t caps = cap_get_proc();
        cap_flag_value_t value = CAP_CLEAR;

        return caps && cap_get_flag(caps, cap, CAP_EFFECTIVE, &value) >= 0 && value == CAP_SET;
}

bool sandbox_keep_files(void)
{
        files_kept = true;
        for (size_t i = 0; i < ARRAY_SIZE(file_caps); i++)
                files_kept = files_kept && has_cap(file_caps[i]);
        return files_kept;
}

int sandbox_confine_helper(void)
{
        uint64_t kept = 0;

        for (size_t i = 0; i < ARRAY_SIZE(helper_caps); i++)
                if (has_cap(helper_caps[i]))
                        kept |= UINT64_C(1) << helper_caps[i];
        return confine(kept, helper_rules, ARRAY_SIZE(helper_rules));
}

int sandbox_lock_memory(void)
{
        int r;

        /* Fewer descriptors mean fewer clients, who are told so one by one; that is no reason not to start.
         */
        r = raise_limit(RLIMIT_NOFILE, DESCRIPTORS_WANTED);
        if (r < 0 && r != -EPERM)
                return r;
        r = raise_limit(RLIMIT_MEMLOCK, RLIM_INFINITY);
        if (r == -EPERM && has_cap(CAP_IPC_LOCK))
                lock_needs_cap = true;
        else if (r < 0)
                return r;
        return (int)error_from(mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT));
}
