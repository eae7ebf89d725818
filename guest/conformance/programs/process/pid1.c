//: group = "B"
//: summary = "pid 1 ignores signals it has no handler for, dies of faults, and takes the others with it"
//: link = ["static"]
//: status = 139
#include "check.h"

static volatile int got;
static void on_signal(int number) { got = number; }

int main(void) {
    FACT("pid", "%d", getpid());
    raise(SIGTERM);
    raise(SIGINT);
    kill(1, SIGKILL);
    puts("still here");
    CHILD("from a child") {
        kill(1, SIGTERM);
        kill(1, SIGKILL);
        kill(getppid(), SIGHUP);
    }
    handle(SIGTERM, on_signal, 0);
    raise(SIGTERM);
    FACT("with a handler", "%s", signal_name(got));
    FACT("session, group", "%d %d", getsid(0), getpgrp());
    if (MUST(fork()) == 0) {
        pause();
        _exit(0);
    }
    fflush(stdout);
    *OPAQUE((volatile int *)8) = 1;
    return 0;
}
