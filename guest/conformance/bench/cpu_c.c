//: group = "A"
//: summary = "CPU-bound C: integer and floating-point loops, and a walk through 4 MiB in random order"
//: timeout = 120
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUNS = 25, WORDS = 1 << 20 };
static uint32_t next[WORDS];
static volatile uint64_t sink;

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

static uint64_t random64(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

static void integers(void) {
    uint64_t state = 1, sum = 0;
    for (int i = 0; i < 20000000; i++) sum += random64(&state) % 1000003;
    sink = sum;
}

static void floats(void) {
    double pi = 0, sign = 1;
    for (int i = 0; i < 20000000; i++, sign = -sign) pi += sign / (2 * i + 1);
    sink = (uint64_t)(pi * 1e9);
}

// One cycle through all words (Sattolo), so that each step needs the one before.
static void prepare(void) {
    uint64_t state = 88172645463325252u;
    for (uint32_t i = 0; i < WORDS; i++) next[i] = i;
    for (uint32_t i = WORDS - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(random64(&state) % i), word = next[i];
        next[i] = next[j];
        next[j] = word;
    }
}

static void walk(void) {
    uint32_t at = 0;
    for (int i = 0; i < 4 * WORDS; i++) at = next[at];
    sink = at;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const char *name, void (*work)(void)) {
    double times[RUNS];
    work();
    for (int run = 0; run < RUNS; run++) {
        double began = now_ms();
        work();
        times[run] = now_ms() - began;
    }
    qsort(times, RUNS, sizeof *times, compare);
    printf("{\"name\": \"%s\", \"unit\": \"ms\", \"median\": %.3f, \"p99\": %.3f, \"min\": %.3f, \"n\": %d}\n", name,
           times[RUNS / 2], times[RUNS - 1], times[0], RUNS);
    fflush(stdout);
}

int main(void) {
    prepare();
    measure("cpu_c_integers", integers);
    measure("cpu_c_floats", floats);
    measure("cpu_c_walk", walk);
    return 0;
}
