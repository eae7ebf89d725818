//: group = "A"
//: summary = "malloc, realloc and free of a million blocks: brk and mmap grow and shrink"
//: link = ["static", "dynamic"]
#include "check.h"
#include <malloc.h>

static uint32_t state = 12345;
static uint32_t next(void) { return state = state * 1664525 + 1013904223; }

int main(void) {
    enum { SLOTS = 4096 };
    static unsigned char *slot[SLOTS];
    static size_t size[SLOTS];
    unsigned wrong = 0;
    for (int i = 0; i < 1000000; i++) {
        unsigned k = next() >> 16 & (SLOTS - 1);
        if (slot[k]) wrong += slot[k][0] != (unsigned char)k || slot[k][size[k] - 1] != (unsigned char)k;
        size_t want = next() >> 24 == 0 ? 200000 : 1 + (next() >> 20);
        if (i & 1) {
            slot[k] = realloc(slot[k], want);
        } else {
            free(slot[k]);
            slot[k] = malloc(want);
        }
        size[k] = want;
        slot[k][0] = slot[k][want - 1] = (unsigned char)k;
    }
    FACT("wrong", "%u", wrong);
    for (int k = 0; k < SLOTS; k++) free(slot[k]);
    malloc_trim(0);
    char *big = calloc(1, 64 << 20);
    size_t nonzero = 0;
    for (size_t i = 0; i < 64 << 20; i += 512) nonzero += big[i] != 0;
    FACT("calloc nonzero", "%zu", nonzero);
    memset(big, 1, 64 << 20);
    free(big);
    big = calloc(1, 64 << 20);
    for (size_t i = 0; i < 64 << 20; i += 512) nonzero += big[i] != 0;
    FACT("calloc after free nonzero", "%zu", nonzero);
    void *aligned = NULL;
    FACT("posix_memalign", "%d", posix_memalign(&aligned, 1 << 21, 100));
    CHECK("aligned", ((uintptr_t)aligned & ((1 << 21) - 1)) == 0);
    CHECK("too much", malloc(PTRDIFF_MAX / 2) == NULL && errno == ENOMEM);
    return done();
}
