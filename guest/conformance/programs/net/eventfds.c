//: group = "F"
//: summary = "eventfd, timerfd, signalfd, pidfd: read, write, poll, overflow, cancel, errors"
//: link = ["static"]
#include "net.h"
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static void read64(const char *name, int fd) {
    uint64_t value = 0;
    ssize_t got = read(fd, &value, sizeof value);
    if (got == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%zd %lu", got, (unsigned long)value);
}

int main(void) {
    int fd = (int)TRY("eventfd", eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC));
    FACT("ready", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    read64("read", fd);
    read64("empty", fd);
    FACT("ready", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    uint64_t value = 5;
    MUST(write(fd, &value, 8)), MUST(write(fd, &value, 8));
    read64("sum", fd);
    value = UINT64_MAX - 1;
    MUST(write(fd, &value, 8));
    value = 1;
    TRY("overflow", write(fd, &value, 8));
    FACT("not writable", "%s", poll_events(fd, POLLIN | POLLOUT, 0));
    value = UINT64_MAX;
    TRY("too big", write(fd, &value, 8));
    TRY("short", write(fd, &value, 4));
    TRY("short read", read(fd, &value, 4));
    fd = (int)MUST(eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK));
    read64("semaphore", fd), read64("semaphore", fd), read64("semaphore", fd);
    TRY("bad flags", eventfd(0, 0x7));
    fd = (int)MUST(eventfd(0, 0));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(20);
        value = 42;
        write(fd, &value, 8);
        _exit(0);
    }
    read64("from a child", fd);
    reap("it", pid);

    int timer = (int)TRY("timerfd", timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    read64("not armed", timer);
    struct itimerspec spec = { .it_value = { 0, 20000000 }, .it_interval = { 0, 10000000 } }, left;
    TRY("settime", timerfd_settime(timer, 0, &spec, NULL));
    FACT("not yet", "%s", poll_events(timer, POLLIN, 0));
    FACT("then", "%s", poll_events(timer, POLLIN, 1000));
    sleep_ms(50);
    uint64_t ticks = 0;
    FACT("read", "%zd", read(timer, &ticks, 8));
    CHECK("several ticks", ticks >= 4 && ticks < 500);
    MUST(timerfd_gettime(timer, &left));
    FACT("interval", "%ld", left.it_interval.tv_nsec);
    memset(&spec, 0, sizeof spec);
    TRY("disarm", timerfd_settime(timer, 0, &spec, &left));
    MUST(timerfd_gettime(timer, &left));
    FACT("disarmed", "%ld", left.it_value.tv_nsec);
    MUST(clock_gettime(CLOCK_MONOTONIC, &spec.it_value));
    TRY("absolute, past", timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL));
    poll_events(timer, POLLIN, 1000);
    read64("one tick", timer);
    TRY("bad clock", timerfd_create(99, 0));
    TRY("bad flags", timerfd_create(CLOCK_REALTIME, 1));
    spec.it_value = (struct timespec){ 0, 1000000000 };
    TRY("bad time", timerfd_settime(timer, 0, &spec, NULL));
    TRY("settime of another kind", timerfd_settime(fd, 0, &spec, NULL));

    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1), sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = (int)TRY("signalfd", signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    struct signalfd_siginfo info;
    TRY("nothing", read(signals, &info, sizeof info));
    raise(SIGUSR1);
    FACT("ready", "%s", poll_events(signals, POLLIN, 0));
    FACT("read", "%zd", read(signals, &info, sizeof info));
    FACT("info", "%s %d", signal_name((int)info.ssi_signo), info.ssi_pid == (uint32_t)getpid());
    pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(9);
    poll_events(signals, POLLIN, 2000);
    MUST(read(signals, &info, sizeof info));
    FACT("SIGCHLD", "%s %d %d %d", signal_name((int)info.ssi_signo), info.ssi_status, info.ssi_code == CLD_EXITED, info.ssi_pid == (uint32_t)pid);
    reap("child", pid);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    TRY("change the set", signalfd(signals, &set, 0));
    TRY("short", read(signals, &info, 10));
    TRY("of another kind", signalfd(fd, &set, 0));

    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        pause();
        _exit(0);
    }
    int process = (int)TRY("pidfd_open", pidfd_open(pid, 0));
    FACT("runs", "%s", poll_events(process, POLLIN, 0));
    TRY("pidfd_send_signal", pidfd_send_signal(process, SIGTERM, NULL, 0));
    FACT("ended", "%s", poll_events(process, POLLIN, 2000));
    siginfo_t ended;
    TRY("waitid P_PIDFD", waitid(P_PIDFD, (id_t)process, &ended, WEXITED));
    FACT("status", "%d %s", ended.si_code == CLD_KILLED, signal_name(ended.si_status));
    TRY("signal to a dead one", pidfd_send_signal(process, 0, NULL, 0));
    TRY("pidfd_open of nobody", pidfd_open(99999, 0));
    return done();
}
