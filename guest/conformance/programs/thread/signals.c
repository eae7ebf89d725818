//: group = "D"
//: summary = "signals and threads: pthread_kill, masks of each, process signals to any thread, cancel, exit_group, fork in a thread"
//: link = ["static", "dynamic"]
#include "check.h"
#include <pthread.h>
#include <setjmp.h>

static volatile pthread_t caught_by;
static volatile int caught, cleaned;
static int gate[2];
static void on_signal(int number) { caught_by = pthread_self(), caught = number; }
static void *pauses(void *argument) {
    char c;
    while (read(gate[0], &c, 1) != 1) {}
    return NULL;
}
static void *blocks_usr1(void *argument) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    write(*(int *)argument, "r", 1);
    int number;
    sigwait(&set, &number);
    return (void *)(intptr_t)number;
}
static void clean(void *argument) { cleaned += (int)(intptr_t)argument; }
static void *cancellable(void *argument) {
    pthread_cleanup_push(clean, (void *)1);
    pthread_cleanup_push(clean, (void *)10);
    pause();
    pthread_cleanup_pop(0);
    pthread_cleanup_pop(0);
    return NULL;
}
static void *asynchronous(void *argument) {
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (;;) __asm__ volatile("");
    return NULL;
}
static void *resists(void *argument) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    sleep_ms(20);
    return (void *)8;
}
static sigjmp_buf back;
static void jump(int number) { siglongjmp(back, number); }
static void *faults(void *argument) {
    int number = sigsetjmp(back, 1);
    if (number == 0) *OPAQUE((volatile int *)4) = 1;
    return (void *)(intptr_t)number;
}
static void *forks(void *argument) {
    pid_t pid = fork();
    if (pid == 0) _exit(syscall(SYS_gettid) == getpid() ? 31 : 32);
    int status;
    waitpid(pid, &status, 0);
    return (void *)(intptr_t)WEXITSTATUS(status);
}
static void *exits(void *argument) {
    exit(45);
    return NULL;
}
static void *execs(void *argument) {
    execl("/bin/true", "true", NULL);
    return NULL;
}
static void *segfaults(void *argument) {
    *OPAQUE((volatile int *)4) = 1;
    return NULL;
}
static void *spins(void *argument) {
    for (;;) __asm__ volatile("");
    return NULL;
}
static int prepared, in_parent, in_child;
static void prepare(void) { prepared++; }
static void parent(void) { in_parent++; }
static void child(void) { in_child++; }

int main(void) {
    pthread_t thread;
    void *value;
    MUST(pipe(gate));
    handle(SIGUSR1, on_signal, 0);
    pthread_create(&thread, NULL, pauses, NULL);
    sleep_ms(20);
    FACT("pthread_kill", "%d", pthread_kill(thread, SIGUSR1));
    while (!caught) sleep_ms(1);
    CHECK("that thread's handler ran", pthread_equal(caught_by, thread));
    // Main blocks it: the process's signal goes to the thread.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    caught = 0;
    kill(getpid(), SIGUSR1);
    while (!caught) sleep_ms(1);
    CHECK("signal of the process, to the one that takes it", pthread_equal(caught_by, thread));
    MUST(write(gate[1], "x", 1));
    pthread_join(thread, NULL);
    kill(getpid(), SIGUSR1);
    sigset_t pending;
    sigpending(&pending);
    FACT("nobody takes it: pending", "%d", sigismember(&pending, SIGUSR1));
    int ready[2];
    char c;
    MUST(pipe(ready));
    pthread_create(&thread, NULL, blocks_usr1, &ready[1]);
    MUST(read(ready[0], &c, 1));
    pthread_join(thread, &value);
    FACT("sigwait in a thread takes it", "%ld", (long)value);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);

    pthread_create(&thread, NULL, cancellable, NULL);
    sleep_ms(10);
    FACT("cancel", "%d", pthread_cancel(thread));
    pthread_join(thread, &value);
    FACT("cancelled, clean-up", "%d %d", value == PTHREAD_CANCELED, cleaned);
    pthread_create(&thread, NULL, asynchronous, NULL);
    sleep_ms(10);
    pthread_cancel(thread);
    pthread_join(thread, &value);
    FACT("cancelled in a loop", "%d", value == PTHREAD_CANCELED);
    pthread_create(&thread, NULL, resists, NULL);
    sleep_ms(5);
    pthread_cancel(thread);
    pthread_join(thread, &value);
    FACT("cancellation disabled", "%ld", (long)value);

    handle(SIGSEGV, jump, 0);
    pthread_create(&thread, NULL, faults, NULL);
    pthread_join(thread, &value);
    FACT("a fault goes to its thread", "%ld", (long)value);
    handle(SIGSEGV, SIG_DFL, 0);
    pthread_create(&thread, NULL, forks, NULL);
    pthread_join(thread, &value);
    FACT("fork in a thread: one thread, tid is pid", "%ld", (long)value);
    pthread_atfork(prepare, parent, child);
    CHILD("atfork") _exit(in_child * 10 + prepared);
    FACT("parent's atfork handlers", "%d %d %d", prepared, in_parent, in_child);

    CHILD("exit in a thread ends all") {
        pthread_create(&thread, NULL, exits, NULL);
        for (;;) pause();
    }
    CHILD("exit in main ends busy threads") {
        for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, spins, NULL);
        sleep_ms(10);
        exit(46);
    }
    CHILD("fault in a thread kills all") {
        pthread_create(&thread, NULL, segfaults, NULL);
        for (;;) pause();
    }
    CHILD("exec in a thread replaces all") {
        pthread_create(&thread, NULL, spins, NULL);
        pthread_create(&thread, NULL, execs, NULL);
        for (;;) pause();
    }
    CHILD("main leaves by pthread_exit, the last thread ends the process") {
        pthread_create(&thread, NULL, resists, NULL);
        pthread_exit(NULL);
    }
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, spins, NULL);
        for (;;) pause();
    }
    sleep_ms(30);
    MUST(kill(pid, SIGTERM));
    reap("SIGTERM kills all threads", pid);
    return done();
}
