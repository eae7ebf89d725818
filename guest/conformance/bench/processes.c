//: group = "D"
//: summary = "fork and wait, fork and exec and wait, vfork and exec, a thread created and joined; with 1 and with 64 MiB of memory"
#include "bench.h"
#include <pthread.h>
#include <spawn.h>

enum { ROUNDS = 100 };
static double samples[ROUNDS];
extern char **environ;

static void *nothing(void *argument) { return argument; }

static void forks(const char *name) {
    for (int round = -3; round < ROUNDS; round++) {
        double start = now_ns();
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        waitpid(pid, NULL, 0);
        if (round >= 0) samples[round] = now_ns() - start;
    }
    report(name, samples, ROUNDS);
}

int main(int argc, char **argv) {
    if (argc > 1) return 0;
    forks("fork_wait");
    char *arguments[] = { argv[0], "again", NULL };
    for (int round = -3; round < ROUNDS; round++) {
        double start = now_ns();
        pid_t pid = fork();
        if (pid == 0) {
            execv(argv[0], arguments);
            _exit(127);
        }
        waitpid(pid, NULL, 0);
        if (round >= 0) samples[round] = now_ns() - start;
    }
    report("fork_exec_wait", samples, ROUNDS);
    for (int round = -3; round < ROUNDS; round++) {
        double start = now_ns();
        pid_t pid;
        if (posix_spawn(&pid, argv[0], NULL, NULL, arguments, environ) != 0) return 1;
        waitpid(pid, NULL, 0);
        if (round >= 0) samples[round] = now_ns() - start;
    }
    report("posix_spawn_wait", samples, ROUNDS);
    for (int round = -3; round < ROUNDS; round++) {
        pthread_t thread;
        double start = now_ns();
        pthread_create(&thread, NULL, nothing, NULL);
        pthread_join(thread, NULL);
        if (round >= 0) samples[round] = now_ns() - start;
    }
    report("thread_create_join", samples, ROUNDS);
    memset(mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1, 64 << 20);
    forks("fork_wait_64_mib");
    return 0;
}
