//: group = "F"
//: summary = "as many threads as RLIMIT_NPROC or memory allow: EAGAIN, never a crash; guard pages"
//: link = ["dynamic"]
#include "check.h"
#include <pthread.h>

static pthread_mutex_t hold = PTHREAD_MUTEX_INITIALIZER;
static void *waits(void *argument) {
    pthread_mutex_lock(&hold);
    pthread_mutex_unlock(&hold);
    return NULL;
}
static void *overflows(void *argument) {
    volatile char frame[4096];
    frame[0] = 1;
    void *deeper = overflows((void *)(frame + 1));
    frame[1] = 1;
    return deeper;
}

int main(void) {
    enum { MANY = 1000 };
    static pthread_t threads[MANY];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    pthread_mutex_lock(&hold);
    int made = 0;
    while (made < MANY && pthread_create(&threads[made], &attributes, waits, NULL) == 0) made++;
    FACT("threads at once", "%d", made);
    pthread_mutex_unlock(&hold);
    for (int i = 0; i < made; i++) pthread_join(threads[i], NULL);
    CHILD("overflow of a thread's stack hits its guard page") {
        pthread_create(&threads[0], &attributes, overflows, NULL);
        pthread_join(threads[0], NULL);
    }
    pthread_attr_setstacksize(&attributes, 1UL << 46);
    FACT("absurd stack", "%s", errno_name(pthread_create(&threads[0], &attributes, waits, NULL)));
    FACT("stack below the least", "%s", errno_name(pthread_attr_setstacksize(&attributes, 1000)));
    return done();
}
