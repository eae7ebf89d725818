//: group = "D"
//: summary = "mutexes of all kinds, condition variables, barriers, read-write locks, spin locks, semaphores"
//: link = ["static", "dynamic"]
#include "check.h"
#include <pthread.h>
#include <semaphore.h>

enum { THREADS = 8, ROUNDS = 20000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_spinlock_t spin;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static sem_t semaphore, full, empty;
static long counter, serial, phase_errors;
static int phase[THREADS], turn, ring[16], ring_in, ring_out;

static void *with_mutex(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
static void *with_spin(void *argument) {
    for (int i = 0; i < ROUNDS; i++) {
        pthread_spin_lock(&spin);
        counter++;
        pthread_spin_unlock(&spin);
    }
    return NULL;
}
static void *with_atomics(void *argument) {
    for (int i = 0; i < ROUNDS; i++) __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
    return NULL;
}
static void *with_rwlock(void *argument) {
    long bad = 0;
    for (int i = 0; i < ROUNDS / 4; i++)
        if (i % 8 == 0) {
            pthread_rwlock_wrlock(&rwlock);
            counter++, serial++;
            pthread_rwlock_unlock(&rwlock);
        } else {
            pthread_rwlock_rdlock(&rwlock);
            bad += counter != serial;
            pthread_rwlock_unlock(&rwlock);
        }
    return (void *)bad;
}
static void *with_barrier(void *argument) {
    int self = (int)(intptr_t)argument;
    long last = 0;
    for (int i = 1; i <= 200; i++) {
        phase[self] = i;
        last += pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD;
        for (int k = 0; k < THREADS; k++)
            if (phase[k] < i) __atomic_add_fetch(&phase_errors, 1, __ATOMIC_RELAXED);
        pthread_barrier_wait(&barrier);
    }
    return (void *)last;
}
static void *in_turn(void *argument) {
    int self = (int)(intptr_t)argument;
    for (int i = 0; i < 300; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != self) pthread_cond_wait(&cond, &mutex);
        turn = (turn + 1) % THREADS;
        counter++;
        pthread_cond_broadcast(&cond);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}
static void *producer(void *argument) {
    for (int i = 1; i <= ROUNDS; i++) {
        sem_wait(&empty);
        ring[ring_in++ % 16] = i;
        sem_post(&full);
    }
    return NULL;
}
static void *consumer(void *argument) {
    long sum = 0;
    for (int i = 1; i <= ROUNDS; i++) {
        sem_wait(&full);
        sum += ring[ring_out++ % 16];
        sem_post(&empty);
    }
    return (void *)sum;
}

static long run(void *(*body)(void *), int count) {
    pthread_t threads[THREADS];
    long sum = 0;
    for (int i = 0; i < count; i++) pthread_create(&threads[i], NULL, body, (void *)(intptr_t)i);
    for (int i = 0; i < count; i++) {
        void *value;
        pthread_join(threads[i], &value);
        sum += (long)value;
    }
    return sum;
}

int main(void) {
    run(with_mutex, THREADS);
    FACT("mutex", "%ld", counter);
    counter = 0;
    pthread_spin_init(&spin, 0);
    run(with_spin, 4);
    FACT("spin lock", "%ld", counter);
    counter = 0;
    run(with_atomics, THREADS);
    FACT("atomics", "%ld", counter);
    counter = 0;
    FACT("readers saw a torn state", "%ld", run(with_rwlock, THREADS));
    FACT("writers", "%ld", counter);
    pthread_barrier_init(&barrier, NULL, THREADS);
    FACT("barrier, one of them each time", "%ld", run(with_barrier, THREADS));
    FACT("barrier passed too early", "%ld", phase_errors);
    counter = 0;
    run(in_turn, THREADS);
    FACT("in turn", "%ld %d", counter, turn);
    sem_init(&full, 0, 0), sem_init(&empty, 0, 16);
    pthread_t a, b;
    void *sum;
    pthread_create(&a, NULL, consumer, NULL), pthread_create(&b, NULL, producer, NULL);
    pthread_join(b, NULL), pthread_join(a, &sum);
    FACT("producer and consumer", "%ld", (long)sum);

    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    static const int kinds[] = { PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_RECURSIVE, PTHREAD_MUTEX_ERRORCHECK };
    for (size_t i = 0; i < LEN(kinds); i++) {
        pthread_mutex_t m;
        pthread_mutexattr_settype(&attributes, kinds[i]);
        pthread_mutex_init(&m, &attributes);
        pthread_mutex_lock(&m);
        FACT("kind, trylock of one's own", "%zu %s", i, errno_name(pthread_mutex_trylock(&m)));
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 20000000;
        if (soon.tv_nsec >= 1000000000) soon.tv_sec++, soon.tv_nsec -= 1000000000;
        FACT("timedlock", "%s", errno_name(pthread_mutex_timedlock(&m, &soon)));
        pthread_mutex_unlock(&m);
    }
    pthread_mutex_t robust;
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_NORMAL);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    pthread_create(&a, NULL, (void *(*)(void *))(void (*)(void))pthread_mutex_lock, &robust);
    pthread_join(a, NULL);
    FACT("robust mutex, owner died", "%s", errno_name(pthread_mutex_lock(&robust)));
    FACT("made consistent", "%d", pthread_mutex_consistent(&robust));
    FACT("unlock", "%d", pthread_mutex_unlock(&robust));
    pthread_mutex_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(shared, &attributes);
    CHILD("dies with a robust shared mutex") pthread_mutex_lock(shared);
    FACT("owner's process died", "%s", errno_name(pthread_mutex_lock(shared)));

    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec -= 1;
    pthread_mutex_lock(&mutex);
    FACT("condition, time is over", "%s", errno_name(pthread_cond_timedwait(&cond, &mutex, &until)));
    int64_t start = now_ns();
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 30000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    FACT("condition, monotonic", "%s", errno_name(pthread_cond_clockwait(&cond, &mutex, CLOCK_MONOTONIC, &until)));
    CHECK("waited", now_ns() - start >= 30000000);
    pthread_mutex_unlock(&mutex);
    sem_init(&semaphore, 0, 1);
    TRY("semaphore", sem_trywait(&semaphore));
    TRY("semaphore again", sem_trywait(&semaphore));
    sem_t *named = sem_open("/conformance", O_CREAT, 0600, 3);
    int value = -1;
    CHECK("named semaphore", named != SEM_FAILED && sem_getvalue(named, &value) == 0 && value == 3);
    CHILD("another process posts") {
        sem_t *own = sem_open("/conformance", 0);
        _exit(own == SEM_FAILED || sem_post(own) != 0);
    }
    sem_getvalue(named, &value);
    FACT("value", "%d", value);
    TRY("sem_unlink", sem_unlink("/conformance"));
    return done();
}
