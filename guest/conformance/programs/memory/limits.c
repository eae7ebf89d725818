//: group = "D"
//: summary = "RLIMIT_AS, RLIMIT_DATA and RLIMIT_STACK give ENOMEM or SIGSEGV"
//: link = ["static"]
//: memory = "256M"
#include "check.h"
#include <sys/resource.h>

__attribute__((noinline)) static int two_mib(void) {
    volatile char big[2 << 20];
    big[0] = 1;
    return big[0];
}

int main(void) {
    char *mine = map_anonymous(8 << 20);
    memset(mine, 1, 8 << 20);
    CHILD("address space limit: ENOMEM") {
        struct rlimit limit = { 64 << 20, 64 << 20 };
        MUST(setrlimit(RLIMIT_AS, &limit));
        if (mmap(NULL, 128 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) _exit(1);
        if (errno != ENOMEM) _exit(2);
        if (malloc(100 << 20) != NULL) _exit(3);
    }
    CHILD("data limit: ENOMEM") {
        struct rlimit limit = { 32 << 20, 32 << 20 };
        MUST(setrlimit(RLIMIT_DATA, &limit));
        if (mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) _exit(1);
        if (sbrk(64 << 20) != (void *)-1 || errno != ENOMEM) _exit(2);
    }
    CHILD("stack limit") {
        struct rlimit limit = { 1 << 20, 1 << 20 };
        MUST(setrlimit(RLIMIT_STACK, &limit));
        _exit(two_mib());
    }
    size_t sum = 0;
    for (size_t i = 0; i < 8 << 20; i++) sum += (size_t)mine[i];
    FACT("parent's memory", "%zu", sum);
    return done();
}
