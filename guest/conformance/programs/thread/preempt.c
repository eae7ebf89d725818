//: group = "D"
//: summary = "a busy thread does not starve the others; vector registers of threads are their own; fairness between processes"
//: link = ["static"]
#include "check.h"
#include <immintrin.h>
#include <pthread.h>

static volatile bool stop;
static long progress[4];

static void *busy(void *argument) {
    long *mine = argument;
    while (!stop) ++*(volatile long *)mine;
    return NULL;
}

static void *floats(void *argument) {
    double step = (double)(intptr_t)argument, sum = 0;
    for (int i = 0; i < 30000000; i++) sum += step;
    return (void *)(intptr_t)(sum == step * 30000000);
}

// The pattern stays in the registers while the others run.
static void *vectors(void *argument) {
    int mine = (int)(intptr_t)argument, out[4] __attribute__((aligned(16)));
    long wrong = 0;
    for (int round = 0; round < 40; round++) {
        long rounds = 1000000;
        __asm__ volatile("movd %2, %%xmm0\n pshufd $0, %%xmm0, %%xmm0\n movdqa %%xmm0, %%xmm15\n"
                         "1: dec %0\n jnz 1b\n"
                         "paddd %%xmm15, %%xmm0\n movdqa %%xmm0, %1\n" : "+r"(rounds), "=m"(out) : "r"(mine) : "xmm0", "xmm15");
        for (int i = 0; i < 4; i++) wrong += out[i] != 2 * mine;
    }
    return (void *)wrong;
}

int main(void) {
    pthread_t threads[8];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, busy, &progress[i]);
    int64_t start = now_ns();
    for (int i = 0; i < 10; i++) sleep_ms(10);
    int64_t took = (now_ns() - start) / 1000000;
    CHECK("main wakes beside three busy threads", took >= 100 && took < 3000);
    sleep_ms(300);
    stop = true;
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    long low = progress[0], high = progress[0];
    for (int i = 1; i < 3; i++) low = progress[i] < low ? progress[i] : low, high = progress[i] > high ? progress[i] : high;
    CHECK("each made progress", low > 0 && high < low * 20);

    long right = 0, wrong = 0;
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, floats, (void *)(intptr_t)(i + 1));
    for (int i = 0; i < 8; i++) {
        void *value;
        pthread_join(threads[i], &value);
        right += (long)value;
    }
    FACT("floating point right", "%ld", right);
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, vectors, (void *)(intptr_t)(i + 1));
    for (int i = 0; i < 8; i++) {
        void *value;
        pthread_join(threads[i], &value);
        wrong += (long)value;
    }
    FACT("vectors wrong", "%ld", wrong);

    long *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            for (;;) ++*(volatile long *)&shared[i];
    }
    sleep_ms(300);
    for (int i = 0; i < 2; i++) MUST(kill(pids[i], SIGKILL)), reap("process", pids[i]);
    CHECK("processes share the CPU", shared[0] > 0 && shared[1] > 0 && shared[0] < shared[1] * 20 && shared[1] < shared[0] * 20);
    return done();
}
