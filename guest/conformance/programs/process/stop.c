//: group = "D"
//: summary = "SIGSTOP, SIGTSTP and SIGCONT: WIFSTOPPED, WIFCONTINUED, SIGCHLD and SA_NOCLDSTOP"
//: link = ["static"]
#include "check.h"

static volatile int chlds, last_code;
static void on_chld(int number, siginfo_t *info, void *context) { chlds++, last_code = info->si_code; }

int main(void) {
    handle_info(SIGCHLD, on_chld, SA_RESTART);
    int gate[2];
    MUST(pipe(gate));
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        setpgid(0, 0);  // in pid 1's group, which is orphaned, SIGTSTP would be dropped
        close(gate[1]);
        char c;
        while (read(gate[0], &c, 1) == 1) {}
        _exit(5);
    }
    int status;
    MUST(kill(pid, SIGSTOP));
    CHECK("WUNTRACED", waitpid(pid, &status, WUNTRACED) == pid);
    FACT("status", "%s", status_text(status));
    FACT("SIGCHLD code", "%d %d", chlds, last_code == CLD_STOPPED);
    FACT("reported once", "%d", waitpid(pid, &status, WUNTRACED | WNOHANG));
    MUST(kill(pid, SIGCONT));
    CHECK("WCONTINUED", waitpid(pid, &status, WCONTINUED) == pid);
    FACT("status", "%s", status_text(status));
    FACT("SIGCHLD code", "%d %d", chlds, last_code == CLD_CONTINUED);
    struct sigaction action = { .sa_sigaction = on_chld, .sa_flags = SA_SIGINFO | SA_RESTART | SA_NOCLDSTOP };
    MUST(sigaction(SIGCHLD, &action, NULL));
    MUST(kill(pid, SIGTSTP));
    waitpid(pid, &status, WUNTRACED);
    FACT("SIGTSTP", "%s", status_text(status));
    MUST(kill(pid, SIGCONT));
    waitpid(pid, &status, WCONTINUED);
    FACT("no SIGCHLD", "%d", chlds);
    MUST(close(gate[1]));
    reap("end", pid);
    FACT("SIGCHLD", "%d %d", chlds, last_code == CLD_EXITED);

    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        raise(SIGSTOP);
        _exit(6);
    }
    waitpid(pid, &status, WUNTRACED);
    FACT("stopped itself", "%s", status_text(status));
    MUST(kill(pid, SIGTERM));
    FACT("SIGTERM waits while it is stopped", "%d", waitpid(pid, &status, WNOHANG));
    MUST(kill(pid, SIGKILL));
    reap("SIGKILL does not", pid);
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        raise(SIGSTOP);
        _exit(6);
    }
    siginfo_t info;
    TRY("waitid WSTOPPED", waitid(P_PID, (id_t)pid, &info, WSTOPPED));
    FACT("info", "%d %s", info.si_code == CLD_STOPPED, signal_name(info.si_status));
    MUST(kill(pid, SIGCONT));
    reap("end", pid);
    return done();
}
