//: group = "A"
//: summary = "nanosleep, clock_nanosleep absolute and relative, usleep; several sleepers wake in order"
//: link = ["static"]
#include "check.h"

static bool took(int64_t start, int64_t least_ms) {
    int64_t ms = (now_ns() - start) / 1000000;
    return ms >= least_ms && ms < least_ms + 1500;
}

int main(void) {
    int64_t start = now_ns();
    TRY("nanosleep", nanosleep(&(struct timespec){ 0, 50000000 }, NULL));
    CHECK("50 ms", took(start, 50));
    start = now_ns();
    TRY("no time", nanosleep(&(struct timespec){ 0, 0 }, NULL));
    TRY("1 ns", nanosleep(&(struct timespec){ 0, 1 }, NULL));
    for (int i = 0; i < 50; i++) MUST(nanosleep(&(struct timespec){ 0, 1000000 }, NULL));
    CHECK("fifty of 1 ms", took(start, 50));
    FACT("bad nanoseconds", "%d", ({ int r = nanosleep(&(struct timespec){ 0, 1000000000 }, NULL); r ? errno == EINVAL : 0; }));
    FACT("negative", "%d", ({ int r = nanosleep(&(struct timespec){ -1, 0 }, NULL); r ? errno == EINVAL : 0; }));
    TRY("bad address", nanosleep(OPAQUE((struct timespec *)8), NULL));

    static const clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME };
    for (size_t i = 0; i < LEN(clocks); i++) {
        struct timespec until;
        start = now_ns();
        FACT("clock_nanosleep", "%d", clock_nanosleep(clocks[i], 0, &(struct timespec){ 0, 20000000 }, NULL));
        CHECK("relative", took(start, 20));
        clock_gettime(clocks[i], &until);
        start = now_ns();
        until.tv_nsec += 30000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        FACT("absolute", "%d", clock_nanosleep(clocks[i], TIMER_ABSTIME, &until, NULL));
        CHECK("30 ms", took(start, 29));
        start = now_ns();
        FACT("in the past", "%d", clock_nanosleep(clocks[i], TIMER_ABSTIME, &until, NULL));
        CHECK("at once", took(start, 0));
    }
    FACT("unknown clock", "%s", errno_name(clock_nanosleep(77, 0, &(struct timespec){ 0, 1 }, NULL)));
    FACT("thread clock", "%s", errno_name(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &(struct timespec){ 0, 1 }, NULL)));
    start = now_ns();
    usleep(20000);
    CHECK("usleep", took(start, 20));

    // Who sleeps shorter wakes earlier, whoever started first.
    int p[2];
    MUST(pipe(p));
    static const int order[] = { 3, 1, 4, 0, 2 };
    for (size_t i = 0; i < LEN(order); i++)
        if (MUST(fork()) == 0) {
            sleep_ms(100 + 80 * order[i]);
            char c = (char)('0' + order[i]);
            write(p[1], &c, 1);
            _exit(0);
        }
    while (wait(NULL) > 0) {}
    char text[8] = "";
    MUST(read(p[0], text, 5));
    FACT("woken in order", "%s", text);
    // A sleeper wakes on time while others are busy.
    pid_t busy = (pid_t)MUST(fork());
    if (busy == 0)
        for (;;) __asm__ volatile("");
    start = now_ns();
    sleep_ms(50);
    CHECK("beside a busy process", took(start, 50));
    MUST(kill(busy, SIGKILL));
    reap("it", busy);
    return done();
}
