//: group = "B"
//: summary = "/proc and /sys as runtimes read them: meminfo, cpuinfo, stat, uptime, loadavg, mounts, limits, sys/kernel, cpu lists"
//: link = ["static"]
#include "check.h"
#include <sys/sysinfo.h>

static long number(const char *path, const char *name) {
    const char *at = strstr(read_file(path), name);
    return at ? atol(at + strlen(name)) : -1;
}

int main(void) {
    long total = number("/proc/meminfo", "MemTotal:"), available = number("/proc/meminfo", "MemAvailable:"), unused = number("/proc/meminfo", "MemFree:");
    CHECK("meminfo", total > 0 && available > 0 && unused > 0 && available <= total && unused <= total);
    CHECK("SwapTotal, Cached, Buffers", number("/proc/meminfo", "SwapTotal:") >= 0 && number("/proc/meminfo", "Cached:") >= 0 && number("/proc/meminfo", "Buffers:") >= 0);
    struct sysinfo info;
    TRY("sysinfo", sysinfo(&info));
    CHECK("agrees with meminfo", (long)(info.totalram * info.mem_unit >> 10) == total && info.uptime >= 0 && info.procs > 0);
    CHECK("pages", sysconf(_SC_PHYS_PAGES) == total / 4 && sysconf(_SC_AVPHYS_PAGES) > 0);
    FACT("processors", "%d", sysconf(_SC_NPROCESSORS_ONLN) >= 1);
    CHECK("cpuinfo", strstr(read_file("/proc/cpuinfo"), "processor\t: 0") != NULL);
    CHECK("its flags", strstr(read_file("/proc/cpuinfo"), " sse2 ") != NULL && strstr(read_file("/proc/cpuinfo"), "model name") != NULL);
    CHECK("stat", strncmp(read_file("/proc/stat"), "cpu ", 4) == 0 && number("/proc/stat", "btime ") > 1600000000);
    double up, idle;
    CHECK("uptime", sscanf(read_file("/proc/uptime"), "%lf %lf", &up, &idle) == 2 && up > 0);
    // What tells how long the machine has been up is CLOCK_BOOTTIME, however young the machine is; with btime it makes the time of day (proc(5), sysinfo(2)).
    struct timespec boot;
    MUST(clock_gettime(CLOCK_BOOTTIME, &boot));
    double since_boot = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9;
    CHECK("uptime is CLOCK_BOOTTIME", up <= since_boot && since_boot - up < 10 && idle >= 0);
    CHECK("sysinfo's, too", info.uptime >= 1 && labs(info.uptime - (long)boot.tv_sec) < 10);
    CHECK("btime and uptime make now", labs(number("/proc/stat", "btime ") + (long)up - (long)time(NULL)) < 10);
    double started = 0;
    sscanf(strrchr(read_file("/proc/self/stat"), ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lf", &started);
    started /= (double)sysconf(_SC_CLK_TCK);
    CHECK("the start time is told in it", started <= since_boot && since_boot - started < 100);
    long jiffies[4] = { 0 };
    CHECK("jiffies", sscanf(read_file("/proc/stat"), "cpu %ld %ld %ld %ld", &jiffies[0], &jiffies[1], &jiffies[2], &jiffies[3]) == 4 && jiffies[0] + jiffies[2] + jiffies[3] > 0);
    CHECK("context switches, processes", number("/proc/stat", "ctxt ") > 0 && number("/proc/stat", "processes ") > 0);
    long faults = 0;
    sscanf(strrchr(read_file("/proc/self/stat"), ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %ld", &faults);
    CHECK("minor faults", faults > 0);
    double one;
    int running, processes;
    CHECK("loadavg", sscanf(read_file("/proc/loadavg"), "%lf %*f %*f %d/%d", &one, &running, &processes) == 3 && processes > 0);
    CHECK("version", strncmp(read_file("/proc/version"), "Linux version ", 14) == 0);
    CHECK("mounts: root first", strstr(read_file("/proc/mounts"), " / ") != NULL);
    CHECK("mounts: proc", strstr(read_file("/proc/self/mounts"), "proc /proc proc ") != NULL);
    CHECK("mountinfo", strstr(read_file("/proc/self/mountinfo"), " / / ") != NULL);
    CHECK("cgroup", strchr(read_file("/proc/self/cgroup"), ':') != NULL);
    CHECK("limits", strstr(read_file("/proc/self/limits"), "Max stack size            8388608") != NULL);
    CHECK("filesystems", strstr(read_file("/proc/filesystems"), "nodev\tproc") != NULL);
    CHECK("auxv", (read_file("/proc/self/auxv"), access("/proc/self/auxv", R_OK)) == 0);
    CHECK("oom_score_adj", strchr(read_file("/proc/self/oom_score_adj"), '\n') != NULL);

    static const char *const texts[] = { "/proc/sys/kernel/ostype" };
    for (size_t i = 0; i < LEN(texts); i++) FACT(texts[i], "%s", read_file(texts[i]));
    static const struct { const char *path; long low, high; } numbers[] = { { "/proc/sys/vm/overcommit_memory", 0, 2 }, { "/proc/sys/vm/max_map_count", 60000, 1L << 31 },
        { "/proc/sys/kernel/pid_max", 300, 1 << 22 }, { "/proc/sys/fs/file-max", 1000, LONG_MAX }, { "/proc/sys/net/core/somaxconn", 16, 1 << 20 },
        { "/proc/sys/kernel/ngroups_max", 32, 1 << 20 }, { "/proc/sys/fs/pipe-max-size", 65536, 1 << 30 }, { "/proc/sys/kernel/threads-max", 100, 1 << 30 },
        { "/proc/sys/kernel/cap_last_cap", 30, 63 }, { "/proc/sys/fs/nr_open", 1024, 1L << 31 } };
    for (size_t i = 0; i < LEN(numbers); i++) {
        char *end;
        const char *text = read_file(numbers[i].path);
        errno = 0;
        long value = strtol(text, &end, 10);
        if (value == LONG_MAX) value--;
        CHECK(numbers[i].path, value >= numbers[i].low && value <= numbers[i].high && *end == '\n');
    }
    char id[40] = "";
    snprintf(id, sizeof id, "%s", read_file("/proc/sys/kernel/random/uuid"));
    FACT("uuid", "%zu", strlen(id));
    CHECK("another one", strcmp(id, read_file("/proc/sys/kernel/random/uuid")) != 0);
    CHECK("boot_id", strlen(read_file("/proc/sys/kernel/random/boot_id")) == 37);
    char host[100];
    MUST(gethostname(host, sizeof host));
    const char *in_proc = read_file("/proc/sys/kernel/hostname");
    CHECK("hostname", strncmp(in_proc, host, strlen(host)) == 0 && in_proc[strlen(host)] == '\n');
    CHECK("cpu/online", read_file("/sys/devices/system/cpu/online")[0] == '0');
    CHECK("cpu/possible", read_file("/sys/devices/system/cpu/possible")[0] == '0');
    CHECK("net: loopback", strstr(read_file("/proc/net/dev"), "lo:") != NULL);
    TRY("/proc/net/tcp", open("/proc/net/tcp", O_RDONLY));
    TRY("/proc/no-such", open("/proc/no-such", O_RDONLY));
    TRY("/proc/99999", open("/proc/99999", O_RDONLY));
    TRY("/proc/self/no-such", open("/proc/self/no-such", O_RDONLY));
    return done();
}
