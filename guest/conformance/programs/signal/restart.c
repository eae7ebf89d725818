//: group = "B"
//: summary = "EINTR and SA_RESTART: read, wait, nanosleep, pause, poll, select, sigsuspend; what a timer interrupts"
//: link = ["static", "dynamic"]
#include "check.h"
#include <poll.h>
#include <sys/select.h>
#include <sys/time.h>

static volatile int count;
static int gate[2];
static void tick(int number) { count++; }

// Lets the fourth tick end a call that was restarted.
static void tick_and_write(int number) {
    if (++count == 4) write(gate[1], "x", 1);
}

static void every(int ms) {
    struct itimerval timer = { { 0, ms * 1000 }, { 0, ms * 1000 } };
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
}

#define INTERRUPTED(name, call)                                      \
    do {                                                             \
        count = 0;                                                   \
        every(10);                                                   \
        long result = (long)(call);                                  \
        int error = errno;                                           \
        every(0);                                                    \
        FACT(name, "%ld %s %s", result, result == -1 ? errno_name(error) : "-", count > 0 ? "after ticks" : "no tick"); \
    } while (0)

int main(void) {
    MUST(pipe(gate));
    char c;
    int status;
    struct pollfd poll_in = { .fd = gate[0], .events = POLLIN };
    fd_set in;

    handle(SIGALRM, tick, 0);
    INTERRUPTED("read", read(gate[0], &c, 1));
    INTERRUPTED("pause", pause());
    INTERRUPTED("poll", poll(&poll_in, 1, 10000));
    FD_ZERO(&in);
    FD_SET(gate[0], &in);
    INTERRUPTED("select", select(gate[0] + 1, &in, NULL, NULL, NULL));
    struct timespec left = { 0 };
    INTERRUPTED("nanosleep", nanosleep(&(struct timespec){ 30, 0 }, &left));
    CHECK("what is left", left.tv_sec == 29 || (left.tv_sec == 30 && left.tv_nsec == 0));
    INTERRUPTED("clock_nanosleep absolute", -!!clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &(struct timespec){ time(NULL) + 30, 0 }, NULL) * (errno = EINTR, 1));
    FACT("sleep", "%u", ({ every(0), alarm(1); sleep(30) >= 28; }));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        pause();
        _exit(0);
    }
    INTERRUPTED("waitpid", waitpid(pid, &status, 0));
    sigset_t none, set;
    sigemptyset(&none), sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    INTERRUPTED("sigsuspend", sigsuspend(&none));
    INTERRUPTED("sigwaitinfo", sigwaitinfo(&set, NULL));

    handle(SIGALRM, tick_and_write, SA_RESTART);
    INTERRUPTED("read, restarted", read(gate[0], &c, 1));
    INTERRUPTED("poll is never restarted", poll(&poll_in, 1, 10000));
    INTERRUPTED("pause is never restarted", pause());
    FD_ZERO(&in);
    FD_SET(gate[0], &in);
    INTERRUPTED("select is never restarted", select(gate[0] + 1, &in, NULL, NULL, NULL));
    INTERRUPTED("nanosleep is never restarted", nanosleep(&(struct timespec){ 30, 0 }, NULL));
    every(10);
    pid_t other = (pid_t)MUST(fork());
    if (other == 0) {
        sleep_ms(60);
        _exit(3);
    }
    CHECK("waitpid, restarted", waitpid(other, &status, 0) == other && WEXITSTATUS(status) == 3 && count > 1);
    every(0);
    MUST(kill(pid, SIGKILL));
    reap("the one that paused", pid);

    // A signal whose action is to be ignored interrupts nothing.
    handle(SIGUSR1, SIG_IGN, 0);
    pid_t parent = getpid();
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        for (int i = 0; i < 5; i++) kill(parent, SIGUSR1), sleep_ms(2);
        write(gate[1], "y", 1);
        _exit(0);
    }
    while (read(gate[0], &c, 1) == 1 && c != 'y') {}
    FACT("ignored signals", "%c", c);
    reap("sender", pid);

    // A full pipe: what was written before the signal counts.
    handle(SIGALRM, tick, 0);
    int full[2];
    MUST(pipe(full));
    static char big[1 << 20];
    count = 0;
    every(10);
    ssize_t wrote = write(full[1], big, sizeof big);
    every(0);
    FACT("partial write", "%zd", wrote);
    every(10);
    wrote = write(full[1], big, 1);
    int error = errno;
    every(0);
    FACT("nothing written", "%zd %s", wrote, errno_name(error));
    return done();
}
