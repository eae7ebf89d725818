//: group = "A"
//: summary = "fork and wait: exit codes, deaths by signal, WNOHANG, which child, ECHILD, usage"
//: link = ["static", "dynamic"]
#include "check.h"
#include <sys/resource.h>

int main(void) {
    static const int codes[] = { 0, 1, 42, 127, 255, 256, 300, -1 };
    for (size_t i = 0; i < LEN(codes); i++) {
        char name[32];
        snprintf(name, sizeof name, "exit(%d)", codes[i]);
        pid_t pid = (pid_t)MUST(fork());
        if (pid == 0) _exit(codes[i]);
        reap(name, pid);
    }
    static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGABRT, SIGFPE, SIGKILL, SIGSEGV, SIGPIPE, SIGALRM, SIGTERM,
                                   SIGUSR1, SIGUSR2, SIGBUS, SIGTRAP, SIGXCPU, SIGVTALRM, SIGPROF, SIGIO, SIGSYS };
    for (size_t i = 0; i < LEN(signals); i++) {
        pid_t pid = (pid_t)MUST(fork());
        if (pid == 0) {
            raise(signals[i]);
            _exit(1);
        }
        reap(signal_name(signals[i]), pid);
    }
    static const int ignored[] = { SIGCHLD, SIGURG, SIGWINCH, SIGCONT };
    for (size_t i = 0; i < LEN(ignored); i++) {
        pid_t pid = (pid_t)MUST(fork());
        if (pid == 0) {
            raise(ignored[i]);
            _exit(1);
        }
        reap(signal_name(ignored[i]), pid);
    }
    CHILD("abort") abort();
    CHILD("killed by the parent's signal") {
        kill(getpid(), SIGTERM);
        pause();
    }

    int gate[2];
    MUST(pipe(gate));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        char c;
        read(gate[0], &c, 1);
        _exit(7);
    }
    int status = 12345;
    FACT("WNOHANG while it runs", "%d %d", waitpid(pid, &status, WNOHANG), status);
    MUST(write(gate[1], "x", 1));
    reap("then", pid);
    TRY("waiting again", waitpid(pid, &status, 0));
    TRY("no children", wait(&status));
    TRY("no children, WNOHANG", waitpid(-1, &status, WNOHANG));
    TRY("bad options", waitpid(-1, &status, 0x1000));

    // Three children; the second is waited for first.
    pid_t three[3];
    for (int i = 0; i < 3; i++) {
        three[i] = (pid_t)MUST(fork());
        if (three[i] == 0) _exit(i + 1);
    }
    reap("second", three[1]);
    int sum = 0, count = 0;
    while ((pid = wait(&status)) > 0) sum += WEXITSTATUS(status), count += pid == three[0] || pid == three[2];
    FACT("the others", "%d %d", sum, count);

    // Two hundred at once.
    for (int i = 0; i < 200; i++)
        if (MUST(fork()) == 0) _exit(i & 1);
    sum = count = 0;
    while (wait(&status) > 0) sum += WEXITSTATUS(status), count++;
    FACT("two hundred", "%d %d", count, sum);

    CHECK("pids", getpid() > 0 && getppid() >= 0);
    pid_t mine = getpid();
    CHILD("getppid") _exit(getppid() == mine ? 0 : 1);
    CHILD("pids differ") _exit(getpid() != mine && getpid() == syscall(SYS_gettid) ? 0 : 1);

    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        volatile unsigned spin = 0;
        for (int i = 0; i < 30000000; i++) spin++;
        _exit(3);
    }
    struct rusage usage;
    CHECK("wait4", wait4(pid, &status, 0, &usage) == pid && WEXITSTATUS(status) == 3);
    CHECK("usage", usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec > 0 && usage.ru_maxrss > 0);
    siginfo_t info;
    pid = (pid_t)MUST(fork());
    if (pid == 0) _exit(9);
    TRY("waitid WNOWAIT", waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    FACT("info", "%s %d %d %d", signal_name(info.si_signo), info.si_code == CLD_EXITED, info.si_status, info.si_pid == pid);
    reap("still there", pid);
    pid = (pid_t)MUST(fork());
    if (pid == 0) raise(SIGKILL);
    TRY("waitid", waitid(P_ALL, 0, &info, WEXITED));
    FACT("info", "%d %d", info.si_code == CLD_KILLED, info.si_status);
    TRY("waitid without WEXITED", waitid(P_ALL, 0, &info, 0));
    TRY("waitid of nobody", waitid(P_ALL, 0, &info, WEXITED));
    return done();
}
