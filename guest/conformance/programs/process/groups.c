//: group = "D"
//: summary = "process groups and sessions: setpgid, setsid, kill of a group, waitpid of a group, errors"
//: link = ["static"]
#include "check.h"

static pid_t sleeper(pid_t group) {
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        pause();
        _exit(0);
    }
    MUST(setpgid(pid, group));
    return pid;
}

int main(void) {
    CHECK("getpgid(0)", getpgid(0) == getpgrp());
    pid_t a = sleeper(0), b = sleeper(a), c = sleeper(0);
    CHECK("group of a", getpgid(a) == a);
    CHECK("group of b", getpgid(b) == a);
    CHECK("group of c", getpgid(c) == c);
    CHECK("sessions", getsid(a) == getsid(0) && getsid(b) == getsid(0));
    TRY("kill of a group", kill(-a, SIGTERM));
    int status;
    CHECK("one of the group", waitpid(-a, &status, 0) > 0);
    FACT("status", "%s", status_text(status));
    CHECK("the other", waitpid(-a, &status, 0) > 0);
    FACT("status", "%s", status_text(status));
    TRY("nobody left in it", waitpid(-a, &status, 0));
    TRY("kill of an empty group", kill(-a, SIGTERM));
    FACT("c lives", "%d", waitpid(c, &status, WNOHANG));
    TRY("killpg", killpg(c, SIGUSR1));
    reap("c", c);

    CHILD("setsid") {
        pid_t before = getsid(0);
        pid_t session = setsid();
        _exit(session == getpid() && getsid(0) == session && getpgrp() == session && session != before ? 0 : 1);
    }
    CHILD("setsid of a group leader") {
        MUST(setpgid(0, 0));
        _exit(setsid() == -1 && errno == EPERM ? 0 : 1);
    }
    CHILD("setpgid of a session leader") {
        MUST(setsid());
        _exit(setpgid(0, 0) == -1 && errno == EPERM ? 0 : 1);
    }
    pid_t other = (pid_t)MUST(fork());
    if (other == 0) {
        setsid();
        pause();
    }
    while (getsid(other) == getsid(0)) sleep_ms(1);
    TRY("setpgid in another session", setpgid(other, 0));
    MUST(kill(other, SIGKILL));
    reap("it", other);
    TRY("setpgid of nobody", setpgid(99999, 0));
    TRY("setpgid to a group that is not", setpgid(0, 99999));
    TRY("getpgid of nobody", getpgid(99999));
    TRY("getsid of nobody", getsid(99999));
    TRY("kill of nobody", kill(99999, 0));
    TRY("kill, bad signal", kill(getpid(), 65));
    TRY("kill, signal -1", kill(getpid(), -1));

    // The whole group, the caller included.
    CHILD("kill(0)") {
        MUST(setpgid(0, 0));
        pid_t inner = fork();
        if (inner == 0) pause();
        handle(SIGUSR1, SIG_IGN, 0);
        kill(0, SIGUSR1);
        waitpid(inner, &status, 0);
        _exit(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1 ? 0 : 1);
    }
    // No terminal here.
    TRY("tcgetpgrp", tcgetpgrp(0));
    TRY("open of /dev/tty", open("/dev/tty", O_RDWR));
    return done();
}
