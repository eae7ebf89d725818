//: group = "D"
//: summary = "a child that takes more memory than there is is killed; the parent and what it has go on"
//: link = ["static"]
//: memory = "256M"
//: limit-memory = true
#include "check.h"

static void hog(size_t total) {
    for (size_t i = 0; i < total; i += 4 << 20) {
        char *block = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) _exit(3);
        memset(block, 1, 4 << 20);
    }
}

int main(void) {
    char *mine = map_anonymous(8 << 20);
    memset(mine, 1, 8 << 20);
    CHILD("takes 1 GiB of 256 MiB") hog(1UL << 30);
    CHILD("takes 64 MiB") hog(64 << 20);
    CHILD("again too much") hog(1UL << 30);
    CHILD("grandchild is the one that dies") {
        CHILD("hog") hog(1UL << 30);
        hog(32 << 20);
    }
    size_t sum = 0;
    for (size_t i = 0; i < 8 << 20; i++) sum += (size_t)mine[i];
    FACT("parent's memory", "%zu", sum);
    FACT("and more of it", "%d", (memset(map_anonymous(100 << 20), 1, 100 << 20), 1));
    return done();
}
