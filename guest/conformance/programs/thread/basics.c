//: group = "D"
//: summary = "pthread create, join, detach, exit values, thread-local storage, keys, once, attributes, many threads"
//: link = ["static", "dynamic"]
#include "check.h"
#include <pthread.h>

static _Thread_local int local = 5;
static _Thread_local char big_local[20000];
static pthread_key_t key;
static int destroyed, once_count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *twice(void *argument) { return (void *)((intptr_t)argument * 2); }
static void *leaves(void *argument) {
    pthread_exit((void *)77);
    return NULL;
}
static void *locals(void *argument) {
    int first = local;
    local = (int)(intptr_t)argument;
    big_local[19999] = (char)local;
    sched_yield();
    return (void *)(intptr_t)(first == 5 && local == (int)(intptr_t)argument && big_local[19999] == (char)local && big_local[0] == 0);
}
static void on_key(void *value) { destroyed += (int)(intptr_t)value; }
static void *with_key(void *argument) {
    if (pthread_getspecific(key)) return NULL;
    pthread_setspecific(key, argument);
    return pthread_getspecific(key);
}
static void run_once(void) { once_count++; }
static void *calls_once(void *argument) {
    pthread_once(&once, run_once);
    return NULL;
}
static void *ids(void *argument) {
    pid_t *out = argument;
    out[0] = getpid(), out[1] = (pid_t)syscall(SYS_gettid), out[2] = getppid();
    return NULL;
}
static void *deep(void *argument) {
    volatile char frame[900 << 10];
    frame[0] = 1;
    frame[sizeof frame - 1] = 2;
    return (void *)(intptr_t)(frame[0] + frame[sizeof frame - 1]);
}
static void *sleeper(void *argument) {
    sleep_ms(20);
    return NULL;
}
static int gate[2];
static void *detached(void *argument) {
    write(gate[1], "x", 1);
    return NULL;
}

int main(void) {
    pthread_t thread, many[200];
    void *value;
    FACT("create", "%d", pthread_create(&thread, NULL, twice, (void *)21));
    FACT("join", "%d", pthread_join(thread, &value));
    FACT("value", "%ld", (long)value);
    pthread_create(&thread, NULL, leaves, NULL);
    pthread_join(thread, &value);
    FACT("pthread_exit", "%ld", (long)value);

    long good = 0;
    for (int i = 0; i < 200; i++) pthread_create(&many[i], NULL, locals, (void *)(intptr_t)i);
    for (int i = 0; i < 200; i++) pthread_join(many[i], &value), good += (long)value;
    FACT("200 threads, each with its own", "%ld", good);
    FACT("main's own", "%d %d", local, big_local[19999]);

    pthread_key_create(&key, on_key);
    for (int i = 0; i < 10; i++) pthread_create(&many[i], NULL, with_key, (void *)(intptr_t)(i + 1));
    for (int i = 0; i < 10; i++) pthread_join(many[i], NULL);
    FACT("key destructors", "%d", destroyed);
    for (int i = 0; i < 10; i++) pthread_create(&many[i], NULL, calls_once, NULL);
    for (int i = 0; i < 10; i++) pthread_join(many[i], NULL);
    FACT("once", "%d", once_count);

    pid_t seen[3];
    pthread_create(&thread, NULL, ids, seen);
    pthread_join(thread, NULL);
    CHECK("one pid, another tid", seen[0] == getpid() && seen[1] != getpid() && seen[1] > 0 && seen[2] == getppid());
    CHECK("main's tid is the pid", syscall(SYS_gettid) == getpid());
    TRY("tgkill of a thread that is gone", syscall(SYS_tgkill, getpid(), seen[1], 0));

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    size_t size;
    pthread_attr_getstacksize(&attributes, &size);
    FACT("stack size", "%zu", size);
    FACT("1 MiB", "%d", pthread_attr_setstacksize(&attributes, 1 << 20));
    pthread_create(&thread, &attributes, deep, NULL);
    pthread_join(thread, &value);
    FACT("uses nearly all of it", "%ld", (long)value);
    pthread_getattr_np(pthread_self(), &attributes);
    void *stack;
    pthread_attr_getstack(&attributes, &stack, &size);
    CHECK("main's stack holds this frame", (char *)stack < (char *)&stack && (char *)stack + size > (char *)&stack);

    MUST(pipe(gate));
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_create(&thread, &attributes, detached, NULL);
    char c;
    FACT("detached runs", "%zd", read(gate[0], &c, 1));
    pthread_create(&thread, NULL, sleeper, NULL);
    FACT("tryjoin", "%s", errno_name(pthread_tryjoin_np(thread, NULL)));
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    FACT("timedjoin, too early", "%s", errno_name(pthread_timedjoin_np(thread, NULL, &until)));
    FACT("join", "%d", pthread_join(thread, NULL));
    FACT("join oneself", "%s", errno_name(pthread_join(pthread_self(), NULL)));
    char name[16];
    pthread_setname_np(pthread_self(), "renamed");
    pthread_getname_np(pthread_self(), name, sizeof name);
    FACT("name", "%s", name);

    for (int round = 0; round < 2000; round++) {
        pthread_create(&thread, NULL, twice, (void *)1);
        pthread_join(thread, NULL);
    }
    FACT("two thousand one after another", "ok");
    return done();
}
