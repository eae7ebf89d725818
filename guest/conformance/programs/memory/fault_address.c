//: group = "B"
//: summary = "the faulting address where the instruction hardly shows it: bit tests with far offsets, page borders, string moves"
//: link = ["static"]
#include "check.h"

int main(void) {
    unsigned char *area = mmap(0, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) return 1;
    MUST(munmap(area, 4096));
    // The base is not mapped; the bit lies 16 KiB further, in a page that was never touched.
    long bit = (16384L + 64) * 8;
    unsigned char carry;
    __asm__ volatile("btsq %2, (%1); setc %0" : "=r"(carry) : "r"(area), "r"(bit) : "memory", "cc");
    FACT("bts", "%d %d", carry, area[16384 + 64]);

    // Eight bytes across a page border: both pages are fresh.
    *(volatile unsigned long *)(area + 3 * 4096 - 4) = 0x1122334455667788;
    FACT("across a border", "%x %x", area[3 * 4096 - 4], area[3 * 4096 + 3]);

    // A string move from a fresh page to a fresh page.
    memset(area + 5 * 4096, 7, 1);
    long count = 5000;
    unsigned char *to = area + 9 * 4096 + 100, *from = area + 5 * 4096;
    __asm__ volatile("rep movsb" : "+c"(count), "+D"(to), "+S"(from) : : "memory");
    FACT("rep movsb", "%d %d", area[9 * 4096 + 100], area[9 * 4096 + 101]);
    return done();
}
