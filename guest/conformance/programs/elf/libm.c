//: group = "A"
//: summary = "two million libm calls through IFUNC-selected code, and string functions at every alignment"
//: link = ["static", "dynamic"]
//: flags = ["-lm", "-fno-builtin"]
#include "check.h"
#include <math.h>

int main(void) {
    double sum = 0;
    for (int i = 0; i < 1000000; i++) sum += sin(i * 0.001) * cos(i * 0.002);
    FACT("sin cos", "%a", sum);
    sum = 0;
    for (int i = 1; i < 300000; i++) sum += exp(-i * 1e-4) + log(i) + pow(i, 0.25) + atan2(i, 3) + fma(i, 0.5, 1);
    FACT("exp log pow atan2 fma", "%a", sum);
    FACT("float", "%a", (double)(sinf(0.5f) + expf(1.25f) + powf(1.5f, 2.5f)));
    FACT("long double", "%La", sqrtl(2.0L) + expl(1.0L));

    char *from = map_anonymous(4 * PAGE), *to = map_anonymous(4 * PAGE);
    for (size_t i = 0; i < 4 * PAGE; i++) from[i] = (char)(i * 7 + 1) ? (char)(i * 7 + 1) : 1;
    unsigned bad = 0;
    for (size_t offset = 0; offset < 64; offset++)
        for (size_t length = 0; length < 300; length += 7) {
            memset(to, 0, 512);
            memcpy(to + offset, from + 64 - offset, length);
            bad += memcmp(to + offset, from + 64 - offset, length) != 0 || to[offset + length] != 0;
            bad += strlen(to + offset) != length;
            bad += length && memchr(to, from[64 - offset], 512) == NULL;
            memmove(to + offset + 3, to + offset, length);
            bad += memcmp(to + offset + 3, from + 64 - offset, length) != 0;
        }
    FACT("string functions wrong", "%u", bad);
    // Reading up to the last byte before an unmapped page must not fault.
    MUST(munmap(from + 3 * PAGE, PAGE));
    char *end = from + 3 * PAGE - 1;
    *end = 0;
    for (int i = 0; i < 64; i++) bad += strlen(end - i) != (size_t)i;
    CHECK("strlen at the end of a mapping", bad == 0);
    return done();
}
