//: group = "A"
//: summary = "handlers: arguments, masks while they run, SA_RESETHAND, SA_NODEFER, nesting, pending order, siginfo"
//: link = ["static", "dynamic"]
#include "check.h"
#include <ucontext.h>

static volatile int log_[64], logged, depth, deepest;
static volatile sig_atomic_t blocked_inside;
static siginfo_t last;

static void note(int number) { log_[logged++] = number; }

static void print_log(const char *name) {
    char text[256] = "";
    for (int i = 0; i < logged; i++) strcat(strcat(text, i ? " " : ""), signal_name(log_[i]));
    FACT(name, "%s", text);
    logged = 0;
}

static void look_at_mask(int number) {
    sigset_t set;
    sigprocmask(SIG_SETMASK, NULL, &set);
    blocked_inside = sigismember(&set, SIGUSR1) | sigismember(&set, SIGUSR2) << 1 | sigismember(&set, SIGTERM) << 2;
}

static void nest(int number) {
    static int runs;
    if (++depth > deepest) deepest = depth;
    if (runs++ < 9 && depth < 5) raise(number);
    depth--;
}

static void with_info(int number, siginfo_t *info, void *context) {
    last = *info;
    note(number);
}

static void changes_mask(int number, siginfo_t *info, void *context) {
    // What the frame says is what is in force after the return.
    sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
}

int main(void) {
    handle(SIGUSR1, note, 0), handle(SIGUSR2, note, 0), handle(SIGTERM, note, 0);
    raise(SIGUSR1), raise(SIGUSR2), raise(SIGUSR1);
    print_log("raised");

    struct sigaction action = { .sa_handler = look_at_mask };
    sigaddset(&action.sa_mask, SIGTERM);
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    FACT("blocked in the handler: itself, USR2, TERM", "%d %d %d", blocked_inside & 1, blocked_inside >> 1 & 1, blocked_inside >> 2 & 1);
    sigset_t set;
    sigprocmask(SIG_SETMASK, NULL, &set);
    FACT("blocked afterwards", "%d %d", sigismember(&set, SIGUSR1), sigismember(&set, SIGTERM));
    action.sa_flags = SA_NODEFER;
    MUST(sigaction(SIGUSR1, &action, NULL));
    raise(SIGUSR1);
    FACT("SA_NODEFER", "%d", blocked_inside & 1);
    handle(SIGUSR1, nest, SA_NODEFER);
    raise(SIGUSR1);
    FACT("nested", "%d", deepest);
    deepest = 0;
    handle(SIGUSR1, nest, 0);
    raise(SIGUSR1);
    FACT("without SA_NODEFER", "%d", deepest);

    handle(SIGUSR1, note, SA_RESETHAND);
    raise(SIGUSR1);
    MUST(sigaction(SIGUSR1, NULL, &action));
    FACT("SA_RESETHAND", "%d", action.sa_handler == SIG_DFL);
    print_log("once");

    // Blocked signals stay pending, each once; when unblocked together the lowest number's handler ends first.
    handle(SIGUSR1, note, 0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1), sigaddset(&set, SIGUSR2), sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGTERM), raise(SIGUSR2), raise(SIGUSR1), raise(SIGUSR1);
    sigset_t pending;
    sigpending(&pending);
    FACT("pending", "%d %d %d %d", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2), sigismember(&pending, SIGTERM), sigismember(&pending, SIGHUP));
    print_log("while blocked");
    handle(SIGTERM, SIG_IGN, 0);
    sigpending(&pending);
    FACT("ignoring drops what is pending", "%d", sigismember(&pending, SIGTERM));
    CHILD("a child has nothing pending") {
        sigpending(&pending);
        sigprocmask(SIG_SETMASK, NULL, &set);
        _exit(sigismember(&pending, SIGUSR1) << 1 | !sigismember(&set, SIGUSR1));
    }
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    print_log("unblocked");

    handle_info(SIGUSR1, with_info, 0);
    raise(SIGUSR1);
    FACT("raise", "%d %d %d", last.si_code == SI_TKILL, last.si_pid == getpid(), last.si_uid);
    kill(getpid(), SIGUSR1);
    FACT("kill", "%d %d", last.si_code == SI_USER, last.si_pid == getpid());
    sigqueue(getpid(), SIGUSR1, (union sigval){ .sival_int = 4711 });
    FACT("sigqueue", "%d %d %d", last.si_code == SI_QUEUE, last.si_value.sival_int, last.si_errno);
    pid_t parent = getpid();
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        kill(parent, SIGUSR1);
        _exit(0);
    }
    reap("child", pid);
    FACT("from the child", "%d", last.si_pid == pid);
    logged = 0;

    // Real-time signals queue, in order, lowest first.
    for (int i = 0; i < 3; i++) handle_info(SIGRTMIN + i, with_info, 0);
    sigemptyset(&set);
    for (int i = 0; i < 3; i++) sigaddset(&set, SIGRTMIN + i);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int i = 0; i < 2; i++) {
        sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = i });
        sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = i });
        sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i });
    }
    siginfo_t info;
    while (sigtimedwait(&set, &info, &(struct timespec){ 0 }) > 0) FACT("queued", "%s %d", signal_name(info.si_signo), info.si_value.sival_int);

    sigprocmask(SIG_SETMASK, NULL, &set);
    handle_info(SIGUSR1, changes_mask, 0);
    raise(SIGUSR1);
    sigprocmask(SIG_SETMASK, NULL, &set);
    FACT("mask changed through the frame", "%d", sigismember(&set, SIGUSR2));

    TRY("sigaction SIGKILL", sigaction(SIGKILL, &action, NULL));
    TRY("sigaction SIGSTOP", sigaction(SIGSTOP, &action, NULL));
    TRY("sigaction 0", syscall(SYS_rt_sigaction, 0, NULL, NULL, 8));
    TRY("sigaction 65", syscall(SYS_rt_sigaction, 65, NULL, NULL, 8));
    TRY("sigaction, wrong set size", syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 16));
    TRY("sigprocmask, wrong how", syscall(SYS_rt_sigprocmask, 9, &set, NULL, 8));
    sigfillset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);
    sigprocmask(SIG_SETMASK, NULL, &set);
    FACT("KILL and STOP cannot be blocked", "%d %d %d", sigismember(&set, SIGKILL), sigismember(&set, SIGSTOP), sigismember(&set, SIGTERM));
    return done();
}
