//: group = "B"
//: summary = "orphans go to pid 1, zombies stay until waited for, SIGCHLD ignored reaps by itself"
//: link = ["static"]
#include "check.h"
#include <sys/prctl.h>

int main(void) {
    CHECK("this is pid 1", getpid() == 1);
    FACT("its parent", "%d", getppid());
    int up[2], gate[2];
    MUST(pipe(up)), MUST(pipe(gate));
    pid_t middle = (pid_t)MUST(fork());
    if (middle == 0) {
        pid_t orphan = fork();
        if (orphan != 0) _exit(0);
        char c;
        MUST(close(gate[1]));
        read(gate[0], &c, 1);  // until the parent has waited for the one between
        pid_t parent = getppid();
        MUST(write(up[1], &parent, sizeof parent));
        _exit(33);
    }
    reap("middle", middle);
    MUST(close(gate[1]));
    pid_t parent = 0;
    MUST(read(up[0], &parent, sizeof parent));
    FACT("orphan's parent", "%d", parent);
    int status;
    CHECK("pid 1 waits for the orphan", wait(&status) > 0);
    FACT("its end", "%s", status_text(status));

    pid_t zombie = (pid_t)MUST(fork());
    if (zombie == 0) _exit(1);
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT));
    TRY("kill(zombie, 0)", kill(zombie, 0));
    TRY("kill(zombie, SIGKILL)", kill(zombie, SIGKILL));
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", zombie);
    const char *state = strrchr(read_file(path), ')');
    FACT("state", "%c", state ? state[2] : '?');
    reap("zombie", zombie);
    TRY("kill afterwards", kill(zombie, 0));

    handle(SIGCHLD, SIG_IGN, 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(4);
    TRY("SIGCHLD ignored: wait", waitpid(pid, &status, 0));
    handle(SIGCHLD, SIG_DFL, SA_NOCLDWAIT);
    pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(4);
    TRY("SA_NOCLDWAIT: wait", waitpid(pid, &status, 0));
    handle(SIGCHLD, SIG_DFL, 0);

    // A subreaper between: the orphan goes to it.
    CHILD("subreaper") {
        MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
        pid_t mine = getpid();
        if (MUST(fork()) == 0) {
            if (fork() != 0) _exit(0);
            while (getppid() != mine) sleep_ms(1);
            _exit(44);
        }
        int sum = 0;
        while (wait(&status) > 0) sum += WEXITSTATUS(status);
        _exit(sum);
    }
    // The death of the parent can be made a signal.
    MUST(pipe(up));
    middle = (pid_t)MUST(fork());
    if (middle == 0) {
        if (fork() == 0) {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            sigprocmask(SIG_BLOCK, &set, NULL);
            MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
            MUST(write(up[1], "r", 1));
            int got = sigwaitinfo(&set, NULL);
            _exit(got == SIGUSR1 ? 0 : 1);
        }
        char c;
        read(up[0], &c, 1);
        _exit(0);
    }
    reap("parent that dies", middle);
    wait(&status);
    FACT("child's PDEATHSIG", "%s", status_text(status));
    return done();
}
