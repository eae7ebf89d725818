//: group = "B"
//: summary = "alarm, setitimer real and virtual, timer_create, their order and what is left"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/time.h>

static volatile int alarms, virtuals, profs, queued, overrun;
static void on_alarm(int number) { alarms++; }
static void on_virtual(int number) { virtuals++; }
static void on_prof(int number) { profs++; }
static void on_timer(int number, siginfo_t *info, void *context) {
    queued = info->si_value.sival_int + (info->si_code == SI_TIMER ? 1000 : 0);
    overrun++;
}

static void burn(long ms) {
    int64_t end = now_ns() + ms * 1000000;
    while (now_ns() < end) {}
}

int main(void) {
    handle(SIGALRM, on_alarm, 0), handle(SIGVTALRM, on_virtual, 0), handle(SIGPROF, on_prof, 0);
    FACT("alarm, none before", "%u", alarm(100));
    FACT("alarm(0) gives what was left", "%u", alarm(0));
    FACT("alarm(0) again", "%u", alarm(0));
    int64_t start = now_ns();
    alarm(1);
    pause();
    int64_t took = (now_ns() - start) / 1000000;
    CHECK("after one second", took >= 990 && took < 3000 && alarms == 1);

    struct itimerval timer = { .it_value = { 0, 20000 }, .it_interval = { 0, 10000 } }, got;
    alarms = 0;
    start = now_ns();
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    MUST(getitimer(ITIMER_REAL, &got));
    CHECK("getitimer", got.it_interval.tv_usec == 10000 && got.it_value.tv_sec == 0 && got.it_value.tv_usec > 0 && got.it_value.tv_usec <= 20000);
    while (alarms < 5) pause();
    took = (now_ns() - start) / 1000000;
    CHECK("five ticks", took >= 58);
    memset(&timer, 0, sizeof timer);
    MUST(setitimer(ITIMER_REAL, &timer, &got));
    CHECK("old value", got.it_interval.tv_usec == 10000);
    alarms = 0;
    sleep_ms(30);
    FACT("stopped", "%d", alarms);
    // A tick interrupts a busy loop.
    timer.it_value.tv_usec = 5000;
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    while (alarms == 0) {}
    FACT("in a busy loop", "%d", alarms);

    timer = (struct itimerval){ { 0, 10000 }, { 0, 10000 } };
    MUST(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    sleep_ms(50);
    FACT("virtual time stands while sleeping", "%d", virtuals);
    while (virtuals < 3) {}
    CHECK("virtual ticks", virtuals >= 3);
    memset(&timer, 0, sizeof timer);
    MUST(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    timer = (struct itimerval){ { 0, 10000 }, { 0, 10000 } };
    MUST(setitimer(ITIMER_PROF, &timer, NULL));
    while (profs < 3) {}
    memset(&timer, 0, sizeof timer);
    MUST(setitimer(ITIMER_PROF, &timer, NULL));
    CHECK("profiling ticks", profs >= 3);
    TRY("setitimer, bad kind", setitimer(7, &timer, NULL));
    timer.it_value.tv_usec = 1000000;
    TRY("setitimer, bad value", setitimer(ITIMER_REAL, &timer, NULL));
    CHILD("a child has no timer") {
        alarm(0);
        _exit((int)alarm(0));
    }
    CHILD("default action of SIGALRM") {
        handle(SIGALRM, SIG_DFL, 0);
        ualarm(1000, 0);
        pause();
    }

    handle_info(SIGUSR1, on_timer, 0);
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 5 };
    timer_t posix;
    TRY("timer_create", timer_create(CLOCK_MONOTONIC, &event, &posix));
    struct itimerspec spec = { .it_value = { 0, 5000000 }, .it_interval = { 0, 5000000 } }, left;
    TRY("timer_settime", timer_settime(posix, 0, &spec, NULL));
    while (overrun < 3) pause();
    FACT("value and code", "%d", queued);
    MUST(timer_gettime(posix, &left));
    CHECK("interval", left.it_interval.tv_nsec == 5000000);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    burn(60);
    siginfo_t info;
    sigwaitinfo(&set, &info);
    CHECK("overruns are counted", info.si_overrun >= 5 && timer_getoverrun(posix) >= 5);
    memset(&spec, 0, sizeof spec);
    MUST(timer_settime(posix, 0, &spec, NULL));
    MUST(clock_gettime(CLOCK_MONOTONIC, &spec.it_value));
    TRY("absolute, in the past", timer_settime(posix, TIMER_ABSTIME, &spec, NULL));
    FACT("fires at once", "%s", signal_name(sigwaitinfo(&set, &info)));
    TRY("timer_delete", timer_delete(posix));
    TRY("deleted twice", syscall(SYS_timer_delete, 0));
    event.sigev_notify = SIGEV_NONE;
    TRY("SIGEV_NONE", timer_create(CLOCK_REALTIME, &event, &posix));
    spec = (struct itimerspec){ .it_value = { 100, 0 } };
    MUST(timer_settime(posix, 0, &spec, NULL));
    MUST(timer_gettime(posix, &left));
    CHECK("it runs", left.it_value.tv_sec == 99 || left.it_value.tv_sec == 100);
    TRY("bad clock", timer_create(99, &event, &posix));
    return done();
}
