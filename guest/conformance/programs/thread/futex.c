//: group = "D"
//: summary = "futex: wait, wake, bitset, requeue, time-outs, private and shared between processes, errors"
//: link = ["static"]
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>

static int word, second, woken;

static long futex(int *at, int op, int value, const struct timespec *time, int *other, int third) { return syscall(SYS_futex, at, op, value, time, other, third); }

static void *waiter(void *argument) {
    long result;
    do result = futex(&word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    while (result == -1 && errno == EINTR);
    __atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
    return (void *)(intptr_t)(result == -1 ? errno : 0);
}

static void *bit_waiter(void *argument) {
    futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (int)(intptr_t)argument);
    __atomic_add_fetch(&woken, (int)(intptr_t)argument, __ATOMIC_SEQ_CST);
    return NULL;
}

static void settle(void) { sleep_ms(60); }

int main(void) {
    TRY("wait, another value", futex(&word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0));
    FACT("wake nobody", "%ld", futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0));
    int64_t start = now_ns();
    TRY("wait, time-out", futex(&word, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){ 0, 30000000 }, NULL, 0));
    CHECK("waited", now_ns() - start >= 30000000);
    TRY("wait, no time", futex(&word, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){ 0, 0 }, NULL, 0));
    TRY("wait, bad time", futex(&word, FUTEX_WAIT_PRIVATE, 0, &(struct timespec){ 0, -1 }, NULL, 0));
    TRY("unaligned", futex((int *)((char *)&word + 1), FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    TRY("bad address", futex(OPAQUE((int *)8), FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
    TRY("unknown operation", futex(&word, 99, 0, NULL, NULL, 0));
    TRY("bitset 0", futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0));
    struct timespec past = { 0, 1 };
    TRY("bitset, absolute time in the past", futex(&word, FUTEX_WAIT_BITSET_PRIVATE, 0, &past, NULL, FUTEX_BITSET_MATCH_ANY));
    TRY("the same, real time", futex(&word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &past, NULL, FUTEX_BITSET_MATCH_ANY));

    pthread_t threads[10];
    for (int i = 0; i < 10; i++) pthread_create(&threads[i], NULL, waiter, NULL);
    settle();
    FACT("wake 3", "%ld", futex(&word, FUTEX_WAKE_PRIVATE, 3, NULL, NULL, 0));
    settle();
    FACT("woken", "%d", woken);
    FACT("requeue: wake 2, move the rest", "%ld", futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 2, (void *)100L, &second, 0));
    settle();
    FACT("woken", "%d", woken);
    FACT("at the old word", "%ld", futex(&word, FUTEX_WAKE_PRIVATE, 100, NULL, NULL, 0));
    FACT("at the new word", "%ld", futex(&second, FUTEX_WAKE_PRIVATE, 100, NULL, NULL, 0));
    long errors = 0;
    for (int i = 0; i < 10; i++) {
        void *value;
        pthread_join(threads[i], &value);
        errors += (long)value;
    }
    FACT("errors", "%ld", errors);
    TRY("requeue, value changed", futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 1, (void *)1L, &second, 7));

    woken = 0;
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, bit_waiter, (void *)(intptr_t)(1 << i));
    settle();
    FACT("bitset 2", "%ld", futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 2));
    settle();
    FACT("woken", "%d", woken);
    FACT("bitset 13", "%ld", futex(&word, FUTEX_WAKE_BITSET_PRIVATE, 10, NULL, NULL, 13));
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    FACT("woken", "%d", woken);

    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, waiter, NULL);
    settle();
    second = 5;
    int op = FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5);
    FACT("wake_op", "%ld", futex(&word, FUTEX_WAKE_OP_PRIVATE, 2, (void *)1L, &second, op));
    FACT("its word", "%d", second);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);

    // Shared between processes, through one mapping; private ones do not meet.
    int *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = (pid_t)MUST(fork());
    if (pid == 0) {
        long result;
        do result = futex(shared, FUTEX_WAIT, 0, NULL, NULL, 0);
        while (result == -1 && errno == EINTR);
        _exit(result == 0 ? 0 : 1);
    }
    settle();
    FACT("private wake does not reach it", "%ld", futex(shared, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
    FACT("shared wake does", "%ld", futex(shared, FUTEX_WAKE, 1, NULL, NULL, 0));
    reap("waiter", pid);
    void *head = NULL;
    size_t length = 0;
    TRY("get_robust_list", syscall(SYS_get_robust_list, 0, &head, &length));
    FACT("length", "%zu", length);
    TRY("set_robust_list, wrong size", syscall(SYS_set_robust_list, head, 1));
    return done();
}
