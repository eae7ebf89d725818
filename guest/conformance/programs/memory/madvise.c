//: group = "B"
//: summary = "madvise DONTNEED and FREE, WIPEONFORK, DONTFORK, POPULATE; hints; errors"
//: link = ["static"]
#include "check.h"

int main(void) {
    char *a = map_anonymous(64 * PAGE);
    memset(a, 1, 64 * PAGE);
    TRY("DONTNEED of the middle", madvise(a + 8 * PAGE, 16 * PAGE, MADV_DONTNEED));
    size_t sum = 0;
    for (size_t i = 0; i < 64 * PAGE; i++) sum += (unsigned char)a[i];
    FACT("sum", "%zu", sum / PAGE);
    a[8 * PAGE] = 3;
    CHECK("writable again", a[8 * PAGE] == 3);

    enter_scratch();
    int fd = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    MUST(write(fd, "file content", 12));
    char *file = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    file[0] = 'F';
    TRY("DONTNEED of a private file page", madvise(file, PAGE, MADV_DONTNEED));
    FACT("shows the file again", "%s", file);
    char *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[0] = 'S';
    TRY("DONTNEED of a shared page", madvise(shared, PAGE, MADV_DONTNEED));
    FACT("keeps the content", "%c", shared[0]);

    TRY("FREE", madvise(a, 4 * PAGE, MADV_FREE));
    a[0] = 5;
    FACT("written after FREE", "%d", a[0]);
    TRY("WIPEONFORK", madvise(a + 30 * PAGE, PAGE, MADV_WIPEONFORK));
    TRY("DONTFORK", madvise(a + 32 * PAGE, PAGE, MADV_DONTFORK));
    CHILD("wiped in the child") _exit(a[30 * PAGE] == 0 && a[31 * PAGE] == 1 ? 0 : 1);
    CHILD("missing in the child") _exit(a[32 * PAGE]);
    FACT("parent's", "%d %d", a[30 * PAGE], a[32 * PAGE]);
    TRY("KEEPONFORK", madvise(a + 30 * PAGE, PAGE, MADV_KEEPONFORK));
    TRY("DOFORK", madvise(a + 32 * PAGE, PAGE, MADV_DOFORK));
    CHILD("both there") _exit(a[30 * PAGE] == 1 && a[32 * PAGE] == 1 ? 0 : 1);
    TRY("WIPEONFORK of a file", madvise(file, PAGE, MADV_WIPEONFORK));

    static const int hints[] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
                                 MADV_DONTDUMP, MADV_DODUMP, MADV_COLD };
    for (size_t i = 0; i < LEN(hints); i++) TRY("hint", madvise(a, 4 * PAGE, hints[i]));
    TRY("POPULATE_WRITE", madvise(a + 8 * PAGE, 16 * PAGE, MADV_POPULATE_WRITE));
    unsigned char present[16];
    MUST(mincore(a + 8 * PAGE, 16 * PAGE, present));
    int count = 0;
    for (int i = 0; i < 16; i++) count += present[i] & 1;
    FACT("present", "%d", count);
    TRY("unaligned", madvise(a + 1, PAGE, MADV_DONTNEED));
    TRY("unknown advice", madvise(a, PAGE, 999));
    TRY("length 0", madvise(a, 0, MADV_DONTNEED));
    MUST(munmap(a + 40 * PAGE, PAGE));
    TRY("over a hole", madvise(a + 39 * PAGE, 3 * PAGE, MADV_DONTNEED));
    FACT("both sides of the hole", "%d %d", a[39 * PAGE], a[41 * PAGE]);

    // A thousand rounds must not use up memory.
    char *big = map_anonymous(32 << 20);
    for (int i = 0; i < 50; i++) {
        for (size_t at = 0; at < 32 << 20; at += PAGE) big[at] = 1;
        MUST(madvise(big, 32 << 20, MADV_DONTNEED));
    }
    FACT("after many rounds", "%d", big[0]);
    TRY("mlock", mlock(a, PAGE));
    TRY("munlock", munlock(a, PAGE));
    TRY("msync of anonymous memory", msync(a, PAGE, MS_SYNC));
    TRY("msync of nothing", msync(a + 40 * PAGE, PAGE, MS_SYNC));
    TRY("msync with bad flags", msync(a, PAGE, MS_SYNC | MS_ASYNC));
    return done();
}
