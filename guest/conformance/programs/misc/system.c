//: group = "A"
//: summary = "uname, getrandom, prlimit, sysinfo, sysconf, getcpu, membarrier, syslog-like odds and ends"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname name;
    TRY("uname", uname(&name));
    FACT("sysname, machine", "%s %s", name.sysname, name.machine);
    int major = 0, minor = 0;
    CHECK("release", sscanf(name.release, "%d.%d", &major, &minor) == 2 && major >= 4);
    CHECK("nodename", name.nodename[0] != 0 && strlen(name.version) > 0);
    char host[100];
    CHECK("gethostname", gethostname(host, sizeof host) == 0 && strcmp(host, name.nodename) == 0);
    CHILD("sethostname") {
        MUST(sethostname("other", 5));
        MUST(uname(&name));
        _exit(strcmp(name.nodename, "other") != 0);
    }

    unsigned char a[64] = { 0 }, b[64] = { 0 };
    FACT("getrandom", "%zd %zd", getrandom(a, sizeof a, 0), getrandom(b, sizeof b, GRND_NONBLOCK));
    CHECK("differ", memcmp(a, b, sizeof a) != 0);
    FACT("GRND_RANDOM", "%zd", getrandom(a, 16, GRND_RANDOM));
    static unsigned char big[1 << 20];
    FACT("a mebibyte", "%zd", getrandom(big, sizeof big, 0));
    size_t ones = 0;
    for (size_t i = 0; i < sizeof big; i++) ones += (size_t)__builtin_popcount(big[i]);
    CHECK("half of the bits", ones > 4100000 && ones < 4290000);
    TRY("bad flags", getrandom(a, 1, 0x80));
    CHILD("a child gets other bytes") {
        int p[2];
        MUST(pipe(p));
        if (fork() == 0) {
            getrandom(a, sizeof a, 0);
            write(p[1], a, sizeof a);
            _exit(0);
        }
        getrandom(b, sizeof b, 0);
        read(p[0], a, sizeof a);
        _exit(memcmp(a, b, sizeof a) == 0);
    }

    struct rlimit limit;
    MUST(getrlimit(RLIMIT_STACK, &limit));
    FACT("stack", "%lu", (unsigned long)limit.rlim_cur);
    static const int kinds[] = { RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_RSS, RLIMIT_AS, RLIMIT_LOCKS };
    for (size_t i = 0; i < LEN(kinds); i++) {
        MUST(getrlimit(kinds[i], &limit));
        FACT("unlimited", "%d %d", kinds[i], limit.rlim_cur == RLIM_INFINITY);
    }
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    CHECK("descriptors", limit.rlim_cur >= 1024 && limit.rlim_cur <= limit.rlim_max);
    CHECK("sysconf agrees", sysconf(_SC_OPEN_MAX) == (long)limit.rlim_cur);
    struct rlimit lower = { 100, limit.rlim_max }, old;
    TRY("prlimit", prlimit(0, RLIMIT_NOFILE, &lower, &old));
    CHECK("old value", old.rlim_cur == limit.rlim_cur);
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    FACT("new value", "%lu", (unsigned long)limit.rlim_cur);
    CHILD("inherited") {
        MUST(getrlimit(RLIMIT_NOFILE, &limit));
        _exit(limit.rlim_cur == 100 ? 0 : 1);
    }
    lower = (struct rlimit){ 200, 100 };
    TRY("soft above hard", setrlimit(RLIMIT_NOFILE, &lower));
    TRY("unknown kind", getrlimit(77, &limit));
    TRY("prlimit of nobody", prlimit(99999, RLIMIT_NOFILE, NULL, &limit));
    CHILD("file size limit") {
        lower = (struct rlimit){ 1000, 1000 };
        MUST(setrlimit(RLIMIT_FSIZE, &lower));
        handle(SIGXFSZ, SIG_IGN, 0);
        int fd = (int)MUST(open("/tmp/limited", O_CREAT | O_WRONLY, 0600));
        FACT("partial", "%zd", write(fd, big, 2000));
        TRY("beyond", write(fd, big, 1));
    }
    CHILD("SIGXFSZ") {
        lower = (struct rlimit){ 1000, 1000 };
        MUST(setrlimit(RLIMIT_FSIZE, &lower));
        MUST(ftruncate((int)MUST(open("/tmp/limited", O_CREAT | O_WRONLY, 0600)), 1001));
    }
    CHILD("CPU limit: SIGXCPU") {
        lower = (struct rlimit){ 1, 2 };
        MUST(setrlimit(RLIMIT_CPU, &lower));
        for (;;) __asm__ volatile("");
    }

    FACT("page size, clock ticks", "%ld %ld", sysconf(_SC_PAGESIZE), sysconf(_SC_CLK_TCK));
    FACT("ARG_MAX, NGROUPS_MAX, IOV_MAX", "%ld %ld %ld", sysconf(_SC_ARG_MAX), sysconf(_SC_NGROUPS_MAX), sysconf(_SC_IOV_MAX));
    struct sysinfo info;
    TRY("sysinfo", sysinfo(&info));
    CHECK("its fields", info.totalram > 0 && info.freeram <= info.totalram && info.mem_unit > 0 && info.procs > 0);
    long commands = syscall(SYS_membarrier, 0, 0, 0);
    CHECK("membarrier", commands == -1 || (commands & 1));
    TRY("sync", (sync(), 0));
    TRY("umask", umask(022));
    TRY("reboot, bad magic", syscall(SYS_reboot, 0, 0, 0, NULL));
    return done();
}
