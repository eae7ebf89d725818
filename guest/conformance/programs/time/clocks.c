//: group = "A"
//: summary = "clocks: monotonic, they agree with each other and with CPU time, resolutions, errors"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/times.h>

static int64_t get(clockid_t clock) {
    struct timespec t;
    MUST(clock_gettime(clock, &t));
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void) {
    static const clockid_t ids[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW,
                                     CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI };
    for (size_t i = 0; i < LEN(ids); i++) {
        char name[32];
        snprintf(name, sizeof name, "clock %d", ids[i]);
        int64_t before = get(ids[i]), back = 0;
        for (int k = 0; k < 20000; k++) {
            int64_t now = get(ids[i]);
            back += now < before;
            before = now;
        }
        FACT(name, "%d back", (int)back);
        struct timespec resolution;
        MUST(clock_getres(ids[i], &resolution));
        CHECK("resolution", resolution.tv_sec == 0 && resolution.tv_nsec >= 1 && resolution.tv_nsec <= 10000000);
    }
    FACT("fine resolution", "%ld", ({ struct timespec r; MUST(clock_getres(CLOCK_MONOTONIC, &r)); r.tv_nsec; }));
    struct timeval tv;
    MUST(gettimeofday(&tv, NULL));
    CHECK("gettimeofday", llabs(tv.tv_sec * 1000000000LL + tv.tv_usec * 1000LL - get(CLOCK_REALTIME)) < 1000000000);
    CHECK("time", labs((long)(time(NULL) - tv.tv_sec)) <= 1);
    CHECK("the date is sane", tv.tv_sec > 1700000000 && tv.tv_sec < 4000000000);
    CHECK("coarse is near", llabs(get(CLOCK_REALTIME) - get(CLOCK_REALTIME_COARSE)) < 200000000);
    CHECK("boot time", get(CLOCK_BOOTTIME) >= get(CLOCK_MONOTONIC) - 1000000000);

    // The clocks run at one speed, asleep and busy; the system call and the vDSO agree.
    int64_t real = get(CLOCK_REALTIME), mono = get(CLOCK_MONOTONIC), raw = get(CLOCK_MONOTONIC_RAW), cpu = get(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(200);
    int64_t slept = get(CLOCK_MONOTONIC) - mono;
    CHECK("asleep", slept >= 200000000 && slept < 1500000000);
    CHECK("realtime agrees", llabs((get(CLOCK_REALTIME) - real) - (get(CLOCK_MONOTONIC) - mono)) < 50000000);
    CHECK("raw agrees", llabs((get(CLOCK_MONOTONIC_RAW) - raw) - (get(CLOCK_MONOTONIC) - mono)) < 50000000);
    CHECK("no CPU time while asleep", get(CLOCK_PROCESS_CPUTIME_ID) - cpu < 100000000);
    struct timespec by_call;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &by_call);
    CHECK("system call agrees", llabs(by_call.tv_sec * 1000000000LL + by_call.tv_nsec - get(CLOCK_MONOTONIC)) < 100000000);
    cpu = get(CLOCK_PROCESS_CPUTIME_ID), mono = get(CLOCK_MONOTONIC);
    while (get(CLOCK_PROCESS_CPUTIME_ID) - cpu < 100000000) {}
    CHECK("busy: CPU time passes with real time", get(CLOCK_MONOTONIC) - mono >= 95000000);
    // Without a system call in between: the time is charged all the same.
    cpu = get(CLOCK_PROCESS_CPUTIME_ID), mono = get(CLOCK_MONOTONIC);
    while (get(CLOCK_MONOTONIC) - mono < 500000000) {}
    CHECK("busy for long", get(CLOCK_PROCESS_CPUTIME_ID) - cpu > 25000000);
    struct rusage usage;
    MUST(getrusage(RUSAGE_SELF, &usage));
    CHECK("getrusage", usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec >= 90000 && usage.ru_minflt > 0);
    CHECK("clock()", clock() >= 90000);
    struct tms t;
    CHECK("times", times(&t) > 0 && t.tms_utime + t.tms_stime >= 8);
    clockid_t of_self;
    FACT("clock_getcpuclockid", "%d", clock_getcpuclockid(0, &of_self));
    CHECK("it", get(of_self) >= 90000000);
    CHILD("a child starts at zero") _exit(get(CLOCK_PROCESS_CPUTIME_ID) < 90000000 ? 0 : 1);
    MUST(getrusage(RUSAGE_CHILDREN, &usage));
    CHECK("children's usage", usage.ru_maxrss > 0);

    TRY("unknown clock", clock_gettime(77, &by_call));
    TRY("bad address", syscall(SYS_clock_gettime, CLOCK_MONOTONIC, 8));
    TRY("clock_getres of none", clock_getres(CLOCK_MONOTONIC, NULL));
    TRY("clock_settime of monotonic", clock_settime(CLOCK_MONOTONIC, &by_call));
    TRY("getrusage of whom", getrusage(77, &usage));
    struct tm *utc = gmtime(&(time_t){ 86400 * 365 });
    FACT("gmtime", "%d-%d-%d", utc->tm_year + 1900, utc->tm_mon + 1, utc->tm_mday);
    FACT("local time is UTC", "%d", localtime(&(time_t){ 0 })->tm_hour);
    return done();
}
