//: group = "B"
//: summary = "prctl: names, dumpable, no_new_privs, capabilities; personality; priorities"
//: link = ["static"]
#include "check.h"
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

int main(void) {
    char name[17] = "";
    MUST(prctl(PR_GET_NAME, name));
    FACT("name", "%s", name);
    TRY("set", prctl(PR_SET_NAME, "a name that is far too long"));
    MUST(prctl(PR_GET_NAME, name));
    FACT("name", "%s", name);
    FACT("/proc/self/comm", "%s", read_file("/proc/self/comm"));
    CHILD("child inherits it") {
        prctl(PR_GET_NAME, name);
        _exit(strcmp(name, "a name that is ") != 0);
    }
    FACT("dumpable", "%d", prctl(PR_GET_DUMPABLE));
    TRY("set dumpable 2", prctl(PR_SET_DUMPABLE, 2));
    CHILD("pdeathsig") {
        int value = 9;
        MUST(prctl(PR_GET_PDEATHSIG, &value));
        FACT("pdeathsig", "%d", value);
        TRY("pdeathsig 100", prctl(PR_SET_PDEATHSIG, 100));
    }
    FACT("no_new_privs", "%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY("set it", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    FACT("no_new_privs", "%d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    TRY("unset it", prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    FACT("keepcaps", "%d", prctl(PR_GET_KEEPCAPS));
    FACT("CAP_CHOWN bounding", "%d", prctl(PR_CAPBSET_READ, 0));
    FACT("subreaper", "%d", ({ int value = 9; MUST(prctl(PR_GET_CHILD_SUBREAPER, &value)); value; }));
    TRY("unknown", prctl(12345, 0, 0, 0, 0));
    FACT("personality", "%d", personality(0xffffffff));

    FACT("nice", "%d", getpriority(PRIO_PROCESS, 0));
    TRY("setpriority", setpriority(PRIO_PROCESS, 0, 5));
    FACT("nice", "%d", getpriority(PRIO_PROCESS, 0));
    errno = 0;
    FACT("nice(3)", "%d", nice(3));
    FACT("scheduler", "%d", sched_getscheduler(0));
    struct sched_param parameter = { 0 };
    TRY("sched_getparam", sched_getparam(0, &parameter));
    FACT("priority", "%d", parameter.sched_priority);
    FACT("range of SCHED_FIFO", "%d %d", sched_get_priority_min(SCHED_FIFO), sched_get_priority_max(SCHED_FIFO));
    TRY("sched_yield", sched_yield());
    cpu_set_t set;
    TRY("sched_getaffinity", sched_getaffinity(0, sizeof set, &set));
    FACT("CPUs", "%d", CPU_COUNT(&set));
    TRY("sched_setaffinity to the same", sched_setaffinity(0, sizeof set, &set));
    CPU_ZERO(&set);
    TRY("sched_setaffinity to none", sched_setaffinity(0, sizeof set, &set));
    TRY("sched_getaffinity, too small", syscall(SYS_sched_getaffinity, 0, 4, &set));
    unsigned cpu = 99, node = 99;
    TRY("getcpu", getcpu(&cpu, &node));
    CHECK("sched_getcpu", sched_getcpu() == (int)cpu);
    return done();
}
