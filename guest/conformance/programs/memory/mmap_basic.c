//: group = "A"
//: summary = "anonymous mmap: hints, fixed, noreplace, partial munmap, zeroes, errors"
//: link = ["static", "dynamic"]
#include "check.h"

static const int RW = PROT_READ | PROT_WRITE;
static const int ANON = MAP_PRIVATE | MAP_ANONYMOUS;

static void mapped(const char *name, const void *at) {
    // mincore tells whether there is a mapping without touching it.
    unsigned char present;
    FACT(name, "%s", mincore((void *)at, PAGE, &present) == 0 ? "mapped" : errno_name(errno));
}

int main(void) {
    char *a = map_anonymous(8 * PAGE);
    CHECK("page aligned", ((uintptr_t)a & (PAGE - 1)) == 0);
    size_t sum = 0;
    for (size_t i = 0; i < 8 * PAGE; i++) sum += (unsigned char)a[i];
    FACT("sum", "%zu", sum);
    for (int i = 0; i < 8; i++) a[(size_t)i * PAGE] = (char)('a' + i);

    TRY("munmap the middle", munmap(a + 3 * PAGE, 2 * PAGE));
    mapped("page 2", a + 2 * PAGE), mapped("page 3", a + 3 * PAGE), mapped("page 4", a + 4 * PAGE), mapped("page 5", a + 5 * PAGE);
    FACT("neighbours", "%c %c", a[2 * PAGE], a[5 * PAGE]);
    CHILD("touch the hole") a[3 * PAGE] = 1;
    CHECK("hint is taken when free", mmap(a + 3 * PAGE, PAGE, RW, ANON, -1, 0) == a + 3 * PAGE);
    CHECK("fresh page is zero", a[3 * PAGE] == 0);
    char *other = mmap(a + 2 * PAGE, 3 * PAGE, RW, ANON, -1, 0);
    CHECK("hint is not taken when in use", other != MAP_FAILED && other != a + 2 * PAGE && a[2 * PAGE] == 'c');
    CHECK("MAP_FIXED replaces", mmap(a + 2 * PAGE, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0) == a + 2 * PAGE && a[2 * PAGE] == 0);
    TRY("MAP_FIXED_NOREPLACE in use", mmap(a, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    CHECK("still there", a[0] == 'a');
    CHECK("MAP_FIXED_NOREPLACE free", mmap(a + 4 * PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0) == a + 4 * PAGE);

    TRY("length 0", mmap(NULL, 0, RW, ANON, -1, 0));
    TRY("no private, no shared", mmap(NULL, PAGE, RW, MAP_ANONYMOUS, -1, 0));
    TRY("fixed, unaligned", mmap(a + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    TRY("unaligned offset", mmap(NULL, PAGE, RW, MAP_PRIVATE, 0, 100));
    TRY("bad descriptor", mmap(NULL, PAGE, RW, MAP_PRIVATE, 77, 0));
    TRY("pipe", ({ int p[2]; MUST(pipe(p)); mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, p[0], 0); }));
    TRY("kernel address", mmap((void *)0xffff800000000000UL, PAGE, RW, ANON | MAP_FIXED, -1, 0));
    TRY("absurd length", mmap(NULL, 1UL << 60, RW, ANON | MAP_NORESERVE, -1, 0));
    TRY("munmap unaligned", munmap(a + 1, PAGE));
    TRY("munmap length 0", munmap(a, 0));
    TRY("munmap of nothing", munmap(a + 3 * PAGE, PAGE));
    TRY("munmap of nothing again", munmap(a + 3 * PAGE, PAGE));
    TRY("munmap over holes", munmap(a, 8 * PAGE));
    mapped("all gone", a);

    // A length that is no multiple of the page is rounded up.
    char *b = mmap(NULL, PAGE + 1, RW, ANON, -1, 0);
    b[2 * PAGE - 1] = 1;
    TRY("munmap rounds up", munmap(b, PAGE + 1));
    mapped("second page", b + PAGE);

    // Many mappings, every second one removed.
    enum { MANY = 2000 };
    static char *many[MANY];
    for (int i = 0; i < MANY; i++) {
        many[i] = mmap(NULL, PAGE * (1 + (size_t)i % 3), i % 2 ? PROT_READ : RW, ANON, -1, 0);
        if (i % 2 == 0) *many[i] = (char)i;
    }
    for (int i = 0; i < MANY; i += 4) MUST(munmap(many[i], PAGE * (1 + (size_t)i % 3)));
    unsigned wrong = 0;
    for (int i = 2; i < MANY; i += 4) wrong += *many[i] != (char)i;
    FACT("wrong of many", "%u", wrong);
    char *low = mmap((void *)0x10000000, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK("low fixed address", low == (char *)0x10000000 && (*low = 1));
    char *in32 = mmap(NULL, PAGE, RW, ANON | MAP_32BIT, -1, 0);
    CHECK("MAP_32BIT", in32 != MAP_FAILED && (uintptr_t)in32 < 0x80000000UL);
    char *populated = mmap(NULL, 16 * PAGE, RW, ANON | MAP_POPULATE, -1, 0);
    unsigned char present[16];
    MUST(mincore(populated, 16 * PAGE, present));
    int count = 0;
    for (int i = 0; i < 16; i++) count += present[i] & 1;
    FACT("MAP_POPULATE pages present", "%d", count);
    return done();
}
