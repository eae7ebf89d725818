//: group = "B"
//: summary = "scheduling parameters: policies, priorities, affinity, and who may change them"
//: link = ["static"]
#include "check.h"
#include <sched.h>

static void show(const char *name, pid_t pid) {
    struct sched_param param = { -1 };
    int policy = sched_getscheduler(pid);
    int got = sched_getparam(pid, &param);
    FACT(name, "policy %#x, %s, priority %d", policy, got ? errno_name(errno) : "ok", param.sched_priority);
}

static int set(pid_t pid, int policy, int priority) {
    struct sched_param param = { priority };
    return sched_setscheduler(pid, policy, &param);
}

int main(void) {
    show("at first", 0);
    TRY("getscheduler -1", sched_getscheduler(-1));
    TRY("getscheduler of nobody", sched_getscheduler(999999));
    struct sched_param param = { 0 };
    TRY("getparam -1", sched_getparam(-1, &param));
    TRY("getparam NULL", sched_getparam(0, NULL));
    TRY("getparam bad address", sched_getparam(0, OPAQUE((struct sched_param *)8)));
    TRY("setparam", sched_setparam(0, &param));
    TRY("setparam -1", sched_setparam(-1, &param));
    TRY("setparam of nobody", sched_setparam(999999, &param));
    param.sched_priority = 1;
    TRY("setparam, a priority that OTHER has not", sched_setparam(0, &param));
    TRY("BATCH", set(0, SCHED_BATCH, 0));
    show("now", 0);
    CHILD("inherited") show("child", 0);
    TRY("BATCH, reset on fork", set(0, SCHED_BATCH | SCHED_RESET_ON_FORK, 0));
    show("now", getpid());
    CHILD("reset") show("child", 0);
    TRY("IDLE", set(0, SCHED_IDLE, 0));
    TRY("OTHER", set(0, SCHED_OTHER, 0));
    TRY("no policy", set(0, 4, 0));
    TRY("negative policy", set(0, -1, 0));
    TRY("FIFO without a priority", set(0, SCHED_FIFO, 0));
    TRY("FIFO, 100", set(0, SCHED_FIFO, 100));
    TRY("DEADLINE", set(0, 6, 0));
    for (int policy = 0; policy < 7; policy++)
        FACT("limits", "%d: %d %d", policy, sched_get_priority_min(policy), sched_get_priority_max(policy));
    struct timespec slice;
    TRY("rr_get_interval -1", sched_rr_get_interval(-1, &slice));
    TRY("rr_get_interval of nobody", sched_rr_get_interval(999999, &slice));
    TRY("rr_get_interval", sched_rr_get_interval(0, &slice));

    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    TRY("setaffinity, empty", sched_setaffinity(0, sizeof cpus, &cpus));
    TRY("getaffinity", sched_getaffinity(0, sizeof cpus, &cpus));
    FACT("cpus", "%d", CPU_COUNT(&cpus));
    TRY("setaffinity", sched_setaffinity(0, sizeof cpus, &cpus));
    TRY("setaffinity -1", sched_setaffinity(-1, sizeof cpus, &cpus));
    TRY("setaffinity of nobody", sched_setaffinity(999999, sizeof cpus, &cpus));
    TRY("setaffinity bad address", sched_setaffinity(0, sizeof cpus, OPAQUE((cpu_set_t *)8)));
    TRY("getaffinity -1", sched_getaffinity(-1, sizeof cpus, &cpus));

    CHILD("another user") {
        MUST(setuid(1000));
        TRY("FIFO", set(0, SCHED_FIFO, 1));
        TRY("BATCH", set(0, SCHED_BATCH, 0));
        TRY("another's policy", set(1, SCHED_BATCH, 0));
        TRY("another's affinity", sched_setaffinity(1, sizeof cpus, &cpus));
        show("another's", 1);
    }
    return done();
}
