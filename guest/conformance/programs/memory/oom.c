//: group = "D"
//: summary = "a child that takes more memory than there is is killed; the parent and what it has go on"
//: link = ["static"]
//: memory = "256M"
//: limit-memory = true
#include "check.h"

static void take(size_t total) {
    for (size_t i = 0; i < total; i += 4 << 20) {
        char *block = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) _exit(3);
        memset(block, 1, 4 << 20);
    }
}

static void adjust(const char *score) {
    int fd = (int)MUST(open("/proc/self/oom_score_adj", O_WRONLY));
    MUST(write(fd, score, strlen(score)));
    MUST(close(fd));
}

int main(void) {
    char *mine = map_anonymous(8 << 20);
    memset(mine, 1, 8 << 20);
    CHILD("takes 1 GiB of 256 MiB") take(1UL << 30);
    CHILD("takes 64 MiB") take(64 << 20);
    CHILD("again too much") take(1UL << 30);
    CHILD("grandchild is the one that dies") {
        CHILD("hog") take(1UL << 30);
        take(32 << 20);
    }
    // The one that has most is killed, not the one that asks, unless it says otherwise.
    int ready[2];
    for (int offers = 0; offers < 2; offers++) {
        MUST(pipe(ready));
        pid_t big = (pid_t)MUST(fork());
        if (big == 0) {
            take(130 << 20);
            write(ready[1], "x", 1);
            pause();
        }
        char byte;
        MUST(read(ready[0], &byte, 1));
        pid_t small = (pid_t)MUST(fork());
        if (small == 0) {
            if (offers) adjust("1000");
            take(120 << 20);
            _exit(0);
        }
        reap(offers ? "offers itself" : "asks beside a big one", small);
        if (offers) MUST(kill(big, SIGTERM));
        reap(offers ? "the big one beside it" : "the big one", big);
        MUST(close(ready[0])), MUST(close(ready[1]));
    }
    size_t sum = 0;
    for (size_t i = 0; i < 8 << 20; i++) sum += (size_t)mine[i];
    FACT("parent's memory", "%zu", sum);
    FACT("and more of it", "%d", (memset(map_anonymous(100 << 20), 1, 100 << 20), 1));
    return done();
}
