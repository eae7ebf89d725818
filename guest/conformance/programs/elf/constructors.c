//: group = "A"
//: summary = "order of constructors, atexit and destructors; exit status"
//: link = ["static", "static-pie", "dynamic"]
//: status = 42
#include "check.h"

__attribute__((constructor(102))) static void second(void) { puts("constructor 102"); }
__attribute__((constructor(101))) static void first(void) { puts("constructor 101"); }
__attribute__((destructor)) static void last(void) { puts("destructor"); }
static void registered(void) { puts("atexit"); }
static void with_status(int status, void *argument) { printf("on_exit %d %s\n", status, (char *)argument); }

static _Thread_local int in_tls = 11;
static _Thread_local int zero_tls;
static char big_zeros[3 << 20];
static int data[1000] = { [999] = 5 };
static const int *relocated = &data[999];

int main(void) {
    atexit(registered);
    on_exit(with_status, "argument");
    FACT("thread-local", "%d %d", in_tls, zero_tls);
    size_t nonzero = 0;
    for (size_t i = 0; i < sizeof big_zeros; i++) nonzero += big_zeros[i] != 0;
    CHECK("bss is zero", nonzero == 0);
    memset(big_zeros, 1, sizeof big_zeros);
    FACT("relocated pointer", "%d", *relocated);
    exit(42);
}
