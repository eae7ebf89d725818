//: group = "A"
//: summary = "brk and sbrk: grow, shrink, zeroes on growing again, fault beyond the end"
//: link = ["static"]
#include "check.h"

static char *current(void) { return (char *)syscall(SYS_brk, 0); }

int main(void) {
    char *start = current();
    CHECK("start", start != NULL);
    CHECK("grow", (char *)syscall(SYS_brk, start + 10 * PAGE) == start + 10 * PAGE);
    size_t sum = 0;
    for (size_t i = 0; i < 10 * PAGE; i++) sum += (unsigned char)start[i];
    FACT("new memory", "%zu", sum);
    memset(start, 0x5a, 10 * PAGE);
    CHECK("shrink", (char *)syscall(SYS_brk, start + 2 * PAGE) == start + 2 * PAGE);
    CHECK("what stays", start[PAGE] == 0x5a);
    CHILD("touch beyond the end") start[4 * PAGE] = 1;
    CHECK("grow again", (char *)syscall(SYS_brk, start + 5 * PAGE + 1) == start + 5 * PAGE + 1);
    for (size_t i = 2 * PAGE; i < 5 * PAGE; i++) sum += (unsigned char)start[i];
    FACT("memory that came back", "%zu", sum);
    start[5 * PAGE + 100] = 1;
    CHECK("rest of the last page", start[5 * PAGE + 101] == 0);
    CHECK("below the start changes nothing", (char *)syscall(SYS_brk, 4096) == start + 5 * PAGE + 1);
    CHECK("absurd size changes nothing", (char *)syscall(SYS_brk, 0x7fffffffffffUL) == start + 5 * PAGE + 1);
    CHECK("sbrk too much", sbrk(INTPTR_MAX / 2) == (void *)-1 && errno == ENOMEM);
    start[0] = 9;
    CHILD("child has its own") {
        start[0] = 1;
        syscall(SYS_brk, start + PAGE);
        _exit(start[0]);
    }
    CHECK("parent keeps its own", start[0] == 9 && current() > start + 4 * PAGE);
    return done();
}
