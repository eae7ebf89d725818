//: group = "B"
//: summary = "mremap: grow in place and elsewhere, shrink, fixed target, content and zeroes, errors"
//: link = ["static"]
#include "check.h"

static char *fill(size_t pages) {
    char *at = map_anonymous(pages * PAGE);
    for (size_t i = 0; i < pages * PAGE; i++) at[i] = (char)(i / PAGE + 1);
    return at;
}

static size_t wrong(const char *at, size_t pages, size_t total) {
    size_t bad = 0;
    for (size_t i = 0; i < total * PAGE; i++) bad += at[i] != (i < pages * PAGE ? (char)(i / PAGE + 1) : 0);
    return bad;
}

int main(void) {
    // Room for growing in place: the hole after the mapping is ours.
    char *room = map_anonymous(16 * PAGE);
    MUST(munmap(room, 16 * PAGE));
    char *a = mmap(room, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    for (size_t i = 0; i < 2 * PAGE; i++) a[i] = (char)(i / PAGE + 1);
    CHECK("grow in place", mremap(a, 2 * PAGE, 6 * PAGE, 0) == a);
    FACT("wrong", "%zu", wrong(a, 2, 6));
    CHECK("shrink", mremap(a, 6 * PAGE, PAGE, 0) == a);
    unsigned char present;
    TRY("what was cut off", mincore(a + PAGE, PAGE, &present));

    char *b = fill(4);
    char *fence = mmap(b + 4 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TRY("cannot grow", fence == b + 4 * PAGE ? mremap(b, 4 * PAGE, 8 * PAGE, 0) : mremap(b, 4 * PAGE, 1UL << 46, 0));
    char *moved = mremap(b, 4 * PAGE, 600 * PAGE, MREMAP_MAYMOVE);
    CHECK("grow elsewhere", moved != MAP_FAILED && moved != b);
    FACT("wrong", "%zu", wrong(moved, 4, 600));
    TRY("old place", mincore(b, PAGE, &present));

    char *target = map_anonymous(8 * PAGE);
    memset(target, 7, 8 * PAGE);
    char *c = fill(3);
    CHECK("fixed", mremap(c, 3 * PAGE, 3 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target + 2 * PAGE) == target + 2 * PAGE);
    FACT("wrong", "%zu", wrong(target + 2 * PAGE, 3, 3));
    FACT("around it", "%d %d", target[2 * PAGE - 1], target[5 * PAGE]);
    char *d = fill(6);
    char *part = mremap(d + 2 * PAGE, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    FACT("middle moved", "%d %d", part[0], part[PAGE]);
    FACT("rest stays", "%d %d", d[PAGE], d[4 * PAGE]);
    TRY("hole", mincore(d + 2 * PAGE, PAGE, &present));

    TRY("fixed without maymove", mremap(d, PAGE, PAGE, MREMAP_FIXED, target));
    TRY("overlap", mremap(d, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, d + PAGE));
    TRY("unaligned", mremap(d + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    TRY("new length 0", mremap(d, PAGE, 0, MREMAP_MAYMOVE));
    TRY("nothing there", mremap(d + 2 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    TRY("over a hole", mremap(d, 6 * PAGE, 7 * PAGE, MREMAP_MAYMOVE));
    TRY("unknown flag", mremap(d, PAGE, PAGE, 0x100));

    enter_scratch();
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    for (int i = 0; i < 4; i++) {
        char page[4096];
        memset(page, i + 1, sizeof page);
        MUST(write(fd, page, sizeof page));
    }
    char *file = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)PAGE);
    file = mremap(file, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    FACT("file mapping grown", "%d %d %d", file[0], file[PAGE], file[2 * PAGE]);
    file[2 * PAGE] = 9;
    char byte;
    MUST(pread(fd, &byte, 1, 3 * (off_t)PAGE));
    FACT("file", "%d", byte);

    // realloc of a big block goes through mremap; the content is kept.
    char *block = malloc(1 << 20);
    memset(block, 5, 1 << 20);
    block = realloc(block, 64 << 20);
    size_t bad = 0;
    for (size_t i = 0; i < 1 << 20; i++) bad += block[i] != 5;
    FACT("realloc wrong", "%zu", bad);
    return done();
}
