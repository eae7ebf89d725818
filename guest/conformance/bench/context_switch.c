//: group = "D"
//: summary = "a context switch: two processes, then two threads, hand a byte to and fro through pipes; half a round trip"
#include "bench.h"
#include <pthread.h>

static int to[2], back[2];

static void *answer(void *argument) {
    char byte;
    while (read(to[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {}
    return NULL;
}

static void round_trips(const char *name) {
    static double samples[SAMPLES];
    char byte = 0;
    for (int sample = -5; sample < SAMPLES; sample++) {
        double start = now_ns();
        for (int i = 0; i < 50; i++)
            if (write(to[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) exit(1);
        if (sample >= 0) samples[sample] = (now_ns() - start) / 100;
    }
    report(name, samples, SAMPLES);
}

int main(void) {
    if (pipe(to) != 0 || pipe(back) != 0) return 1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        close(to[1]), close(back[0]);
        answer(NULL);
        _exit(0);
    }
    round_trips("context_switch_processes");
    close(to[1]);
    waitpid(pid, NULL, 0);
    close(to[0]), close(back[0]), close(back[1]);
    if (pipe(to) != 0 || pipe(back) != 0) return 1;
    pthread_t thread;
    pthread_create(&thread, NULL, answer, NULL);
    round_trips("context_switch_threads");
    close(to[1]);
    pthread_join(thread, NULL);
    return 0;
}
