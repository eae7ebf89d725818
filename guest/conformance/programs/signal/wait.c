//: group = "B"
//: summary = "sigsuspend, sigwait, sigtimedwait, SIGCHLD with siginfo, pselect and ppoll with a mask"
//: link = ["static"]
#include "check.h"
#include <poll.h>
#include <sys/select.h>

static volatile int got;
static siginfo_t last;
static void on_signal(int number) { got++; }
static void on_chld(int number, siginfo_t *info, void *context) { last = *info, got++; }

static void later(int ms, int number) {
    pid_t parent = getpid();
    if (MUST(fork()) != 0) return;
    sleep_ms(ms);
    kill(parent, number);
    _exit(0);
}

static void collect(void) {
    while (wait(NULL) > 0) {}
}

int main(void) {
    sigset_t set, none, old;
    sigemptyset(&set), sigemptyset(&none);
    sigaddset(&set, SIGUSR1), sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &old);
    handle(SIGUSR1, on_signal, 0);

    raise(SIGUSR1);
    TRY("sigsuspend, pending already", sigsuspend(&none));
    FACT("handled", "%d", got);
    later(20, SIGUSR1);
    TRY("sigsuspend, later", sigsuspend(&none));
    FACT("handled", "%d", got);
    sigset_t now;
    sigprocmask(SIG_SETMASK, NULL, &now);
    FACT("blocked again", "%d", sigismember(&now, SIGUSR1));
    collect();

    siginfo_t info;
    raise(SIGUSR2);
    FACT("sigwaitinfo, pending already", "%s", signal_name(sigwaitinfo(&set, &info)));
    FACT("info", "%s %d", signal_name(info.si_signo), info.si_code == SI_TKILL);
    later(20, SIGUSR2);
    int number = 0;
    FACT("sigwait", "%d", sigwait(&set, &number));
    FACT("signal", "%s", signal_name(number));
    collect();
    int64_t start = now_ns();
    TRY("sigtimedwait, nothing comes", sigtimedwait(&set, &info, &(struct timespec){ 0, 30000000 }));
    CHECK("waited", now_ns() - start >= 30000000);
    TRY("sigtimedwait, no time", sigtimedwait(&set, &info, &(struct timespec){ 0 }));
    TRY("sigtimedwait, bad time", sigtimedwait(&set, &info, &(struct timespec){ 0, 2000000000 }));
    FACT("handlers ran for none of these", "%d", got);

    handle_info(SIGCHLD, on_chld, 0);
    got = 0;
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(23);
    while (!got) sleep_ms(1);
    FACT("SIGCHLD", "%d %d %d", last.si_code == CLD_EXITED, last.si_status, last.si_pid == pid);
    reap("child", pid);
    got = 0;
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        raise(SIGKILL);
        _exit(0);
    }
    while (!got) sleep_ms(1);
    FACT("SIGCHLD", "%d %s", last.si_code == CLD_KILLED, signal_name(last.si_status));
    reap("child", pid);
    // Several children, one handler that waits for all: none is lost.
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, NULL);
    got = 0;
    for (int i = 0; i < 10; i++)
        if (MUST(fork()) == 0) _exit(i);
    int ended = 0, sum = 0, status;
    while (ended < 10) {
        sigsuspend(&none);
        while (waitpid(-1, &status, WNOHANG) > 0) ended++, sum += WEXITSTATUS(status);
    }
    FACT("ten children", "%d %d", ended, sum);
    CHECK("one signal may stand for several", got >= 1 && got <= 10);
    handle(SIGCHLD, SIG_DFL, 0);

    int p[2];
    MUST(pipe(p));
    struct pollfd wait_for = { .fd = p[0], .events = POLLIN };
    raise(SIGUSR1);
    got = 0;
    TRY("ppoll lets it in", ppoll(&wait_for, 1, &(struct timespec){ 10, 0 }, &none));
    FACT("handled", "%d", got);
    raise(SIGUSR1);
    fd_set in;
    FD_ZERO(&in);
    FD_SET(p[0], &in);
    TRY("pselect lets it in", pselect(p[0] + 1, &in, NULL, NULL, &(struct timespec){ 10, 0 }, &none));
    FACT("handled", "%d", got);
    raise(SIGUSR1);
    FACT("ppoll without a mask", "%d", ppoll(&wait_for, 1, &(struct timespec){ 0, 10000000 }, NULL));
    FACT("not handled", "%d", got);
    MUST(write(p[1], "x", 1));
    FACT("ppoll, both ready", "%d", ppoll(&wait_for, 1, NULL, &none));
    FACT("handled", "%d", got);
    return done();
}
