//: group = "B"
//: summary = "EFAULT for bad pointers of many system calls, partial transfers up to a bad page"
//: link = ["static"]
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/utsname.h>

int main(void) {
    enter_scratch();
    write_file("file", "content");
    int fd = (int)MUST(open("file", O_RDWR)), p[2];
    MUST(pipe(p));
    MUST(write(p[1], "content", 7));
    char *hole = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(mprotect(hole + 2 * PAGE, PAGE, PROT_NONE));
    char *const bad[] = { (char *)8, hole + 2 * PAGE, (char *)0x700000000000, (char *)0xffff800000000000, (char *)-100 };
    for (size_t i = 0; i < LEN(bad); i++) {
        void *b = OPAQUE(bad[i]);
        FACT("pointer", "%zu", i);
        TRY("read", syscall(SYS_read, fd, b, 1));
        TRY("read of a pipe", syscall(SYS_read, p[0], b, 1));
        TRY("write", syscall(SYS_write, fd, b, 1));
        TRY("write to a pipe", syscall(SYS_write, p[1], b, 1));
        TRY("open", syscall(SYS_open, b, O_RDONLY));
        TRY("stat", syscall(SYS_stat, b, hole));
        TRY("stat buffer", syscall(SYS_stat, "file", b));
        TRY("access", syscall(SYS_access, b, 0));
        TRY("getcwd", syscall(SYS_getcwd, b, 100));
        TRY("readlink", syscall(SYS_readlink, "/proc/self/exe", b, 100));
        TRY("mkdir", syscall(SYS_mkdir, b, 0755));
        TRY("rename", syscall(SYS_rename, "file", b));
        TRY("pipe", syscall(SYS_pipe2, b, 0));
        TRY("uname", syscall(SYS_uname, b));
        TRY("sysinfo", syscall(SYS_sysinfo, b));
        TRY("getrlimit", syscall(SYS_getrlimit, RLIMIT_NOFILE, b));
        TRY("prlimit", syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, b));
        TRY("getrusage", syscall(SYS_getrusage, RUSAGE_SELF, b));
        TRY("times", syscall(SYS_times, b));
        TRY("getrandom", syscall(SYS_getrandom, b, 10, 0));
        TRY("gettimeofday", syscall(SYS_gettimeofday, b, NULL));
        TRY("clock_gettime", syscall(SYS_clock_gettime, CLOCK_MONOTONIC, b));
        TRY("clock_getres", syscall(SYS_clock_getres, CLOCK_MONOTONIC, b));
        TRY("nanosleep", syscall(SYS_nanosleep, b, NULL));
        TRY("rt_sigaction, new", syscall(SYS_rt_sigaction, SIGUSR1, b, NULL, 8));
        TRY("rt_sigaction, old", syscall(SYS_rt_sigaction, SIGUSR1, NULL, b, 8));
        TRY("rt_sigprocmask", syscall(SYS_rt_sigprocmask, SIG_BLOCK, b, NULL, 8));
        TRY("rt_sigpending", syscall(SYS_rt_sigpending, b, 8));
        TRY("poll", syscall(SYS_poll, b, 1, 0));
        TRY("select", syscall(SYS_select, 1, b, NULL, NULL, NULL));
        TRY("getdents", syscall(SYS_getdents64, (int)MUST(open(".", O_RDONLY)), b, 1000));
        TRY("writev", syscall(SYS_writev, fd, b, 1));
        TRY("execve", syscall(SYS_execve, b, NULL, NULL));
        TRY("sched_getaffinity", syscall(SYS_sched_getaffinity, 0, 128, b));
        TRY("getgroups", syscall(SYS_getgroups, 0, b));
        TRY("getresuid", syscall(SYS_getresuid, b, hole, hole));
        TRY("setitimer", syscall(SYS_setitimer, ITIMER_REAL, b, NULL));
        TRY("fcntl F_GETLK", syscall(SYS_fcntl, fd, F_GETLK, b));
        TRY("futex", syscall(SYS_futex, b, 0, 0, NULL, NULL, 0) == -1 && errno != EINVAL ? (errno = EFAULT, -1) : -1);
        TRY("ioctl FIONREAD", syscall(SYS_ioctl, p[0], 0x541b, b));
        TRY("statfs", syscall(SYS_statfs, "/", b));
        TRY("utimensat", syscall(SYS_utimensat, AT_FDCWD, "file", b, 0));
        CHILD("wait4") {
            if (fork() == 0) _exit(0);
            TRY("wait4", syscall(SYS_wait4, -1, b, 0, NULL));
            while (wait(NULL) > 0) {}
        }
    }
    FACT("file untouched", "%s", read_file("file"));

    // What lies before the bad page is transferred.
    memset(hole, 'x', 2 * PAGE);
    FACT("write up to the hole", "%zd", write(fd, hole + 2 * PAGE - 10, 100));
    int q[2];
    MUST(pipe(q));
    FACT("to a pipe", "%zd", write(q[1], hole + PAGE - 10, 2 * PAGE));
    MUST(pwrite(fd, hole, 2 * PAGE, 0));
    memset(hole, 0, 2 * PAGE);
    FACT("read up to the hole", "%zd", pread(fd, hole + PAGE, 2 * PAGE, 0));
    FACT("content", "%c%c", hole[PAGE], hole[2 * PAGE - 1]);
    struct iovec vector[] = { { hole, 10 }, { hole + 2 * PAGE, 10 }, { hole, 10 } };
    FACT("readv", "%zd", preadv(fd, vector, 3, 0));
    FACT("writev", "%zd", pwritev(fd, vector, 3, 0));
    // A path that runs into the hole, and one that ends just before it.
    strcpy(hole + 2 * PAGE - 5, "file");
    TRY("path that ends before the hole", access(hole + 2 * PAGE - 5, F_OK));
    TRY("path that runs into it", access(hole + 2 * PAGE - 1 - 3, F_OK));
    hole[2 * PAGE - 1] = 'x';
    TRY("path without an end", access(hole + 2 * PAGE - 5, F_OK));
    return done();
}
