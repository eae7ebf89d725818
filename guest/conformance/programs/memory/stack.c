//: group = "A"
//: summary = "the stack grows to nearly 8 MiB; beyond its limit SIGSEGV, caught on an alternate stack"
//: link = ["static", "dynamic"]
#include "check.h"
#include <alloca.h>
#include <setjmp.h>

static long depth_reached;

__attribute__((noinline)) static long recurse(long depth) {
    volatile char frame[1024];
    frame[0] = (char)depth;
    if (depth == 0) return 0;
    depth_reached++;
    return recurse(depth - 1) + frame[0] - (char)depth + 1;
}

__attribute__((noinline)) static void forever(long depth) {
    volatile char frame[4000];
    frame[depth % 4000] = 1;
    depth_reached = depth;
    forever(depth + 1);
    frame[0] = 2;
}

__attribute__((noinline)) static int big_frame(void) {
    volatile char frame[6 << 20];
    // From the far end: one jump over all the guard distance.
    frame[0] = 1;
    frame[sizeof frame - 1] = 2;
    return frame[0] + frame[sizeof frame - 1];
}

static sigjmp_buf back;
static char *low_mark;
static siginfo_t info;
static void overflow(int number, siginfo_t *from, void *context) {
    info = *from;
    siglongjmp(back, number);
}

int main(void) {
    FACT("recursion of 6 MiB", "%ld", recurse(6000));
    FACT("one frame of 6 MiB", "%d", big_frame());
    CHILD("endless recursion") forever(0);

    stack_t alternate = { .ss_sp = malloc(65536), .ss_size = 65536 };
    MUST(sigaltstack(&alternate, NULL));
    handle_info(SIGSEGV, overflow, SA_ONSTACK);
    char here;
    low_mark = &here;
    int number = sigsetjmp(back, 1);
    if (number == 0) forever(0);
    FACT("caught", "%s", signal_name(number));
    size_t distance = (size_t)(low_mark - (char *)info.si_addr);
    CHECK("near the limit", distance > (7 << 20) && distance < (9 << 20));
    CHECK("depth", depth_reached > 1700 && depth_reached < 2100);
    // And again: the handler's stack is free once more.
    number = sigsetjmp(back, 1);
    if (number == 0) forever(0);
    FACT("caught again", "%s", signal_name(number));
    FACT("still works", "%ld", recurse(5000));
    CHILD("without an alternate stack the handler cannot run") {
        stack_t none = { .ss_flags = SS_DISABLE };
        sigaltstack(&none, NULL);
        forever(0);
    }
    // The kernel reads and writes stack pages that were never touched.
    int p[2];
    MUST(pipe(p));
    MUST(write(p[1], "deep", 5));
    char *deep = alloca(3 << 20);
    FACT("read to untouched stack", "%zd", read(p[0], deep, 5));
    FACT("text", "%s", deep);
    return done();
}
