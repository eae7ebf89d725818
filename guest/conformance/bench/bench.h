// Shared by the microbenchmarks: each takes SAMPLES samples of so many operations and prints one JSON object a line.
#pragma once
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES = 200 };

static inline double now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

__attribute__((unused)) static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// `samples`: nanoseconds of one operation each.
__attribute__((unused)) static void report(const char *name, double *samples, int count) {
    qsort(samples, (size_t)count, sizeof *samples, by_value);
    printf("{\"name\": \"%s\", \"unit\": \"ns\", \"median\": %.1f, \"p99\": %.1f, \"min\": %.1f, \"n\": %d}\n", name, samples[count / 2],
           samples[count * 99 / 100], samples[0], count);
}

// Runs `operation` `each` times a sample.
#define MEASURE(name, count, each, operation)                              \
    do {                                                                   \
        static double samples_[SAMPLES * 10];                              \
        for (int warm_ = 0; warm_ < (each); warm_++) { operation; }        \
        for (int sample_ = 0; sample_ < (count); sample_++) {              \
            double start_ = now_ns();                                      \
            for (int i_ = 0; i_ < (each); i_++) { operation; }             \
            samples_[sample_] = (now_ns() - start_) / (each);              \
        }                                                                  \
        report((name), samples_, (count));                                 \
    } while (0)
