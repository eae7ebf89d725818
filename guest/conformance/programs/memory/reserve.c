//: group = "B"
//: summary = "huge PROT_NONE reservations cost nothing and are used piecewise"
//: link = ["static"]
//: memory = "256M"
#include "check.h"

int main(void) {
    const size_t size = 64UL << 30;
    char *a = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK("64 GiB", a != MAP_FAILED);
    CHILD("may not be touched") a[size / 2] = 1;
    for (size_t i = 0; i < 64; i++) {
        MUST(mprotect(a + (i << 30), 2 * PAGE, PROT_READ | PROT_WRITE));
        a[(i << 30) + PAGE] = (char)i;
    }
    int sum = 0;
    for (size_t i = 0; i < 64; i++) sum += a[(i << 30) + PAGE];
    FACT("sum", "%d", sum);
    // As glibc makes arenas: reserve twice the size, keep the aligned part.
    char *arena = mmap(NULL, 128 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *aligned = (char *)(((uintptr_t)arena + (64 << 20) - 1) & ~((64UL << 20) - 1));
    if (aligned > arena) MUST(munmap(arena, (size_t)(aligned - arena)));
    MUST(munmap(aligned + (64 << 20), (size_t)(arena + (64 << 20) - aligned)));
    MUST(mprotect(aligned, 132 << 10, PROT_READ | PROT_WRITE));
    memset(aligned, 1, 132 << 10);
    CHECK("arena", aligned[131 << 10] == 1);
    // As Go does: a fixed hint high up.
    char *go = mmap((void *)0xc000000000UL, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK("hint 0xc000000000", go == (char *)0xc000000000UL);
    char *part = mmap(go, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    part[4096] = 1;
    CHECK("committed part", part == go && part[4096] == 1);
    CHILD("rest of it") go[5 << 20] = 1;
    CHILD("a child has the reservation too") {
        a[0] = 1;
        _exit(a[(5UL << 30) + PAGE]);
    }
    // Writable but untouched memory beyond what there is.
    char *lazy = mmap(NULL, 1UL << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (size_t i = 0; i < 1UL << 30; i += 64 << 20) lazy[i] = 1;
    CHECK("sparse use of 1 GiB", lazy != MAP_FAILED);
    size_t zeros = 0;
    for (size_t i = 1; i < 1UL << 30; i += 16 << 20) zeros += lazy[i] == 0;
    FACT("reads of untouched pages", "%zu", zeros);
    TRY("munmap all", munmap(a, size));
    return done();
}
