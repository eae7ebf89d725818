//: group = "F"
//: summary = "pidfds: open, poll, wait, signal, descriptors of others, CLONE_PIDFD; signalfd after fork and in threads; RLIMIT_NPROC"
//: link = ["static"]
#include "net.h"
#include <linux/sched.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

static pid_t sleeper(void) {
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0)
        for (;;) pause();
    return pid;
}

static const char *events(int fd) { return poll_events(fd, POLLIN | POLLOUT, 0); }

static int signals;

static void take(const char *name) {
    struct signalfd_siginfo info;
    ssize_t got = read(signals, &info, sizeof info);
    if (got == -1) FACT(name, "%s", errno_name(errno));
    else FACT(name, "%s code %d", signal_name((int)info.ssi_signo), info.ssi_code);
}

static void *in_thread(void *argument) {
    (void)argument;
    take("a thread does not see what was sent to another");
    raise(SIGUSR2);
    take("but its own");
    return NULL;
}

static void *nothing(void *argument) {
    sleep_ms(50);
    return argument;
}

int main(void) {
    pid_t pid = sleeper();
    int fd = (int)TRY("pidfd_open", pidfd_open(pid, 0));
    FACT("close-on-exec", "%d", fcntl(fd, F_GETFD));
    FACT("runs", "%s", events(fd));
    TRY("signal 0", pidfd_send_signal(fd, 0, NULL, 0));
    TRY("signal out of range", pidfd_send_signal(fd, 99, NULL, 0));
    TRY("bad flags", pidfd_send_signal(fd, 0, NULL, 0x1000));
    TRY("not a pidfd", pidfd_send_signal(0, 0, NULL, 0));
    siginfo_t info = { .si_signo = SIGTERM, .si_code = SI_QUEUE };
    TRY("another signal's siginfo", pidfd_send_signal(fd, SIGUSR1, &info, 0));
    info.si_code = SI_USER;
    TRY("pretending to be kill", pidfd_send_signal(fd, SIGTERM, &info, 0));
    TRY("nothing to wait for", waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG));
    TRY("read", read(fd, &info, 1));
    TRY("write", write(fd, &info, 1));
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    int directory = (int)MUST(open(path, O_RDONLY | O_DIRECTORY));
    TRY("to a directory of /proc", pidfd_send_signal(directory, 0, NULL, 0));
    TRY("wait for it", waitid(P_PIDFD, (id_t)directory, &info, WEXITED | WNOHANG));
    MUST(close(directory));
    directory = (int)MUST(open("/proc", O_RDONLY | O_DIRECTORY));
    TRY("to /proc itself", pidfd_send_signal(directory, 0, NULL, 0));
    MUST(close(directory));
    CHILD("as a user") {
        MUST(setuid(1000));
        TRY("pidfd_send_signal", pidfd_send_signal(fd, SIGTERM, NULL, 0));
        TRY("pidfd_getfd", pidfd_getfd(fd, 0, 0));
        TRY("not its child", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    }
    int epoll = (int)MUST(epoll_create1(0));
    struct epoll_event event = { .events = EPOLLIN };
    TRY("in an epoll set", epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    FACT("not yet", "%d", epoll_wait(epoll, &event, 1, 0));
    TRY("SIGTERM", pidfd_send_signal(fd, SIGTERM, NULL, 0));
    FACT("ended", "%d", epoll_wait(epoll, &event, 1, 5000));
    FACT("zombie", "%s", events(fd));
    TRY("signal to a zombie", pidfd_send_signal(fd, SIGTERM, NULL, 0));
    TRY("look", waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOWAIT));
    memset(&info, 0, sizeof info);
    TRY("wait", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    FACT("it", "%d %s %d", info.si_pid == pid, signal_name(info.si_status), info.si_code == CLD_KILLED);
    FACT("waited for", "%s", events(fd));
    TRY("signal to nobody", pidfd_send_signal(fd, SIGTERM, NULL, 0));
    TRY("wait again", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    TRY("descriptor of nobody", pidfd_getfd(fd, 0, 0));
    TRY("pidfd_open of nobody", pidfd_open(pid, 0));
    TRY("pidfd_open 0", pidfd_open(0, 0));
    TRY("pidfd_open, flags", pidfd_open(getpid(), 1));
    TRY("wait, not a pidfd", waitid(P_PIDFD, (id_t)epoll, &info, WEXITED));
    TRY("wait, closed", waitid(P_PIDFD, 99, &info, WEXITED));

    pid = sleeper();
    fd = (int)MUST(pidfd_open(pid, PIDFD_NONBLOCK));
    FACT("O_NONBLOCK", "%d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    TRY("wait does not wait", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    MUST(fcntl(fd, F_SETFL, 0));
    pid_t killer = (pid_t)MUST(fork());
    if (killer == 0) {
        sleep_ms(30);
        pidfd_send_signal(fd, SIGKILL, NULL, 0);
        _exit(0);
    }
    TRY("wait", waitid(P_PIDFD, (id_t)fd, &info, WEXITED));
    FACT("it", "%s", signal_name(info.si_status));
    reap("killer", killer);

    // Another's descriptor.
    int p[2];
    MUST(pipe(p));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        MUST(dup2(p[1], 77));
        MUST(write(77, "r", 1));
        for (;;) pause();
    }
    char byte;
    MUST(read(p[0], &byte, 1));
    fd = (int)MUST(pidfd_open(pid, 0));
    int theirs = (int)TRY("pidfd_getfd", pidfd_getfd(fd, 77, 0));
    MUST(write(theirs, "x", 1));
    FACT("through it", "%zd, close-on-exec %d", read(p[0], &byte, 1), fcntl(theirs, F_GETFD));
    TRY("not open there", pidfd_getfd(fd, 78, 0));
    TRY("flags", pidfd_getfd(fd, 77, 1));
    MUST(kill(pid, SIGKILL));
    reap("it", pid);

    // With clone3.
    int with = -1;
    struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&with, .exit_signal = SIGCHLD };
    pid = (pid_t)MUST(syscall(SYS_clone3, &args, sizeof args));
    if (pid == 0) _exit(fcntl(with, F_GETFD) == -1 ? 5 : 6);
    CHECK("CLONE_PIDFD", with > 2 && fcntl(with, F_GETFD) == FD_CLOEXEC);
    TRY("wait", waitid(P_PIDFD, (id_t)with, &info, WEXITED));
    FACT("the child did not have it", "%d", info.si_status);
    with = -1;
    pid = (pid_t)MUST(syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, NULL, &with, NULL, 0));
    if (pid == 0) _exit(7);
    TRY("wait", waitid(P_PIDFD, (id_t)with, &info, WEXITED));
    FACT("it", "%d", info.si_status);
    TRY("one place for two", syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, NULL, &with, NULL, 0));

    // signalfd: the reader's signals, whoever made the descriptor.
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1), sigaddset(&set, SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    signals = (int)MUST(signalfd(-1, &set, SFD_NONBLOCK));
    MUST(kill(getpid(), SIGUSR1));
    CHILD("after fork") {
        FACT("the parent's is not here", "%s", events(signals));
        take("nothing");
        MUST(kill(getpid(), SIGUSR2));
        FACT("its own is", "%s", events(signals));
        take("its own");
    }
    take("the parent's");
    MUST(raise(SIGUSR2)), MUST(kill(getpid(), SIGUSR2));
    take("the thread's own first"), take("then the process's"), take("then none");
    MUST(raise(SIGUSR1));
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, in_thread, NULL) ? -1 : 0), MUST(pthread_join(thread, NULL) ? -1 : 0);
    take("it is still there");
    MUST(fcntl(signals, F_SETFL, 0));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        sleep_ms(30);
        kill(getppid(), SIGUSR1);
        _exit(0);
    }
    take("blocking");
    reap("sender", pid);

    // A user's limit counts threads and zombies; others' do not.
    CHILD("RLIMIT_NPROC") {
        struct rlimit limit = { 5, 5 };
        MUST(setrlimit(RLIMIT_NPROC, &limit));
        CHILD("root is exempt") {
            for (int i = 0; i < 10; i++)
                if (MUST(fork()) == 0) _exit(0);
            while (wait(NULL) > 0) {}
        }
        MUST(setuid(1003));
        pthread_t threads[8];
        int made = 0, error = 0;
        while (made < 8 && (error = pthread_create(&threads[made], NULL, nothing, NULL)) == 0) made++;
        FACT("threads", "%d, then %s", made, errno_name(error));
        TRY("fork", fork());
        for (int i = 0; i < made; i++) pthread_join(threads[i], NULL);
        for (made = 0; made < 8 && (pid = fork()) > 0; made++) {}
        if (pid == 0) _exit(0);
        FACT("children, not waited for", "%d, then %s", made, errno_name(errno));
        while (wait(NULL) > 0) {}
        CHILD("one after they are waited for") {}
    }
    return done();
}
