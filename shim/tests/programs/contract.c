/* What docs/snapshots.md says of a restore, item by item: state is set up, a snapshot is taken, and then each item is told, one `name=value` a line, in the guest that goes on and in
 * every clone; with an argument, no more than takes no time. Which of them must be equal and which must differ is the test's business (shim/tests/contract.rs). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/timerfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(what) ({ long got = (long)(what); if (got == -1) { printf("failed=%s: %s\n", #what, strerror(errno)); exit(1); } got; })

static char text[1 << 16];

static const char *file(const char *path) {
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[got < 0 ? 0 : got] = 0;
    text[strcspn(text, "\n")] = 0;
    return got < 0 ? "(none)" : text;
}

static double clock_s(clockid_t clock) {
    struct timespec at;
    clock_gettime(clock, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void hex(const char *name, const void *bytes, int count) {
    printf("%s=", name);
    for (int i = 0; i < count; i++) printf("%02x", ((const unsigned char *)bytes)[i]);
    printf("\n");
}

static long btime(void) {
    int fd = open("/proc/stat", O_RDONLY);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got < 0 ? 0 : got] = 0;
    const char *at = strstr(text, "btime ");
    return at ? atol(at + 6) : -1;
}

static double started(void) {
    double ticks = -1;
    file("/proc/self/stat");
    sscanf(strrchr(text, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lf", &ticks);
    return ticks;
}

static int listener(struct sockaddr_in *at) {
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    *at = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(8099) };
    MUST(bind(fd, (struct sockaddr *)at, sizeof *at));
    MUST(listen(fd, 5));
    return fd;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && strcmp(argv[1], "later") == 0) {
        char local;
        printf("later_layout=%p\n", (void *)&local);
        hex("later_at_random", (void *)getauxval(AT_RANDOM), 16);
        return 0;
    }
    MUST(mkdir("/tmp/here", 0755));
    MUST(chdir("/tmp/here"));
    umask(027);
    tzset();
    /* Another array of the same strings. */
    setenv("LATER", "1", 1);
    char first_boot_id[64];
    snprintf(first_boot_id, sizeof first_boot_id, "%s", file("/proc/sys/kernel/random/boot_id"));
    /* Read before and after: what is drawn ahead must not be kept. */
    unsigned char drawn[16];
    MUST(getrandom(drawn, sizeof drawn, 0));
    int urandom = (int)MUST(open("/dev/urandom", O_RDONLY));
    MUST(read(urandom, drawn, sizeof drawn));
    int data = (int)MUST(open("/data", O_RDONLY));
    MUST(lseek(data, 5, SEEK_SET));
    int resolver = (int)MUST(open("/etc/resolv.conf", O_RDONLY));
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(write(pair[0], "under way", 9));

    struct sockaddr_in at;
    int listening = listener(&at);
    int client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&at, sizeof at));
    int served = (int)MUST(accept(listening, NULL, NULL));
    MUST(write(client, "x", 1));
    char byte;
    MUST(read(served, &byte, 1));
    int timer = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec soon = { { 0, 0 }, { 0, 500 * 1000000 } };
    MUST(timerfd_settime(timer, 0, &soon, NULL));
    int many = (int)MUST(epoll_create1(0));
    struct epoll_event event = { .events = EPOLLIN, .data.u32 = 1 };
    MUST(epoll_ctl(many, EPOLL_CTL_ADD, listening, &event));
    event.data.u32 = 2;
    MUST(epoll_ctl(many, EPOLL_CTL_ADD, timer, &event));
    int watching = (int)MUST(inotify_init1(IN_NONBLOCK));
    MUST(inotify_add_watch(watching, "/tmp/here", IN_CREATE));
    int device = (int)MUST(open("/dev/seuss", O_RDWR));
    char told[256] = { 0 };
    MUST(read(device, told, sizeof told));
    pid_t child = (pid_t)MUST(fork());
    if (child == 0) {
        /* A process that does nothing but hold its environment. */
        pause();
        _exit(0);
    }
    double monotonic = clock_s(CLOCK_MONOTONIC), realtime = clock_s(CLOCK_REALTIME), boottime = clock_s(CLOCK_BOOTTIME), began = started();
    MUST(write(device, "snapshot function contract", 26));

    memset(told, 0, sizeof told);
    int fresh = (int)MUST(open("/dev/seuss", O_RDONLY));
    MUST(read(fresh, told, sizeof told));
    printf("generation=%ld\n", atol(told + 11));
    printf("id=%.32s\n", strstr(told, "id ") + 3);
    printf("told=%d\n", poll(&(struct pollfd){ device, POLLIN, 0 }, 1, 0));
    printf("passed_monotonic=%.3f\npassed_realtime=%.3f\npassed_boottime=%.3f\n", clock_s(CLOCK_MONOTONIC) - monotonic, clock_s(CLOCK_REALTIME) - realtime,
        clock_s(CLOCK_BOOTTIME) - boottime);
    double up = atof(file("/proc/uptime"));
    struct sysinfo info;
    sysinfo(&info);
    printf("uptime_is_boottime=%d\n", clock_s(CLOCK_BOOTTIME) - up < 5 && up > 0 && (double)info.uptime >= up && (double)info.uptime < up + 5);
    printf("started_is_kept=%d\n", started() == began);
    printf("btime=%ld\n", btime());
    printf("btime_and_uptime_are_now=%d\n", labs(btime() + (long)up - (long)time(NULL)) < 5);
    printf("age=%.2f\n", clock_s(CLOCK_BOOTTIME) - started() / 100);

    printf("boot_id=%s\n", file("/proc/sys/kernel/random/boot_id"));
    printf("boot_id_changed=%d\n", strcmp(first_boot_id, text) != 0);
    printf("machine_id=%s\n", file("/etc/machine-id"));
    printf("uuid=%s\n", file("/proc/sys/kernel/random/uuid"));
    MUST(getrandom(drawn, sizeof drawn, 0));
    hex("getrandom", drawn, sizeof drawn);
    MUST(read(urandom, drawn, sizeof drawn));
    hex("urandom", drawn, sizeof drawn);
    hex("at_random", (void *)getauxval(AT_RANDOM), 16);
    unsigned long canary;
    __asm__("mov %%fs:0x28, %0" : "=r"(canary));
    hex("stack_guard", &canary, sizeof canary);
    char local;
    printf("layout=%p %p\n", (void *)&local, (void *)file);

    printf("pids=%d %d %d %d\n", getpid(), getppid(), child, getsid(0));
    struct utsname name;
    uname(&name);
    printf("hostname=%s\n", name.nodename);
    printf("hostname_in_proc=%s\n", file("/proc/sys/kernel/hostname"));
    printf("env_hostname=%s\nenv_pod=%s\nenv_other=%s\n", getenv("HOSTNAME"), getenv("POD_NAME"), getenv("OTHER"));
    snprintf(told, sizeof told, "/proc/%d/environ", child);
    int environment = (int)MUST(open(told, O_RDONLY));
    ssize_t got = MUST(read(environment, text, sizeof text - 1));
    text[got] = 0;
    const char *pod = "(none)";
    int empty = 0;
    for (char *entry = text; entry < text + got; entry += strlen(entry) + 1) {
        if (strncmp(entry, "POD_NAME=", 9) == 0) pod = entry + 9;
        empty += *entry == 0;
    }
    printf("child_pod=%s\nempty_entries=%d\n", pod, empty);
    printf("locale=%s %s %ld\n", getenv("LANG"), getenv("TZ"), timezone);
    char *where = getcwd(NULL, 0);
    mode_t mask = umask(0);
    printf("place=%s %o\n", where, mask);
    printf("processors=%ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    printf("memory=%lu\n", info.totalram);
    printf("memory_max=%s\n", file("/sys/fs/cgroup/memory.max"));
    memset(text, 0, 16);
    MUST(read(data, text, 5));
    printf("file=%.5s\n", text);
    memset(text, 0, 16);
    MUST(read(pair[1], text, 9));
    printf("unix=%s\n", text);
    printf("resolv=%s\n", file("/etc/resolv.conf"));
    memset(text, 0, 16);
    MUST(pread(resolver, text, 8, 0));
    printf("resolv_open=%s\n", text);

    /* What is not over at once. */
    if (argc == 1) {
        MUST(fcntl(served, F_SETFL, O_NONBLOCK));
        printf("connection=%s\n", read(served, &byte, 1) < 0 ? strerrorname_np(errno) : "alive");
        socklen_t len = sizeof at;
        MUST(getsockname(listening, (struct sockaddr *)&at, &len));
        printf("listens=%d\n", ntohs(at.sin_port));
        int other = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(other, (struct sockaddr *)&at, sizeof at));
        struct epoll_event events[4];
        int ready = 0;
        for (int tries = 0; ready != 3 && tries < 500; tries++) {
            usleep(20000);
            int count = (int)MUST(epoll_wait(many, events, 4, 2000));
            for (int i = 0; i < count; i++) ready |= (int)events[i].data.u32;
        }
        printf("epoll=%d\n", ready);
        served = (int)MUST(accept(listening, NULL, NULL));
        MUST(write(other, "hello", 5));
        memset(text, 0, 16);
        MUST(read(served, text, 5));
        printf("new_connection=%s\n", text);
        MUST(close((int)MUST(open("made", O_CREAT | O_WRONLY, 0600))));
        printf("inotify=%s\n", inotify_add_watch(watching, "/tmp", IN_CREATE) > 0 ? "works" : strerrorname_np(errno));
    }
    /* What starts now has addresses of its own. */
    MUST(kill(child, SIGKILL));
    MUST(execl("/proc/self/exe", argv[0], "later", NULL));
}
